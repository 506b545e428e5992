"""Layers that a pruning tool removed by setting all their weights to zero, and that its network then skipped.

Such a checkpoint belongs to one of two networks, and does not record to which: one in which the convolution still
exists and adds nothing but the bias of its batch norm, or one in which convolution and batch norm are replaced by the
identity. Weights that were fine-tuned as one of them are useless as the other, so a layer is skipped only if the user
asks for it; `probe_bypass` measures both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.checkpoints.loading import build_with_weights, load_candidate
from evalsuite.models.inference import logits
from evalsuite.models.surgery.fx_graph import is_unmodified, trace_graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalsuite.models.architectures.base import Architecture
    from evalsuite.models.surgery.fx_graph import TracedGraph
    from evalsuite.types import Array

DEAD = "dead"
"""In the setting `bypass`: all layers that `dead_layers` finds."""


@dataclass(frozen=True, slots=True)
class BypassProbe:
    """The accuracy of weights with dead layers, kept and skipped.

    Attributes:
        layers: The dead layers.
        kept: Share of images that are classified correctly with the layers kept.
        skipped: The same with the layers skipped.
        n: Number of images.
    """

    layers: tuple[str, ...]
    kept: float
    skipped: float
    n: int

    @property
    def sentence(self) -> str:
        """A sentence for the user."""
        better = "skipped" if self.skipped > self.kept else "kept"
        return (
            f"{len(self.layers)} layers were removed by setting a whole convolution to zero "
            f"({', '.join(self.layers)}): accuracy on {self.n} images is {self.kept:.1%} with them kept and "
            f"{self.skipped:.1%} with them skipped, so they are probably meant to be {better}"
        )


def dead_layers(model: nn.Module) -> tuple[str, ...]:
    """Returns the convolutions whose weights are all zero, and the batch norms that only they feed.

    Only where the identity can take their place: as many output channels as inputs, of the same size. A
    convolution with a bias of its own is dead, too: its output is the same everywhere.

    Raises:
        InvalidModelError: If there is such a convolution and the data flow cannot be traced.
    """
    network = unwrap_model(model)
    convolutions = {name for name, module in network.named_modules() if _is_dead(module)}
    if not convolutions:
        return ()
    graph = trace_graph(network)
    layers: list[str] = []
    for node in graph.nodes:
        if node.target in convolutions and graph.is_called_once(node):
            layers += [str(node.target), *_following_norm(graph, str(node.target))]
    return tuple(layers)


def with_bypass(architecture: Architecture, layers: tuple[str, ...]) -> Architecture:
    """Returns `architecture` with `layers` skipped, beside those that it skips already."""
    return dataclasses.replace(architecture, bypass=tuple(dict.fromkeys((*architecture.bypass, *layers))))


def bypass_dead_layers(weights: Mapping[str, Tensor], architecture: Architecture) -> Architecture:
    """Returns `architecture` with the dead layers of `weights` skipped: for tools whose networks skip them.

    Args:
        weights: As `read_weights` returns them.
        architecture: What they were trained as.

    Raises:
        CheckpointError: If the weights do not fit.
        InvalidModelError: If a layer is dead and the data flow cannot be traced.
    """
    return with_bypass(architecture, dead_layers(build_with_weights(architecture, weights)))


def probe_bypass(
    weights: Mapping[str, Tensor], architecture: Architecture, images: Array, labels: NDArray[np.int64]
) -> BypassProbe | None:
    """Returns the accuracy with dead layers kept and skipped; ``None`` if no layer is dead.

    Args:
        weights: As `read_weights` returns them.
        architecture: What they were trained as.
        images: uint8, or float32 in [0, 1], (N, C, H, W); a few hundred are enough, and they should not be
            those of the test.
        labels: int64, (N,).

    Raises:
        CheckpointError: If the weights do not fit.
    """
    shape = images.shape[1:]
    kept = load_candidate(weights, architecture, image_shape=shape)
    layers = dead_layers(kept)
    if not layers:
        return None
    skipped = load_candidate(weights, with_bypass(architecture, layers), image_shape=shape)
    accuracy = [float((logits(model, images).argmax(1) == labels).mean()) for model in (kept, skipped)]
    return BypassProbe(layers, accuracy[0], accuracy[1], len(labels))


def _is_dead(module: nn.Module) -> bool:
    """Returns whether a convolution's weights are all zero and its output has the shape of its input."""
    if (
        not isinstance(module, nn.Conv2d)
        or not is_unmodified(module)
        or module.in_channels != module.out_channels
    ):
        return False
    sides = zip(module.dilation, module.kernel_size, strict=True)
    spans = [dilation * (size - 1) for dilation, size in sides]
    is_padded = module.padding == "same" or [2 * int(side) for side in module.padding] == spans
    return is_padded and set(module.stride) == {1} and not module.weight.any()


def _following_norm(graph: TracedGraph, conv: str) -> list[str]:
    """Returns the batch norm that reads the convolution, if nothing else does."""
    node = next(node for node in graph.nodes if node.target == conv)
    users = list(node.users)
    if (
        len(users) == 1
        and isinstance(graph.module(users[0]), nn.BatchNorm2d)
        and graph.is_called_once(users[0])
    ):
        return [str(users[0].target)]
    return []
