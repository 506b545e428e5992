"""Exemplars over seeds on planted predictions: who counts, what is left out, and the accuracy on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evalsuite.results.tables import EXEMPLAR_COLUMNS, exemplar_table
from evalsuite.runs.store import Key
from evalsuite.statistics.rates import wilson
from evalsuite.types import Score

LABELS = np.array([0, 1, 2, 0])
PARENTS = {0: [0, 1, 2, 1], 1: [0, 1, 2, 0], 2: [0, 1, 0, 0]}
PRUNED = {0: [0, 2, 0, 1], 1: [0, 2, 2, 0], 2: [1, 0, 0, 0]}
"""Of the pruned ones most say 2 to image 1, and 0 to image 2; the parents said 1 and 2."""


def scores(**networks: Any) -> tuple[Any, Any]:
    found, ratios = {}, {}
    for method, by_seed in networks.items():
        for seed, guesses in by_seed.items():
            key = Key(method, seed, 0.0 if method == "dense" else 0.5)
            ratios[key] = key.target_ratio + 0.01 * seed
            for metric, values in (
                ("predicted_classes", np.array(guesses, np.int16)),
                ("accuracy", np.array(guesses) == LABELS),
            ):
                found[key, metric, "clean"] = Score(metric, "clean", evidence={"test": values})
    return found, ratios


def test_the_share_of_exemplars_and_the_accuracy_on_them() -> None:
    (row,) = exemplar_table(*scores(dense=PARENTS, magnitude=PRUNED)).to_dict("records")
    assert (row["method"], row["target_ratio"], row["seeds"], row["n"]) == ("magnitude", 0.5, 3, 4)
    assert row["ratio"] == pytest.approx(0.51)
    assert (row["exemplars"], row["share"]) == (2, 0.5)
    assert (row["share_low"], row["share_high"]) == wilson(2, 4)
    assert row["parents_on_exemplars"] == pytest.approx(5 / 6)
    assert row["candidates_on_exemplars"] == pytest.approx(1 / 6)
    assert row["parents_on_others"] == pytest.approx(5 / 6)
    assert row["candidates_on_others"] == pytest.approx(4 / 6)


def test_without_exemplars_there_is_no_accuracy_on_them() -> None:
    (row,) = exemplar_table(*scores(dense=PARENTS, magnitude=PARENTS)).to_dict("records")
    assert row["exemplars"] == 0
    assert np.isnan(row["parents_on_exemplars"])
    assert row["candidates_on_others"] == pytest.approx(10 / 12)


@pytest.mark.parametrize(
    ("parents", "pruned"),
    [
        pytest.param({0: PARENTS[0]}, {0: PRUNED[0]}, id="one seed"),
        pytest.param(PARENTS, {0: PRUNED[0], 2: PRUNED[2]}, id="a seed is missing"),
    ],
)
def test_a_population_that_is_not_whole_has_no_row(parents: Any, pruned: Any) -> None:
    found = exemplar_table(*scores(dense=parents, magnitude=pruned))
    assert found.empty
    assert list(found.columns) == list(EXEMPLAR_COLUMNS)
