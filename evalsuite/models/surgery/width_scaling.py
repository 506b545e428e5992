"""The same architecture with other widths: whoever chooses the outputs of its layers has chosen all shapes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evalsuite.errors import SkippedError
from evalsuite.models.inference import evaluation_mode
from evalsuite.models.surgery.channel_selection import ChannelSelection
from evalsuite.models.surgery.width_inference import count_channels, replace_tensor, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Arrival = Callable[[str, nn.Module, Tensor], None]  # what happens before the layer of a name runs


def free_widths(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """Returns the layers whose number of outputs may be chosen, in order of execution, with that number.

    They are convolutions of one group and linear layers, all but the last one, which gives the logits.

    Args:
        model: Is left as it was.
        image_shape: Of one image, (C, H, W).
    """
    seen: dict[str, int] = {}

    def note(name: str, layer: nn.Module, _: Tensor) -> None:
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            seen.pop(name, None)
            seen[name] = len(layer.get_parameter("weight"))

    _shown(model, image_shape, note)
    return dict([*seen.items()][:-1])


def with_widths(model: nn.Module, widths: Mapping[str, int], image_shape: Sequence[int]) -> nn.Module:
    """Returns a copy of `model` whose layers have `widths` outputs, and as many inputs as then arrive.

    Tensors of another shape are all zeros: draw them anew. Batch norms, depthwise convolutions and selections
    of channels follow what arrives.

    Args:
        model: Is left as it was.
        widths: Names from `free_widths` to outputs, 1 or more; the others keep theirs.
        image_shape: Of one image, (C, H, W).

    Raises:
        SkippedError: If a layer cannot follow, or the forward pass fails: layers that meet in an addition
            need the same width.
    """
    changed = copy.deepcopy(model)

    def follow(name: str, layer: nn.Module, maps: Tensor) -> None:
        arriving = maps.shape[-1 if isinstance(layer, nn.Linear) else 1]
        for key, shape in _shapes(name, layer, arriving, widths.get(name)).items():
            if getattr(layer, key).shape != shape:
                fill = 1.0 if isinstance(layer, ChannelSelection) else 0.0
                replace_tensor(layer, key, getattr(layer, key).detach().new_full(shape, fill))
        if not isinstance(layer, ChannelSelection):
            count_channels(layer)

    try:
        _shown(changed, image_shape, follow)
    except SkippedError:
        raise
    except Exception as error:  # the network's own code may fail in any way
        raise SkippedError(
            f"{type(model).__name__} has no thinner version: its forward pass fails with other widths "
            f"({str(error).strip().partition(chr(10))[0]})"
        ) from error
    return changed


def _shown(model: nn.Module, image_shape: Sequence[int], arrival: Arrival) -> None:
    """Shows `model` one black image; `arrival` sees each layer with tensors of its own before it runs."""
    handles = [
        layer.register_forward_pre_hook(_hook(name, arrival))
        for name, layer in model.named_modules()
        if [*layer.children()] == [] and [*tensors(layer)]
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(next(model.parameters()).new_zeros((1, *image_shape)))
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, arrival: Arrival) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        arrival(name, layer, inputs[0])

    return before


def _shapes(name: str, layer: nn.Module, arriving: int, outputs: int | None) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer's tensors if so many channels arrive."""
    if isinstance(layer, _BatchNorm | ChannelSelection):
        return {key: (arriving,) for key, tensor in tensors(layer) if tensor.dim() == 1}
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise SkippedError(
            f"layer {name} is a {type(layer).__name__}, which cannot be made thinner; expected convolutions, "
            "linear layers and batch norms"
        )
    weight = layer.get_parameter("weight")
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        if layer.groups != layer.in_channels:
            raise SkippedError(
                f"layer {name} has {layer.groups} groups of channels, which cannot be made thinner alike; "
                "expected one group, or one for each channel"
            )
        outputs, arriving = arriving * (layer.out_channels // layer.groups), 1
    outputs = len(weight) if outputs is None else outputs
    shapes = {"weight": (outputs, arriving, *weight.shape[2:])}
    return shapes if layer.bias is None else shapes | {"bias": (outputs,)}
