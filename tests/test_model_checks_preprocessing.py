"""A network that was trained on other images than it is shown gives itself away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.model_checks import doubt
from evalsuite.models.architectures.base import Normalized

MEAN, STD = (0.6, 0.5, 0.4), (0.3, 0.2, 0.25)


class Threshold(nn.Module):
    """Says 1 where the mean of what it sees is above its border."""

    def __init__(self, border: float) -> None:
        super().__init__()
        self.border = border

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean(dim=(1, 2, 3)) - self.border
        return torch.stack([-level, level], dim=1) * 5


images = np.random.default_rng(0).integers(0, 256, (300, 3, 8, 8)).astype(np.uint8)
images = (images * np.linspace(0.2, 1, 300)[:, None, None, None]).astype(np.uint8)
LEVEL = images.mean(axis=(1, 2, 3)) / 255
BORDER = float(np.median(LEVEL))
LABELS = (LEVEL > BORDER).astype(np.int64)


def seen(mean: tuple[float, ...], std: tuple[float, ...]) -> float:
    """The border as a network sees it that was trained behind this preprocessing."""
    return float(np.mean([(BORDER - m) / s for m, s in zip(mean, std, strict=True)]))


@pytest.mark.parametrize(
    ("trained", "given", "warning"),
    [
        ((MEAN, STD), (MEAN, STD), ""),
        (((0.0,) * 3, (1.0,) * 3), (MEAN, STD), "without normalisation"),
        (((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3), "mean and standard deviation 0.5"),
    ],
    ids=["right", "not at all", "another"],
)
def test_wrong_preprocessing_is_doubted(
    trained: tuple[tuple[float, ...], tuple[float, ...]],
    given: tuple[tuple[float, ...], tuple[float, ...]],
    warning: str,
) -> None:
    model = Normalized(Threshold(seen(*trained)), mean=given[0], std=given[1]).eval()
    found = doubt(model, images, LABELS)
    assert (len(found) == 1 and warning in found[0]) if warning else not found


def test_a_model_that_owns_its_preprocessing_elsewhere_is_left_alone() -> None:
    assert not doubt(Threshold(0.0), images, LABELS)
