"""The inputs of layers: the patches under the kernels of those that lose inputs when a filter is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import UserError
from evalsuite.models.inference import evaluation_mode
from evalsuite.models.surgery.channel_removal import ChannelSlice

PATCHES_PER_CHUNK = 8192
"""Patches that are held at once: few enough for the caches of a processor."""


@dataclass(frozen=True)
class LayerInputs:
    """A layer with its inputs, in columns (channel, kernel element), channels first.

    Attributes:
        layer: A convolution or a linear layer.
        columns: Columns of the weight that belong to one channel.
        inputs: Feature inputs, (N, C, H, W), vectors, (N, features), or tokens, (N, T, features).
    """

    layer: nn.Module
    columns: int
    inputs: Tensor

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
        return int(_patches(self.layer, self.inputs[:1]).shape[0])

    def rows(self) -> Iterator[Tensor]:
        """Yields all patches, (rows, channels * columns): `PATCHES_PER_CHUNK` at once, or those of one image."""
        per_chunk = max(1, PATCHES_PER_CHUNK // self.patches)
        for part in torch.split(self.inputs, per_chunk):
            yield _patches(self.layer, part)


def layer_inputs(
    model: nn.Module, consumers: Iterable[ChannelSlice], images: Tensor
) -> dict[str, LayerInputs]:
    """Returns the layers that read some channels, by name, with their inputs for `images`.

    Args:
        model: It sees the images in evaluation mode and is not changed.
        consumers: As `channel_groups` names them.
        images: Float in [0, 1], (N, C, H, W).
    """
    columns_of = {consumer.name: consumer.columns for consumer in consumers}
    recorded: dict[str, list[Tensor]] = {name: [] for name in columns_of}

    handles = [
        model.get_submodule(name).register_forward_pre_hook(_recorder(inputs))
        for name, inputs in recorded.items()
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            for part in torch.split(images, 32):
                model(part)
    finally:
        for handle in handles:
            handle.remove()
    readers = {}
    for name, columns in columns_of.items():
        layer = model.get_submodule(name)
        kernel = layer.get_parameter("weight")[0, 0].numel()
        readers[name] = LayerInputs(layer, columns * kernel, torch.cat(recorded[name]))
    return readers


def _recorder(records: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        records.append(inputs[0])

    return record


def _patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    if not isinstance(layer, nn.Conv2d):
        return inputs.flatten(0, -2)  # of tokens, each is a patch
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise UserError(
            f"a convolution pads with {layer.padding_mode!r}, {layer.padding!r}, expected zeros and numbers; "
            "use a producer that looks at the filters alone"
        )
    unfolded = functional.unfold(
        inputs, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    return unfolded.transpose(1, 2).flatten(0, 1)
