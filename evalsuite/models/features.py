"""Penultimate features: what the classifier, the last linear layer, turns into logits.

They are caught in the pass that makes the logits. A layer counts as the classifier only if it is applied once
and its weights turn the features into the very logits that the model returns, which is checked for every
image: features of another layer would make numbers that look right.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import SkippedError
from evalsuite.models.inference import logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from evalsuite.types import Array

ROUNDING = 1e-5
"""How far W f + b may be from the logits, as a share of the sum of the terms' magnitudes: float32 sums of a
thousand terms differ by a hundredth of it, half precision by a hundred times as much."""


@dataclass(frozen=True)
class Head:
    """Is the classifier: ``logits = weight @ features + bias``.

    Attributes:
        weight: W, float32 (K, D).
        bias: b, float32 (K,); zeros if the layer has none.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def classifier(model: nn.Module, images: Array, *, device: str | torch.device = "cpu") -> nn.Linear:
    """Returns the last linear layer of a model, whose input are the penultimate features.

    Args:
        model: A prepared model.
        images: A few images to look at, uint8 or float32 in [0, 1], (N, C, H, W).
        device: Where the model is.

    Raises:
        SkippedError: If no linear layer that is applied once makes the logits; the sentence says so.
    """
    found = _called_last(model, images, device)
    if found is None:
        raise SkippedError(
            "the model has no penultimate features: it applies no linear layer that can be seen (whole "
            "programs and classifiers made of convolutions have none); use detectors that need logits alone"
        )
    features_and_logits(model, images, found, device=device)  # a layer of something else is refused now
    return found


def features_and_logits(
    model: nn.Module, images: Array, layer: nn.Linear, *, device: str | torch.device = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the input of `layer` and the logits for all `images`, from one pass.

    Args:
        model: A prepared model.
        images: uint8 or float32 in [0, 1], (N, C, H, W).
        layer: Its classifier, see `classifier`.
        device: Where the model is.

    Returns:
        Features, float32 (N, D), and logits, float32 (N, K).

    Raises:
        SkippedError: If the layer does not turn these features into these logits.
        InvalidModelError: If the model returns no finite (N, K) logits.
    """
    with _caught(layer) as batches:
        values = logits(model, images, device=device)
    shapes = {batch.shape[1:] for batch in batches}
    if shapes != {(layer.in_features,)} or sum(map(len, batches)) < len(images):
        raise SkippedError(
            "the model has no penultimate features: its last linear layer does not take one vector per image"
        )
    features: NDArray[np.float32] = torch.cat(batches)[: len(images)].numpy()
    _check(features, values, head(layer))
    return features, values


def head(layer: nn.Linear) -> Head:
    """Returns the weights of a classifier as they are applied."""
    weight = layer.weight.detach().to("cpu", torch.float32).numpy()
    bias = (
        np.zeros(len(weight), np.float32) if layer.bias is None else layer.bias.detach().cpu().float().numpy()
    )
    return Head(weight, bias)


@contextlib.contextmanager
def _caught(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what goes into `layer`, batch after batch."""
    batches: list[Tensor] = []

    def catch(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        vectors = (*inputs, *named.values())[0]
        batches.append(vectors.detach().to("cpu", torch.float32, copy=True))  # the model may go on in place

    handle = layer.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield batches
    finally:
        handle.remove()


def _called_last(model: nn.Module, images: Array, device: str | torch.device) -> nn.Linear | None:
    """The linear layer that is called last, in the order of execution."""
    called: list[nn.Linear] = []

    def note(layer: nn.Module, _: object) -> None:
        if isinstance(layer, nn.Linear):
            called.append(layer)

    layers = (module for module in model.modules() if isinstance(module, nn.Linear))
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        logits(model, images, device=device)
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


def _check(features: NDArray[np.float32], values: NDArray[np.float32], classifier: Head) -> None:
    weight, bias = classifier.weight, classifier.bias
    if weight.shape[0] != values.shape[1]:
        raise SkippedError(
            f"the model has no penultimate features: its last linear layer has {weight.shape[0]} outputs "
            f"and the model returns {values.shape[1]} logits"
        )
    gap = np.abs(features @ weight.T + bias - values)
    scale = np.abs(features) @ np.abs(weight).T + np.abs(bias)
    if not (gap <= ROUNDING * scale).all():
        raise SkippedError(
            "the model has no penultimate features: its logits differ from what its last linear layer "
            f"returns by up to {gap.max():.3g}; leave out what follows it, or is applied in other precision"
        )
