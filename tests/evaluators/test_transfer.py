"""Adversarial images of the parent, shown to others: on planes, where every step of the attack is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.transfer import Transfer
from evalsuite.execution.measuring import measured, scored
from evalsuite.models.exported.program import ExportedProgram, InputSpec, LoadedProgram
from evalsuite.types import Array, ImageSet

rng = np.random.default_rng(0)
PIXELS = rng.integers(96, 160, (48, 3, 8, 8), dtype=np.uint8)  # no attack meets the ends of [0, 1]
OWN, OTHER = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
LABELS = ((OWN * (PIXELS / 255 - 0.5)).sum((1, 2, 3)) > 0).astype(np.int64)
LABELS[::8] = 1 - LABELS[::8]


class Plane(nn.Module):
    """Separates by a plane: PGD ends at the corner of the ball that its normal points to."""

    normal: Tensor

    def __init__(self, normal: Array) -> None:
        super().__init__()
        self.register_buffer("normal", torch.from_numpy(normal))

    def forward(self, images: Tensor) -> Tensor:
        side = ((images - 0.5) * self.normal).sum((1, 2, 3))
        return torch.stack([-side, side], 1)


def bench(model: nn.Module, parent: Bench | None = None) -> Bench:
    return Bench(model, ImageSource(ImageSet("grey", PIXELS, LABELS, 2), Place()), parent=parent)


def quantised(normal: Array, obstacle: str = "its levels have no slope") -> nn.Module:
    loaded = LoadedProgram(Plane(normal), InputSpec(), gradient_obstacle=obstacle)
    return ExportedProgram(loaded, "ONNX")


def right_at_corners(normal: Array, epsilon: float) -> Array:
    """Whether a plane is right before the attack on the parent and at the corner where it ends."""
    away = np.where(LABELS == 1, -1, 1)[:, None, None, None] * np.sign(OWN)
    sides = [
        (normal * (images - 0.5)).sum((1, 2, 3)) > 0
        for images in (PIXELS / 255, PIXELS / 255 + epsilon * away)
    ]
    right: Array = (sides[0] == LABELS) & (sides[1] == LABELS)
    return right


@pytest.mark.parametrize("normal", [OWN, OTHER, OWN + OTHER], ids=["the same", "another", "a relative"])
def test_a_model_without_gradients_sees_where_the_attack_on_its_parent_ended(normal: Array) -> None:
    parent = bench(Plane(OWN))
    radii = (0.5, 2.0)
    scores = scored(Transfer(radii, steps=20), bench(quantised(normal), parent))
    assert [score.condition for score in scores] == ["linf-pgd of parent/0.5:255", "linf-pgd of parent/2:255"]
    for radius, score in zip(radii, scores, strict=True):
        np.testing.assert_array_equal(score.evidence["test"], right_at_corners(normal, radius / 255))
    own = scored(Transfer(radii, steps=20), parent)
    for radius, score in zip(radii, own, strict=True):
        np.testing.assert_array_equal(score.evidence["test"], right_at_corners(OWN, radius / 255))
    assert not own[1].evidence["test"].all()


def test_a_parent_without_gradients_has_nothing_to_transfer() -> None:
    parent = bench(quantised(OWN))
    cell = measured(Transfer(), bench(Plane(OTHER), parent))
    assert cell.status == "skipped"
    assert cell.reason == (
        "the unpruned network has no gradients (ONNX: its levels have no slope), so nothing can be transferred"
    )


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SuiteError, match=r"transfer: found images = -1"):
        Transfer(images=-1)
    with pytest.raises(SuiteError, match="epsilons"):
        Transfer(epsilons=())
    with pytest.raises(Exception, match="steps"):
        Transfer(steps=0)
