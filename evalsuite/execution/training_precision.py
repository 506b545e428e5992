"""The precision of trainings in a suite that leaves it open: that of the run folder, else what the device computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from evalsuite.config.suite import Suite
from evalsuite.errors import StoreError
from evalsuite.runs.store import Store
from evalsuite.training.precision import AUTOMATIC, with_precision
from evalsuite.training.recipe import Precision, Recipe


def with_training_precision(suite: Suite, device: torch.device, store: Store) -> Suite:
    """Returns the suite with a precision for each recipe that leaves it open, and a note of which it is.

    A run that goes on keeps its precision, on whichever machine: trainings in two precisions cannot be compared.

    Args:
        suite: The suite.
        device: Where its networks are trained.
        store: The run folder.
    """
    recipes = {"recipe": suite.recipe, "retraining": suite.retraining, **suite.retrainings}
    chosen = {
        label: with_precision(recipe, device).precision
        for label, recipe in recipes.items()
        if recipe.precision == AUTOMATIC
    }
    if not chosen:
        return suite
    chosen |= {label: precision for label, precision in _kept(store).items() if label in chosen}

    def settled(label: str, recipe: Recipe) -> Recipe:
        return replace(recipe, precision=chosen.get(label, recipe.precision))

    computed = " and ".join(sorted(set(chosen.values())))
    return replace(
        suite,
        recipe=settled("recipe", suite.recipe),
        retraining=settled("retraining", suite.retraining),
        retrainings={label: settled(label, recipe) for label, recipe in suite.retrainings.items()},
        notes=(*suite.notes, f"Training: precision = 'auto' is {computed} here."),
    )


def _kept(store: Store) -> dict[str, Precision]:
    """The precisions of an earlier start in this folder, by recipe; none if there was no start."""
    try:
        suite: Mapping[str, Any] = store.record().get("suite", {})
    except StoreError:
        return {}
    tables = {name: suite.get(name) for name in ("recipe", "retraining")} | suite.get("retrainings", {})
    return {label: table["precision"] for label, table in tables.items() if table and "precision" in table}
