"""What layers read: the patches under the kernels of those that lose inputs when a filter goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import UserError
from evalsuite.models.inference import evaluation_mode
from evalsuite.models.surgery.removal import Part

ROWS = 8192
"""Patches that are held at once: few enough for the caches of a processor."""


@dataclass(frozen=True)
class LayerInputs:
    """Is a layer with what it reads, in columns (channel, kernel element), channels first.

    Attributes:
        layer: A convolution or a linear layer.
        columns: Columns of the weight that belong to one channel.
        maps: What arrives, (N, C, H, W) or (N, features).
    """

    layer: nn.Module
    columns: int
    maps: Tensor

    @property
    def weight(self) -> Tensor:
        """Weights, (out, channels * columns)."""
        return self.layer.get_parameter("weight").detach().flatten(1)

    @property
    def channels(self) -> int:
        """Number of channels that it reads."""
        return self.weight.shape[1] // self.columns

    @property
    def patches(self) -> int:
        """Patches per image."""
        return int(_patches(self.layer, self.maps[:1]).shape[0])

    def rows(self) -> Iterator[Tensor]:
        """Yields all patches, at most `ROWS` at once unless one image has more, (rows, channels * columns)."""
        per_chunk = max(1, ROWS // self.patches)
        for part in torch.split(self.maps, per_chunk):
            yield _patches(self.layer, part)


def layer_inputs(model: nn.Module, consumers: Iterable[Part], images: Tensor) -> dict[str, LayerInputs]:
    """Returns the layers that read some channels, by name, with what arrives from `images`.

    Args:
        model: Is shown the images in evaluation mode and left as it was.
        consumers: As `channel_groups` names them.
        images: Float in [0, 1], (N, C, H, W).
    """
    wanted = {consumer.name: consumer.columns for consumer in consumers}
    seen: dict[str, list[Tensor]] = {name: [] for name in wanted}

    handles = [
        model.get_submodule(name).register_forward_pre_hook(_recorder(into)) for name, into in seen.items()
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            for part in torch.split(images, 32):
                model(part)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, columns in wanted.items():
        layer = model.get_submodule(name)
        kernel = layer.get_parameter("weight")[0, 0].numel()
        found[name] = LayerInputs(layer, columns * kernel, torch.cat(seen[name]))
    return found


def _recorder(into: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        into.append(inputs[0])

    return record


def _patches(layer: nn.Module, maps: Tensor) -> Tensor:
    if not isinstance(layer, nn.Conv2d):
        return maps
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise UserError(
            f"a convolution pads with {layer.padding_mode!r}, {layer.padding!r}, expected zeros and numbers; "
            "use a producer that looks at the filters alone"
        )
    unfolded = functional.unfold(
        maps, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    return unfolded.transpose(1, 2).flatten(0, 1)
