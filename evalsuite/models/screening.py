"""Screened precision: most likely classes from bfloat16 passes, with single precision where the margin is small.

A pass in bfloat16 moves logits by a few hundredths. A most likely class changes only where its margin, the difference
to the second largest logit, is smaller than twice the largest move. So images whose margin is below a bound are passed
again in single precision. The bound is `SAFETY` times the largest move of the same network's logits on images that are
passed in both precisions: some clean ones, and some of the set. It rises, and more images are passed again, as long as
those show a larger move. That is empirical, no proof; ``tests/benchmarks/screening.py`` counts what differs on the
published ResNet-20. Likelihoods, calibration, features and attacks are never screened.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.models.inference import BATCH_SIZE, InferenceModel, logits

if TYPE_CHECKING:
    from evalsuite.types import Array, InferencePrecision

EXACT: InferencePrecision = "exact"
SCREENED: InferencePrecision = "screened"

SAFETY = 3.0
"""The bound of margins, in units of the largest move of a logit: above 2, for no image was looked at twice."""
PROBED = 128
"""Images of each set that are passed in both precisions, evenly spaced."""
GAIN = 1.5
"""Factor by which bfloat16 must be faster: the images that are passed twice take a part of it."""
_ROUNDS = 5

Logits = Callable[["Array"], "Array"]
"""Images to logits, float32 (N, K)."""


@dataclass(frozen=True)
class Screening:
    """The outputs of a network on an image set, in screened precision.

    Attributes:
        logits: float32 (N, K): of single precision where `again`, else of bfloat16. Their most likely classes are those
            of single precision.
        again: Which images were passed again, bool (N,).
        changed: How many of these have another most likely class in bfloat16.
        bound: Margin below which images were passed again.
    """

    logits: Array
    again: Array
    changed: int
    bound: float


class HalfModel(InferenceModel):
    """A prepared model whose convolutions and matrix products are in bfloat16, and what is sensitive in float32.

    Args:
        prepared: As `evalsuite.models.inference.prepare_for_inference` returns it.
    """

    def __init__(self, prepared: InferenceModel) -> None:
        super().__init__(copy.deepcopy(prepared.model))
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)  # once, and not for each batch

    def forward(self, images: Tensor) -> object:
        """Returns the logits of float images in [0, 1]."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return super().forward(images)


def screen(exact: Logits, half: Logits, images: Array, *, move: float = 0.0) -> Screening:
    """Returns outputs whose most likely classes are those of single precision.

    Args:
        exact: The network in single precision.
        half: The same in bfloat16.
        images: uint8 or float32, (N, C, H, W).
        move: Largest move of a logit that is known from other images.
    """
    values = half(images).copy()
    first = values.argmax(axis=1)
    again = np.zeros(len(images), bool)
    again[_spread(len(images))] = True
    pending = again.copy()
    while True:
        rows = np.flatnonzero(pending)
        if len(rows):
            single = exact(np.asarray(images[rows]))
            move = max(move, float(np.abs(single - values[rows]).max()))
            values[rows] = single
        pending = (_margins(values) < SAFETY * move) & ~again
        if not pending.any():
            changed = int((values.argmax(axis=1) != first).sum())
            return Screening(values, again, changed, SAFETY * move)
        again |= pending


def largest_move(exact: Logits, half: Logits, images: Array) -> float:
    """Returns the largest move of a logit on some images of a set, evenly spaced."""
    chosen = np.asarray(images[_spread(len(images))])
    return float(np.abs(half(chosen) - exact(chosen)).max())


def precision_gain(exact: InferenceModel, half: InferenceModel, images: Array) -> float:
    """Returns the time of a pass in single precision over that of one in bfloat16: processor time, but on a card.

    Args:
        exact: A prepared model.
        half: The same in bfloat16.
        images: At least one.
    """
    batch = np.resize(images[:BATCH_SIZE], (BATCH_SIZE, *images.shape[1:]))
    device = next((parameter.device for parameter in exact.parameters()), torch.device("cpu"))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    best = [float("inf"), float("inf")]
    for turn in range(_ROUNDS + 1):
        for place, model in enumerate((exact, half)):
            started = clock()
            logits(model, batch, device=device)
            if turn:  # the first is not timed
                best[place] = min(best[place], clock() - started)
    return best[0] / max(best[1], 1e-9)


def _spread(count: int) -> Array:
    """Rows of a probe: at most `PROBED`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(PROBED, count)).round().astype(int))


def _margins(values: Array) -> Array:
    """Differences between the largest and the second largest logit of each image, float32 (N,)."""
    two = np.partition(values, -2, axis=1)[:, -2:]
    margins: Array = two[:, 1] - two[:, 0]
    return margins
