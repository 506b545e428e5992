"""Fixtures of the compat tests."""

from __future__ import annotations

import math
import socket
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from evalsuite.compat.robustbench import robustbench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHAPE = (1, 4, 4)


class Flat(nn.Module):
    """Is a linear classifier of images."""

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
    """Says class 0, with gradients that are zero."""

    def forward(self, images: Tensor) -> Tensor:
        none = 0 * images.flatten(1).sum(1)
        return torch.stack([none + 1, none], 1)


@pytest.fixture
def two_class() -> Callable[[int], tuple[nn.Module, Tensor, Tensor, Tensor]]:
    return linear_problem


@pytest.fixture
def constant() -> nn.Module:
    return Constant().eval()


@pytest.fixture
def nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Holds a test to an empty working directory, silence, no network and untouched modules."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network")

    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    library = robustbench()
    modules = [library.eval, library.utils, library.data, sys.modules["pyautoattack.checks"]]
    before = [dict(vars(module)) for module in modules]
    yield
    assert tuple(capfd.readouterr()) == ("", "")
    assert list(place.iterdir()) == []
    assert [dict(vars(module)) for module in modules] == before
    assert "autoattack" not in sys.modules
    assert "pkg_resources" not in sys.modules or hasattr(sys.modules["pkg_resources"], "get_distribution")
