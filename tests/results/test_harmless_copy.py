"""The count of failures of a harmless copy: against plain loops, and what it must be at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite.results.comparison import Comparison
from evalsuite.results.harmless_copy import harmless_counts
from evalsuite.runs.store import Cell, Key
from evalsuite.types import DENSE, Array, Metric, Score

ACCURACY = Metric("accuracy", True, "fraction", "")
N = 400


def comparison(parent: dict[str, Array], pruned: dict[str, Array], tolerance: float) -> Comparison:
    cells = {
        (key, "test"): Cell(
            "",
            "ok",
            metrics=(ACCURACY,),
            scores=tuple(
                Score("accuracy", name, float(x.mean()), N, {"test": x}) for name, x in values.items()
            ),
        )
        for key, values in {Key(DENSE, 0, 0.0): parent, Key("m", 0, 0.5): pruned}.items()
    }
    return Comparison(cells, {"accuracy": ACCURACY}, {"accuracy": tolerance}, seed=0)


def test_the_counts_are_those_of_plain_exchanges() -> None:
    random = np.random.default_rng(0)
    parent = {f"fog/{k}": random.random(N) < 0.9 for k in range(20)}
    pruned = {name: x ^ (random.random(N) < 0.1) for name, x in parent.items()}
    row = harmless_counts(comparison(parent, pruned, 0.01), draws=2000).iloc[0]
    differences = np.stack([parent[name].astype(float) - pruned[name] for name in parent], axis=1)
    counts = []
    for _ in range(2000):
        signs = np.where(random.random(N) < 0.5, -1.0, 1.0)
        counts.append(int(((signs @ differences) / N > 0.01 + 1e-9).sum()))
    assert row["harmless_median"] == pytest.approx(np.median(counts), abs=1)
    assert row["harmless_upper_95"] == pytest.approx(np.quantile(counts, 0.95), abs=1)


def test_a_drop_that_equals_the_tolerance_is_no_failure() -> None:
    parent = {"clean": np.ones(N, bool)}
    pruned = {"clean": np.arange(N) >= 1}  # one image of 400: at most 0.0025
    assert harmless_counts(comparison(parent, pruned, 1 / N)).iloc[0]["harmless_upper_95"] == 0
    assert harmless_counts(comparison(parent, pruned, 0.9 / N)).iloc[0]["harmless_upper_95"] == 1


def test_the_same_network_never_fails() -> None:
    parent = {"clean": np.arange(N) % 10 > 0, "fog/1": np.arange(N) % 5 > 0}
    row = harmless_counts(comparison(parent, parent, 0.0)).iloc[0]
    assert (row["harmless_median"], row["harmless_upper_95"]) == (0, 0)


def test_conditions_on_the_same_images_are_exchanged_together() -> None:
    random = np.random.default_rng(1)
    before, after = random.random(N) < 0.9, random.random(N) < 0.9
    names = [f"fog/{k}" for k in range(10)]
    row = harmless_counts(comparison(dict.fromkeys(names, before), dict.fromkeys(names, after), 0.005)).iloc[
        0
    ]
    assert {row["harmless_median"], row["harmless_upper_95"]} <= {0, 10}  # all of them or none
