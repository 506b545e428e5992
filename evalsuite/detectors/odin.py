"""ODIN: the largest probability at a high temperature, after a small step that increases it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SkippedError
from evalsuite.metrics.logits import msp
from evalsuite.models.inference import BATCH_SIZE, evaluation_mode, gradient_obstacle

if TYPE_CHECKING:
    from evalsuite.types import Array, Floats

TEMPERATURE = 1000.0
EPSILON = 0.0014
"""Length of the step, on [0, 1] images; both are those of the paper for most of its networks."""


def odin(
    model: nn.Module,
    images: Array,
    *,
    temperature: float = TEMPERATURE,
    epsilon: float = EPSILON,
    device: str | torch.device = "cpu",
) -> Floats:
    """Returns minus the largest probability of ``logits(x - epsilon * sign(gradient)) / temperature``, (N,).

    The gradient is that of the cross-entropy of ``logits(x) / temperature`` to the predicted class. Published code
    takes steps of epsilon / std on normalised images, which is this step on images in [0, 1]. A zero gradient
    makes no step (OpenOOD makes a positive one), and steps may leave [0, 1] as in all implementations.

    Args:
        model: Takes float images in [0, 1], returns logits; its weights need no gradients.
        images: uint8 or float32 in [0, 1], (N, C, H, W).
        temperature: T.
        epsilon: Length of the step, on [0, 1] images.
        device: Device of the model.

    Returns:
        float64, larger = more out of distribution.

    Raises:
        SkippedError: If the model has no gradients.

    References:
        Liang et al. 2018, "Enhancing the reliability of out-of-distribution image detection in neural networks",
        equations 1 and 2.
    """
    if obstacle := gradient_obstacle(model):
        raise SkippedError(f"the model has no gradients ({obstacle}), which ODIN needs")
    logits = []
    with evaluation_mode(model):
        for start in range(0, len(images), BATCH_SIZE):
            batch = _batch(images, start).to(device)
            stepped = batch - epsilon * _gradient(model, batch, temperature).sign()
            with torch.no_grad():
                logits.append(model(stepped).to("cpu", torch.float64).numpy())
    return msp(np.concatenate(logits)[: len(images)] / temperature)


def _batch(images: Array, start: int) -> Tensor:
    """Images from `start` on; the last batch is padded, as in `evalsuite.models.inference.logits`."""
    rows = np.minimum(np.arange(start, start + BATCH_SIZE), len(images) - 1)
    part = np.ascontiguousarray(images[rows])
    batch = torch.from_numpy(part).to(torch.float32, memory_format=torch.channels_last)
    return batch / 255 if part.dtype == np.uint8 else batch


def _gradient(model: nn.Module, batch: Tensor, temperature: float) -> Tensor:
    """Gradient of the loss of the predicted classes at `batch`."""
    with torch.enable_grad():
        images = batch.clone().requires_grad_()
        tempered = model(images) / temperature
        loss = functional.cross_entropy(tempered, tempered.detach().argmax(1), reduction="sum")
        if not loss.requires_grad:
            raise SkippedError("no gradient reaches the images, and ODIN needs it")
        (gradient,) = torch.autograd.grad(loss, images, allow_unused=True)
    if gradient is None:
        raise SkippedError("no gradient reaches the images, and ODIN needs it")
    return gradient
