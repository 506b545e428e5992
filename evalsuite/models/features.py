"""Penultimate features: the input of the classifier, the last linear layer, which computes the logits from it.

They are recorded in the pass that computes the logits. A layer counts as the classifier only if it is applied once
and its weights turn the features into the very logits that the model returns, which is checked for every
image: features of another layer would give plausible but wrong numbers.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.errors import SkippedError
from evalsuite.models.inference import BATCH_SIZE, logits, temporary_hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from evalsuite.types import Array

ROUNDING = 1e-5
"""How far W f + b may be from the logits, as a share of the sum of the terms' magnitudes: float32 sums of a
thousand terms differ by a hundredth of it, half precision by a hundred times as much."""


@dataclass(frozen=True)
class Head:
    """The classifier: ``logits = weight @ features + bias``.

    Attributes:
        weight: W, float32 (K, D).
        bias: b, float32 (K,); zeros if the layer has none.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def classifier_layer(model: nn.Module, images: Array, *, device: str | torch.device = "cpu") -> nn.Linear:
    """Returns the last linear layer of a model, whose inputs are the penultimate features.

    Args:
        model: As `prepare_for_inference` returns it.
        images: A few images for a trial, uint8 or float32 in [0, 1], (N, C, H, W).
        device: Of the model.

    Raises:
        SkippedError: If no linear layer that is applied once computes the logits; the sentence says why.
    """
    layer = _last_linear_layer(model, images, device)
    if layer is None:
        raise SkippedError(
            "the model has no penultimate features: it applies no linear layer that can be seen (whole "
            "programs and classifiers made of convolutions have none); use detectors that need logits alone"
        )
    features_and_logits(
        model, images, layer, device=device
    )  # refuses a layer that does not compute the logits
    return layer


def features_and_logits(
    model: nn.Module,
    images: Array,
    layer: nn.Linear,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = BATCH_SIZE,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the input of `layer` and the logits for all `images`, from one pass.

    Args:
        model: As `prepare_for_inference` returns it.
        images: uint8 or float32 in [0, 1], (N, C, H, W).
        layer: Its classifier, see `classifier_layer`.
        device: Of the model.
        batch_size: Images per forward pass.

    Returns:
        Features, float32 (N, D), and logits, float32 (N, K).

    Raises:
        SkippedError: If the layer does not turn these features into these logits.
        InvalidModelError: If the model returns no finite (N, K) logits.
    """
    with _recorded_inputs(layer) as batches:
        values = logits(model, images, device=device, batch_size=batch_size)
    shapes = {batch.shape[1:] for batch in batches}
    if shapes != {(layer.in_features,)} or sum(map(len, batches)) < len(images):
        raise SkippedError(
            "the model has no penultimate features: its last linear layer does not take one vector per image"
        )
    features: NDArray[np.float32] = torch.cat(batches)[: len(images)].cpu().numpy()
    _check_head(features, values, classifier_head(layer))
    return features, values


def classifier_head(layer: nn.Linear) -> Head:
    """Returns weight and bias of a classifier in single precision."""
    weight = layer.weight.detach().to("cpu", torch.float32).numpy()
    bias = (
        np.zeros(len(weight), np.float32) if layer.bias is None else layer.bias.detach().cpu().float().numpy()
    )
    return Head(weight, bias)


@contextlib.contextmanager
def _recorded_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Records the inputs of `layer`, batch after batch."""
    batches: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
        vectors = (*inputs, *keywords.values())[0]
        batches.append(vectors.detach().to(torch.float32, copy=True))  # the model may change it in place

    with temporary_hooks([layer.register_forward_pre_hook(record, with_kwargs=True)]):
        yield batches


def _last_linear_layer(model: nn.Module, images: Array, device: str | torch.device) -> nn.Linear | None:
    """Returns the linear layer that is called last, in the order of execution."""
    called: list[nn.Linear] = []

    def record(layer: nn.Module, _: object) -> None:
        if isinstance(layer, nn.Linear):
            called.append(layer)

    layers = (module for module in model.modules() if isinstance(module, nn.Linear))
    with temporary_hooks(layer.register_forward_pre_hook(record) for layer in layers):
        logits(model, images, device=device)
    return called[-1] if called else None


def _check_head(features: NDArray[np.float32], values: NDArray[np.float32], head: Head) -> None:
    weight, bias = head.weight, head.bias
    if weight.shape[0] != values.shape[1]:
        raise SkippedError(
            f"the model has no penultimate features: its last linear layer has {weight.shape[0]} outputs "
            f"and the model returns {values.shape[1]} logits"
        )
    difference = np.abs(features @ weight.T + bias - values)
    scale = np.abs(features) @ np.abs(weight).T + np.abs(bias)
    if not (difference <= ROUNDING * scale).all():
        raise SkippedError(
            "the model has no penultimate features: its logits differ from the output of its last linear layer "
            f"by up to {difference.max():.3g}; remove what follows that layer, or its other precision"
        )
