"""Layers that a tool removed by setting all their weights to zero, and that its network then skipped.

Such a checkpoint does not say which of two networks it belongs to: one in which the convolution is still there
and adds nothing but the bias of its batch norm, or one in which convolution and batch norm are gone and their
input goes on as it is. Weights that were fine-tuned as one of them are useless as the other, so nothing is
skipped unless the user says so; `probe` measures both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from evalsuite.models.architectures.base import core
from evalsuite.models.checkpoints.loading import load_candidate, rebuilt
from evalsuite.models.inference import logits
from evalsuite.models.surgery.graph import flow, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalsuite.models.architectures.base import Architecture
    from evalsuite.models.surgery.graph import Flow
    from evalsuite.types import Array

DEAD = "dead"
"""Among the layers to bypass: all that `dead_layers` finds."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Is the accuracy of weights with dead layers, kept and skipped.

    Attributes:
        layers: The dead layers.
        kept: Share of images that are right with the layers kept.
        skipped: The same with the layers skipped.
        n: Number of images.
    """

    layers: tuple[str, ...]
    kept: float
    skipped: float
    n: int

    @property
    def sentence(self) -> str:
        """What to tell the user."""
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
    network = core(model)
    dead = {name for name, module in network.named_modules() if _is_dead(module)}
    if not dead:
        return ()
    traced = flow(network)
    found: list[str] = []
    for node in traced.nodes:
        if node.target in dead and traced.once(node):
            found += [str(node.target), *_norms(traced, str(node.target))]
    return tuple(found)


def bypassed(architecture: Architecture, layers: tuple[str, ...]) -> Architecture:
    """Returns `architecture` with `layers` skipped, beside those that it skips already."""
    return dataclasses.replace(architecture, bypass=tuple(dict.fromkeys((*architecture.bypass, *layers))))


def without_dead(weights: Mapping[str, Tensor], architecture: Architecture) -> Architecture:
    """Returns `architecture` with the dead layers of `weights` skipped: for tools that are known to skip them.

    Args:
        weights: As `read_weights` returns them.
        architecture: What they were trained as.

    Raises:
        CheckpointError: If the weights do not fit.
        InvalidModelError: If a layer is dead and the data flow cannot be traced.
    """
    return bypassed(architecture, dead_layers(rebuilt(architecture, weights)))


def probe(
    weights: Mapping[str, Tensor], architecture: Architecture, images: Array, labels: NDArray[np.int64]
) -> Probe | None:
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
    skipped = load_candidate(weights, bypassed(architecture, layers), image_shape=shape)
    right = [float((logits(model, images).argmax(1) == labels).mean()) for model in (kept, skipped)]
    return Probe(layers, right[0], right[1], len(labels))


def _is_dead(module: nn.Module) -> bool:
    """Whether a convolution's weights are all zero and the identity has the shape of its output."""
    if not isinstance(module, nn.Conv2d) or not plain(module) or module.in_channels != module.out_channels:
        return False
    sides = zip(module.dilation, module.kernel_size, strict=True)
    spans = [dilation * (size - 1) for dilation, size in sides]
    padded = module.padding == "same" or [2 * int(side) for side in module.padding] == spans
    return padded and set(module.stride) == {1} and not module.weight.any()


def _norms(traced: Flow, conv: str) -> list[str]:
    """The batch norm that reads the convolution, if nothing else does."""
    node = next(node for node in traced.nodes if node.target == conv)
    users = list(node.users)
    if len(users) == 1 and isinstance(traced.module(users[0]), nn.BatchNorm2d) and traced.once(users[0]):
        return [str(users[0].target)]
    return []
