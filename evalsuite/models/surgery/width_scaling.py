"""Width scaling: the same architecture with other numbers of outputs, to which all other shapes adapt."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evalsuite.errors import SkippedError, first_line
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.inference import evaluation_mode, temporary_hooks
from evalsuite.models.surgery.channel_selection import ChannelSelection
from evalsuite.models.surgery.width_inference import layer_tensors, replace_tensor, update_channel_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    LayerVisitor = Callable[[str, nn.Module, Tensor], None]  # name, layer, its input


def scalable_widths(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """Returns the layers whose number of outputs may be chosen, in order of execution, with that number.

    They are convolutions of one group and linear layers, all but the last one, which computes the logits.

    Args:
        model: It is left as it was.
        image_shape: Of one image, (C, H, W).
    """
    widths: dict[str, int] = {}

    def record(name: str, layer: nn.Module, _: Tensor) -> None:
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            widths.pop(name, None)
            widths[name] = len(layer.get_parameter("weight"))

    _visit_layers(model, image_shape, record)
    return dict([*widths.items()][:-1])


def with_widths(model: nn.Module, widths: Mapping[str, int], image_shape: Sequence[int]) -> nn.Module:
    """Returns a copy of `model` whose layers have `widths` outputs, and as many inputs as they then receive.

    Tensors of another shape are all zeros: draw them anew. Batch norms, depthwise convolutions and selections
    of channels adapt to their inputs.

    Args:
        model: It is left as it was.
        widths: Names from `scalable_widths` to outputs, 1 or more; the others keep theirs.
        image_shape: Of one image, (C, H, W).

    Raises:
        SkippedError: If a layer cannot adapt, or the forward pass fails: layers that meet in an addition
            need the same width.
    """
    scaled = copy.deepcopy(model)

    def adapt(name: str, layer: nn.Module, maps: Tensor) -> None:
        inputs = maps.shape[-1 if isinstance(layer, nn.Linear) else 1]
        for key, shape in _shapes(name, layer, inputs, widths.get(name)).items():
            if getattr(layer, key).shape != shape:
                fill = 1.0 if isinstance(layer, ChannelSelection) else 0.0
                replace_tensor(layer, key, getattr(layer, key).detach().new_full(shape, fill))
        if not isinstance(layer, ChannelSelection):
            update_channel_counts(layer)

    try:
        _visit_layers(scaled, image_shape, adapt)
    except SkippedError:
        raise
    except Exception as error:  # the network's own code may fail in any way
        raise SkippedError(
            f"{type(unwrap_model(model)).__name__} has no thinner version: its forward pass fails with other widths "
            f"({first_line(error)})"
        ) from error
    return scaled


def _visit_layers(model: nn.Module, image_shape: Sequence[int], visit: LayerVisitor) -> None:
    """Runs `model` on one black image and calls `visit` before each layer with tensors of its own runs."""
    hooks = temporary_hooks(
        layer.register_forward_pre_hook(_hook(name, visit))
        for name, layer in model.named_modules()
        if [*layer.children()] == [] and [*layer_tensors(layer)]
    )
    with hooks, evaluation_mode(model), torch.no_grad():
        model(next(model.parameters()).new_zeros((1, *image_shape)))


def _hook(name: str, visit: LayerVisitor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not inputs:
            raise SkippedError(
                f"layer {name} gets its input by name, so that its width is not seen; expected a plain argument"
            )
        visit(name, layer, inputs[0])

    return before


def _shapes(name: str, layer: nn.Module, inputs: int, outputs: int | None) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a layer's tensors for so many input channels; ``None`` outputs: as many as before."""
    if isinstance(layer, _BatchNorm | ChannelSelection):
        return {key: (inputs,) for key, tensor in layer_tensors(layer) if tensor.dim() == 1}
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
        outputs, inputs = inputs * (layer.out_channels // layer.groups), 1
    outputs = len(weight) if outputs is None else outputs
    shapes = {"weight": (outputs, inputs, *weight.shape[2:])}
    return shapes if layer.bias is None else shapes | {"bias": (outputs,)}
