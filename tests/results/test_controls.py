"""What is lost beyond a control: planted effects of training and of pruning, and which network is a control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalsuite.metrics.functionals import evaluate
from evalsuite.results.comparison import Comparison
from evalsuite.results.controls import beyond_control, matching_controls
from evalsuite.results.verdict_tables import MEAN, METHOD, NETWORK, check_table
from evalsuite.runs.store import Cell, Key
from evalsuite.statistics import bounds
from evalsuite.statistics.contrasts import Contrast, contrast_bounds
from evalsuite.statistics.resampling import Replicates, bootstrap_weights
from evalsuite.thresholds.verdicts import INFERIOR, NONINFERIOR
from evalsuite.types import DENSE, Candidate, Cost, Metric, Phase, Score

N = 1500
ACCURACY = Metric("accuracy", True, "fraction", "")
NLL = Metric("nll", False, "nats", "")
AUROC = Metric("auroc", True, "fraction", "", "auroc")
ECE = Metric("ece", False, "fraction", "", "ece_equal_width")
COST = Cost(10, 10, 10, 10, 1, 1, 1)
PARENT = Phase("pretraining", 20, 100, 1, "cosine", schedule="a", rest="b")
AGAIN = replace(PARENT, what="retraining")


def candidate(key: Key, *phases: Phase) -> Candidate:
    history = (PARENT, *phases) if phases else ()
    return Candidate(key.method, key.seed, key.target_ratio, 0.0, 0.0, COST, "w", {"name": "x"}, history)


def _group(condition: str) -> str:
    return "" if condition == "shift" else "shift"


def comparison(evidence: dict[Key, dict[str, Any]], tolerance: Any = 0.01) -> Comparison:
    """A run of candidates with the evidence of one population each; conditions are called ``kind/1``."""
    cells = {}
    for key, conditions in evidence.items():
        scores = [
            Score(
                "accuracy", name, value=float(np.mean(x)), n=len(x), evidence={"test": x}, group=_group(name)
            )
            for name, x in conditions.items()
        ]
        cells[key, "test"] = Cell("", "ok", metrics=(ACCURACY,), scores=tuple(scores))
    return Comparison(cells, {"accuracy": ACCURACY}, {"accuracy": tolerance}, seed=0)


def table_of(found: Comparison, controls: dict[Key, Key]) -> Any:
    """Verdicts of a comparison, as a run makes them."""
    rows = [
        {
            **dict(
                zip(("method", "seed", "target_ratio"), (key.method, key.seed, key.target_ratio), strict=True)
            ),
            "metric": metric,
            "condition": condition,
            "grid": 0,
            "n": N,
            "test": found.code((key,), metric, condition),
            **found.statistics(key, found.scores[key, metric, condition]),
        }
        for key, metric, condition in found.tested
    ]
    beyond = beyond_control(found, controls) if controls else None
    return check_table(pd.DataFrame(rows), found.over_seeds(), found.over_groups(), beyond)


def planted(seed: int, *, trained: float, pruned: float) -> dict[str, dict[str, Any]]:
    """Correctness of a parent, a control that loses `trained`, and a candidate that loses `pruned` more."""
    random = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {"parent": {}, "control": {}, "candidate": {}}
    for name in ("fog/1", "snow/1"):
        right, luck, more = random.random(N) < 0.9, random.random(N), random.random(N)
        again = right & (luck > trained / 0.9)
        found["parent"][name], found["control"][name] = right, again
        found["candidate"][name] = again & (more > pruned / 0.9)
    return found


@pytest.mark.parametrize(("trained", "pruned"), [(0.06, 0.0), (0.0, 0.06)])
def test_the_control_absorbs_what_training_costs(trained: float, pruned: float) -> None:
    pruned_key, control_key = Key("magnitude", 0, 0.5), Key("dense-retrained", 0, 0.5)
    parts = planted(0, trained=trained, pruned=pruned)
    keys = {"parent": Key(DENSE, 0, 0.0), "control": control_key, "candidate": pruned_key}
    found = comparison({keys[name]: parts[name] for name in keys})
    rows = table_of(found, {pruned_key: control_key}).query("method == 'magnitude'")
    assert (rows["verdict"] == INFERIOR).all()  # the drop itself is there in both cases
    single = rows[rows["aggregate"] == "single"]
    assert (single["beyond_control_verdict"] == (INFERIOR if pruned else NONINFERIOR)).all()
    control = table_of(found, {}).query("method == 'dense-retrained'")
    assert (control["verdict"] == (INFERIOR if trained else NONINFERIOR)).all()


def test_a_control_went_through_the_same_trainings() -> None:
    keys = {
        name: Key(name, 0, 0.5) for name in ("magnitude", "once", "longer", "external", "dense-retrained")
    }
    candidates = {
        keys["magnitude"]: candidate(keys["magnitude"], AGAIN, AGAIN),
        keys["once"]: candidate(keys["once"], AGAIN),
        keys["longer"]: candidate(keys["longer"], AGAIN, replace(AGAIN, epochs=21)),
        keys["external"]: candidate(keys["external"]),
        keys["dense-retrained"]: candidate(keys["dense-retrained"], AGAIN, AGAIN),
        Key("magnitude", 1, 0.5): candidate(Key("magnitude", 1, 0.5), AGAIN, AGAIN),
    }
    controls = matching_controls(candidates, {"dense-retrained"})
    assert controls == {keys["magnitude"]: keys["dense-retrained"]}


def test_the_difference_of_rates_is_that_of_a_parent_and_its_candidate() -> None:
    parts = planted(1, trained=0.02, pruned=0.03)
    control, pruned = ({"test": parts[name]["fog/1"]} for name in ("control", "candidate"))
    weights = bootstrap_weights({"test": N}, replicates=1000, seed=0)
    expected = bounds(ACCURACY, control, [pruned], weights=weights, tolerance=0.01)
    contrast = Contrast(ACCURACY, (control,), (pruned,), 0.01)
    found = contrast_bounds([contrast, contrast], replicates=Replicates(weights))
    assert found.difference == pytest.approx([expected.drop[0]] * 2)
    assert found.low == pytest.approx([expected.low[0]] * 2)
    assert found.high == pytest.approx([expected.high[0]] * 2)
    assert found.noninferiority_p == pytest.approx([expected.noninferiority_p[0]] * 2)
    assert found.inferiority_p == pytest.approx([expected.inferiority_p[0]] * 2)


def test_differences_of_other_metrics() -> None:
    random = np.random.default_rng(2)
    losses = random.exponential(size=N)
    scores = {"test": random.normal(size=N), "out": random.normal(2, 1, 400)}
    worse = {name: x + random.normal(0, 0.8, len(x)) for name, x in scores.items()}
    sizes = {"test": N, "out": 400}
    replicates = Replicates(bootstrap_weights(sizes, replicates=1000, seed=0))
    contrasts = [
        Contrast(NLL, ({"test": losses},), ({"test": losses + random.exponential(0.5, N)},), 0.1),
        Contrast(AUROC, (scores,), (worse,), 0.01),
        Contrast(ECE, ({"test": np.stack([scores["test"] * 0 + 0.8, losses < 1], 1)},) * 1,
                 ({"test": np.stack([scores["test"] * 0 + 0.9, losses < 1], 1)},), 0.01),
        Contrast(NLL, ({"test": losses},), ({"test": losses},), 0.1),
    ]  # fmt: skip
    bounds = contrast_bounds(contrasts, replicates=replicates)
    direct = float(evaluate("auroc", scores)) - float(evaluate("auroc", worse))
    assert bounds.difference[1] == pytest.approx(direct)
    assert (bounds.inferiority_p[:2] < 1e-3).all()
    assert (bounds.low[:2] < bounds.difference[:2]).all()
    assert (bounds.difference[:2] < bounds.high[:2]).all()
    assert np.isnan(
        [bounds.noninferiority_p[2], bounds.inferiority_p[2], bounds.low[2]]
    ).all()  # never decided
    assert (bounds.difference[3], bounds.inferiority_p[3]) == (0.0, 1.0)


def test_three_seeds_speak_of_each_network_of_their_mean_and_of_the_method() -> None:
    evidence: dict[Key, dict[str, Any]] = {}
    controls: dict[Key, Key] = {}
    for seed, pruned in enumerate((0.10, 0.0, 0.0)):
        parts = planted(10 + seed, trained=0.0, pruned=pruned)
        key = Key("magnitude", seed, 0.5)
        controls[key] = Key("dense-retrained", seed, 0.5)
        evidence |= {
            Key(DENSE, seed, 0.0): parts["parent"],
            controls[key]: parts["control"],
            key: parts["candidate"],
        }
    rows = table_of(comparison(evidence), controls).query("method == 'magnitude' and condition == 'fog/1'")
    by_scope = rows.set_index("scope")
    networks = rows[rows["scope"] == NETWORK]
    assert networks["verdict"].tolist() == [INFERIOR, NONINFERIOR, NONINFERIOR]
    assert by_scope.loc[MEAN, "verdict"] == INFERIOR  # a third of .1 on average
    assert by_scope.loc[MEAN, "beyond_control_verdict"] == INFERIOR
    assert by_scope.loc[METHOD, "verdict"] == "undecided"  # one seed of three does not show it of the method
    assert set(rows["inferior_in"]) == {1}
    assert by_scope.loc[MEAN, "networks"] == 3


def test_a_group_mean_is_a_check_of_its_own() -> None:
    """Each of many conditions loses too little to be shown; their mean does not."""
    random = np.random.default_rng(3)
    right = random.random(N) < 0.9
    names = [f"fog/{k}" for k in range(12)]
    parent = dict.fromkeys(names, right)
    pruned = {name: right & (random.random(N) > 0.015 / 0.9) for name in names}
    found = comparison({Key(DENSE, 0, 0.0): parent, Key("magnitude", 0, 0.5): pruned})
    rows = table_of(found, {})
    assert rows[rows["aggregate"] == "of-mean"]["verdict"].tolist() == [INFERIOR]
    assert (rows[rows["aggregate"] == "single"]["verdict"] == INFERIOR).mean() < 0.5
    group = found.over_groups()
    assert group is not None
    drops = [np.mean(right) - np.mean(x) for x in pruned.values()]
    assert group["drop"].tolist() == pytest.approx([np.mean(drops)])


def test_a_mean_that_a_test_reports_itself_is_taken_from_there() -> None:
    random = np.random.default_rng(4)
    right = random.random(N) < 0.9
    names = ["fog/1", "fog/2", "shift"]
    pruned = {name: right & (random.random(N) > 0.02) for name in names}
    found = comparison({Key(DENSE, 0, 0.0): dict.fromkeys(names, right), Key("magnitude", 0, 0.5): pruned})
    group = found.over_groups()
    assert group is not None
    assert group["drop"].tolist() == pytest.approx([np.mean(right) - np.mean(pruned["shift"])])


def test_a_group_mean_has_its_difference_from_the_control() -> None:
    """Many conditions that each lose too little beyond the control: their mean is shown to."""
    random = np.random.default_rng(5)
    right = random.random(N) < 0.9
    names = [f"fog/{k}" for k in range(12)]
    again = {name: right & (random.random(N) > 0.03 / 0.9) for name in names}
    pruned = {name: x & (random.random(N) > 0.013 / 0.87) for name, x in again.items()}
    keys = Key(DENSE, 0, 0.0), Key("dense-retrained", 0, 0.5), Key("magnitude", 0, 0.5)
    found = comparison(dict(zip(keys, (dict.fromkeys(names, right), again, pruned), strict=True)))
    rows = table_of(found, {keys[2]: keys[1]}).query("method == 'magnitude'")
    mean = rows[rows["aggregate"] == "of-mean"].iloc[0]
    expected = np.mean([again[name].mean() - pruned[name].mean() for name in names])
    assert mean["beyond_control"] == pytest.approx(expected)
    assert mean["beyond_control_low"] < expected < mean["beyond_control_high"]
    assert mean["beyond_control_verdict"] == INFERIOR
    single = rows[rows["aggregate"] == "single"]
    assert (single["beyond_control_verdict"] == INFERIOR).mean() < 0.5


@pytest.mark.parametrize(
    ("pruned", "expected"), [((0.08, 0.09, 0.1), INFERIOR), ((0.2, 0.0, 0.0), "undecided")]
)
def test_the_method_is_compared_with_its_control_over_the_seeds(
    pruned: tuple[float, ...], expected: str
) -> None:
    evidence: dict[Key, dict[str, Any]] = {}
    controls: dict[Key, Key] = {}
    for seed, lost in enumerate(pruned):
        parts = planted(20 + seed, trained=0.05, pruned=lost)
        key, control = (Key(name, seed, 0.5) for name in ("magnitude", "dense-retrained"))
        controls[key] = control
        evidence |= {
            Key(DENSE, seed, 0.0): parts["parent"],
            control: parts["control"],
            key: parts["candidate"],
        }
    rows = table_of(comparison(evidence), controls)
    rows = rows.query("method == 'magnitude' and condition == 'fog/1'").set_index("scope")
    assert rows.loc[MEAN, "beyond_control_verdict"] == INFERIOR
    assert (
        rows.loc[METHOD, "beyond_control_verdict"] == expected
    )  # seeds that differ show nothing of the method
    assert rows.loc[METHOD, "beyond_control"] == rows.loc[MEAN, "beyond_control"]
