"""A context on a few digits, and one in which nothing is trained, to see the pruning alone."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.producers.base import Context
from evalsuite.producers.unstructured.base import apply_masks
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet


@pytest.fixture
def small_origin(quick: Recipe) -> Origin:
    """A plain network of 1,190 parameters, trained for three steps."""
    return Origin(SmallCNN(widths=(4, 4, 8, 8)), 7, quick)


@pytest.fixture
def small_context(few: ImageSet, quick: Recipe, small_origin: Origin) -> Context:
    return Context(few, quick, seed=3, origin=small_origin)


@pytest.fixture
def small_parent(small_context: Context) -> nn.Module:
    return small_context.rewound(1)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Applies masks in place of every training, and lists the arguments of the trainings."""
    trainings: list[dict[str, Any]] = []

    def masked(_: Context, model: nn.Module, ratio: float, **options: Any) -> None:
        trainings.append({"ratio": ratio, **options})
        apply_masks(model, options.get("masks") or {})
        model.eval()

    monkeypatch.setattr(Context, "fit", masked)
    return trainings
