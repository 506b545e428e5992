"""Networks whose attacks can be worked out by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (1, 4, 4)


class Flat(nn.Module):
    """A linear classifier of images."""

    def __init__(self, classes: int, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(SHAPE), classes)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.copy_(scale * torch.randn(self.linear.weight.shape, generator=draws))
            self.linear.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def pictures(count: int, seed: int = 0) -> Tensor:
    """Returns images around grey, so that small attacks never meet the ends of the range."""
    return 0.3 + 0.4 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def linear_problem(count: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Returns a linear model of two classes, images, their labels, and the normal of its boundary."""
    model = Flat(2, seed=1).eval()
    images = pictures(count)
    with torch.no_grad():
        normal = model.get_parameter("linear.weight")[1] - model.get_parameter("linear.weight")[0]
        centre = (images.flatten(1) @ normal).median()
        model.get_parameter("linear.bias")[0] = centre  # half of the images on either side
    return model, images, predicted(model, images), normal


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = model(images).argmax(1)
    return labels


class Constant(nn.Module):
    """A classifier that always predicts class 0, with gradients that are zero."""

    def forward(self, images: Tensor) -> Tensor:
        none = 0 * images.flatten(1).sum(1)
        return torch.stack([none + 1, none], 1)


@pytest.fixture
def two_class() -> Callable[[int], tuple[nn.Module, Tensor, Tensor, Tensor]]:
    return linear_problem


@pytest.fixture
def constant() -> nn.Module:
    return Constant().eval()
