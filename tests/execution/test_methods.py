"""The suite of all methods: random pruning is worst where much goes, and the retrained dense parent prunes nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from evalsuite import Run, api
from evalsuite.config.suite_file import load_suite
from evalsuite.report.build import report_data

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from evalsuite.config.suite import Suite

WEIGHTS = (
    *("magnitude", "magnitude-layerwise", "uniform-plus", "erk", "lamp", "gradient-magnitude"),
    *("sipp", "gradual-magnitude", "random"),
)
"""Methods that take single weights of the trained parent, each with its own idea of which."""
DENSE = "dense-retrained"
TIED = "gradient-magnitude"
"""At 95 % it is no better than chance: .563, .350, .436 with seeds 0, 1, 2, where random has .518, .347, .439."""


def part(suite: Suite, names: Collection[str], ratios: tuple[float, ...]) -> Suite:
    """Some of the suite's methods with its own settings and recipes, accuracy alone."""
    return replace(
        suite,
        ratios=ratios,
        producers=tuple(one for one in suite.producers if one.name in names),
        evaluators=tuple(one for one in suite.evaluators if one.name == "accuracy"),
        tolerances={"accuracy": 0.01},
    )


def accuracies(run: Run) -> Any:
    """Clean accuracy by method and target ratio."""
    table: Any = run.measurements.query("metric == 'accuracy' and condition == 'clean'")
    return table.set_index(["method", "target_ratio"])["value"]


def check_dense(run: Run) -> None:
    retrained = run.measurements.query("method == @DENSE")
    assert len(retrained) > 0
    assert (retrained["ratio"] == 0).all()
    assert DENSE not in set(run.thresholds()["method"])  # it is on no curve of pruning


@pytest.mark.extensive
def test_random_is_the_worst_choice_of_weights_at_a_high_ratio(tmp_path: Path) -> None:
    suite = part(load_suite("methods-digits"), (*WEIGHTS, DENSE), (0.95,))
    assert len(suite.producers) == len(WEIGHTS) + 1
    run = api.run(suite, out=tmp_path / "run")
    found = accuracies(run).xs(0.95, level="target_ratio")
    others = found.drop(["random", DENSE])
    assert len(others) == len(WEIGHTS) - 1
    assert found["random"] < others.drop(TIED).min() - 0.05, found.to_string()
    assert found["random"] < found[TIED] + 0.02, found.to_string()
    assert found[DENSE] > others.max()
    check_dense(run)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("EVALSUITE_SLOW"), reason="EVALSUITE_SLOW is not set")
def test_all_methods_are_ranked_and_random_is_last_but_for_the_inverted_score(tmp_path: Path) -> None:
    suite = load_suite("methods-digits")
    run = api.run(suite, out=tmp_path / "run")
    labels = {choice.label for choice in suite.producers}
    assert {key.method for key in run.candidates} == labels | {"dense"}
    assert len(run.candidates) == 3 * len(labels) + 1, "a production failed"
    check_dense(run)
    order = [one for one in report_data(run).methods if one != DENSE]
    assert order[-2:] == ["random", "inverted"]
    found = accuracies(run)
    for ratio in (0.8, 0.95):
        assert found["random", ratio] < min(found[name, ratio] for name in WEIGHTS if name != "random")
