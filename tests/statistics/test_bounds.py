"""Bounds on many candidates: against slow loops, one another, and what they must say at the edges."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, skew

from evalsuite import metrics, statistics
from evalsuite.errors import ContractError
from evalsuite.statistics.bounds import PairedDrops, bounds_of_many
from evalsuite.statistics.resampling import Replicates
from evalsuite.tolerances import parse_limit
from evalsuite.types import Metric

if TYPE_CHECKING:
    from evalsuite.types import Array, Floats

ACCURACY = Metric("accuracy", higher_is_better=True, unit="fraction", text="")
ERROR = Metric("error", higher_is_better=False, unit="fraction", text="")
NLL = Metric("nll", higher_is_better=False, unit="nats", text="")
AUROC = Metric("auroc", higher_is_better=True, unit="fraction", text="", functional="auroc")
ECE = Metric("ece", higher_is_better=False, unit="fraction", text="", functional="ece_equal_width")
N = 400
WEIGHTS = statistics.bootstrap_weights({"clean": N, "letters": 150}, replicates=500, seed=0)
FIELDS = ("drop", "low", "high", "upper", "lower_simultaneous")
Evidence = dict[str, "Array"]


def rates(seed: int = 0, count: int = 4) -> tuple[Evidence, list[Evidence]]:
    """A parent and candidates that flip more and more of the images."""
    random = np.random.default_rng(seed)
    right, order = random.random(N) < 0.9, random.random(N)
    return {"clean": right}, [{"clean": right ^ (order < 0.05 * (k + 1))} for k in range(count)]


def losses(seed: int = 0, count: int = 4) -> tuple[Evidence, list[Evidence]]:
    random = np.random.default_rng(seed)
    parent, direction = random.exponential(size=N), random.exponential(size=N) - 0.9
    noise = random.normal(0, 0.2, (count, N))
    return {"clean": parent}, [{"clean": parent + 0.1 * k * direction + x} for k, x in enumerate(noise, 1)]


def scores(seed: int = 0, count: int = 3) -> tuple[Evidence, list[Evidence]]:
    random = np.random.default_rng(seed)
    parent = {"clean": random.normal(size=N), "letters": random.normal(1.5, 1, 150)}
    return parent, [
        {name: x + random.normal(0, 0.3 * k, len(x)) for name, x in parent.items()}
        for k in range(1, count + 1)
    ]


def confidences(seed: int = 0, count: int = 3) -> tuple[Evidence, list[Evidence]]:
    random = np.random.default_rng(seed)
    sure = random.uniform(0.5, 0.9, N)
    right = random.random(N) < sure
    tables = [np.stack([sure + 0.03 * k, right], axis=1) for k in range(count + 1)]
    return {"clean": tables[0]}, [{"clean": table} for table in tables[1:]]


KINDS = {
    "accuracy": (ACCURACY, rates),
    "error": (ERROR, rates),
    "nll": (NLL, losses),
    "auroc": (AUROC, scores),
    "ece": (ECE, confidences),
}


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_are_those_of_one_candidate_at_a_time(kind: str) -> None:
    metric, evidence = KINDS[kind]
    parent, candidates = evidence()
    bounds = statistics.bounds(metric, parent, candidates, weights=WEIGHTS)
    for place, candidate in enumerate(candidates):
        expected = statistics.paired_drop_interval(
            metric, parent=parent, candidate=candidate, weights=WEIGHTS
        )
        assert (bounds.low[place], bounds.high[place]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_drops_and_the_order_of_their_bounds(kind: str) -> None:
    metric, evidence = KINDS[kind]
    parent, candidates = evidence()
    bounds = statistics.bounds(metric, parent, candidates, weights=WEIGHTS)
    reference, *values = (float(metrics.evaluate(metric.functional, e)) for e in (parent, *candidates))
    expected = reference - np.array(values)
    assert bounds.drop == pytest.approx(expected if metric.higher_is_better else -expected)
    if kind == "ece":
        assert np.isnan([bounds.upper, bounds.lower_simultaneous]).all()
    else:
        assert (bounds.lower_simultaneous <= bounds.low + 0.3 * (bounds.high - bounds.low)).all()
        assert (bounds.lower_simultaneous <= bounds.drop).all()
        assert (bounds.drop < bounds.upper).all()
        assert (bounds.upper < bounds.high + 0.05 * (bounds.high - bounds.low)).all()


def slow_deviations(differences: Floats) -> Floats:
    """Studentised deviations of each resample, shape (B, R), from images written out as often as they are drawn."""
    found = []
    for row in WEIGHTS["clean"].astype(int):
        drawn = np.repeat(differences, row, axis=0)
        found.append((drawn.mean(axis=0) - differences.mean(axis=0)) / (drawn.std(axis=0) / np.sqrt(N)))
    return np.array(found)


def test_means_get_bootstrap_t_bounds_and_one_critical_value() -> None:
    parent, candidates = losses()
    bounds = statistics.bounds(NLL, parent, candidates, weights=WEIGHTS)
    differences = np.stack([c["clean"] - parent["clean"] for c in candidates], axis=1)
    deviations, error = slow_deviations(differences), differences.std(axis=0) / np.sqrt(N)
    upper = (
        differences.mean(axis=0) - np.sort(deviations, axis=0)[24] * error
    )  # the 25th of 500: (501 * 0.05)
    critical = np.sort(deviations.max(axis=1))[488]  # the 489th: (501 * 0.975)
    assert bounds.upper == pytest.approx(upper)
    assert bounds.lower_simultaneous == pytest.approx(differences.mean(axis=0) - critical * error)


def test_the_critical_value_of_rates_is_that_of_the_largest_deviation() -> None:
    parent, candidates = rates()
    bounds = statistics.bounds(ACCURACY, parent, candidates, weights=WEIGHTS)
    differences = np.stack([parent["clean"] * 1.0 - c["clean"] for c in candidates], axis=1)
    replicates = WEIGHTS["clean"] @ differences / N - differences.mean(axis=0)
    largest = (replicates / (differences.std(axis=0) / np.sqrt(N))).max(axis=1)
    z = max(np.sort(largest)[488], norm.ppf(0.975))
    lost, gained = (differences > 0).sum(axis=0), (differences < 0).sum(axis=0)
    assert z < norm.ppf(1 - 0.025 / 4)
    assert bounds.lower_simultaneous == pytest.approx(
        -statistics.score_limit(gained, lost, n=N, z=z, corrected=True)
    )
    assert bounds.upper == pytest.approx(
        statistics.score_limit(lost, gained, n=N, z=norm.ppf(0.95), corrected=True)
    )


def accelerated(replicates: Floats, drop: float) -> float:
    """The BCa limit in plain numbers, with a sixth of the replicates' skewness; not inside the plain percentile."""
    z = norm.ppf(((replicates < drop).sum() + (replicates == drop).sum() / 2) / len(replicates))
    away = z + norm.ppf(0.95)
    share = norm.cdf(z + away / (1 - skew(replicates) / 6 * away))
    place = math.ceil((len(replicates) + 1) * max(share, 0.95))
    return float(np.sort(replicates)[min(place, len(replicates)) - 1])


def test_other_functionals_get_percentiles_and_scaled_deviations() -> None:
    parent, candidates = scores()
    bounds = statistics.bounds(AUROC, parent, candidates, weights=WEIGHTS)
    reference, *values = (metrics.evaluate("auroc", e, weights=WEIGHTS) for e in (parent, *candidates))
    replicates = np.stack([reference - value for value in values], axis=1)
    error = replicates.std(axis=0)
    critical = np.sort(((replicates - bounds.drop) / error).max(axis=1))[488]
    assert bounds.upper == pytest.approx(
        [accelerated(r, d) for r, d in zip(replicates.T, bounds.drop, strict=True)]
    )
    assert (bounds.upper >= np.sort(replicates, axis=0)[475]).all()
    assert bounds.lower_simultaneous == pytest.approx(bounds.drop - critical * error)


@pytest.mark.parametrize("kind", ["accuracy", "nll", "auroc"])
def test_copies_cost_nothing_and_other_candidates_do(kind: str) -> None:
    """The bounds use how alike candidates are: a correction for their number would not."""
    metric, evidence = KINDS[kind]
    parent, candidates = evidence(count=6)
    alone = statistics.bounds(metric, parent, candidates[:1], weights=WEIGHTS)
    copies = statistics.bounds(metric, parent, 6 * candidates[:1], weights=WEIGHTS)
    together = statistics.bounds(metric, parent, candidates, weights=WEIGHTS)
    assert copies.lower_simultaneous == pytest.approx(np.repeat(alone.lower_simultaneous, 6))
    assert together.lower_simultaneous[0] < alone.lower_simultaneous[0]
    assert together.upper[0] == pytest.approx(alone.upper[0])


@pytest.mark.parametrize("kind", ["accuracy", "nll", "auroc"])
def test_the_same_networks_three_times_say_what_they_say_once(kind: str) -> None:
    metric, evidence = KINDS[kind]
    parent, candidates = evidence()
    once = statistics.bounds(metric, parent, candidates, weights=WEIGHTS)
    thrice = statistics.mean_bounds(metric, 3 * [parent], 3 * [candidates], weights=WEIGHTS)
    for name in FIELDS:
        assert getattr(thrice, name) == pytest.approx(getattr(once, name), abs=1e-9)


@pytest.mark.parametrize("kind", ["accuracy", "nll", "auroc"])
def test_seeds_that_err_on_other_images_know_more(kind: str) -> None:
    metric, evidence = KINDS[kind]
    pairs = [evidence(seed) for seed in range(4)]
    one = statistics.bounds(metric, *pairs[0], weights=WEIGHTS)
    four = statistics.mean_bounds(metric, [p for p, _ in pairs], [c for _, c in pairs], weights=WEIGHTS)
    assert four.high - four.low == pytest.approx((one.high - one.low) / 2, rel=0.35)
    each = [statistics.bounds(metric, *pair, weights=WEIGHTS).drop for pair in pairs]
    assert four.drop == pytest.approx(np.mean(each, axis=0))


def test_rates_without_a_discordant_image_follow_the_rule_of_three() -> None:
    parent, candidates = rates()
    bounds = statistics.bounds(ACCURACY, parent, [parent, *candidates], weights=WEIGHTS)
    assert bounds.drop[0] == 0
    assert bounds.upper[0] == pytest.approx(3 / N, rel=0.05)
    assert bounds.lower_simultaneous[0] < 0
    rest = statistics.bounds(ACCURACY, parent, candidates, weights=WEIGHTS)
    assert bounds.lower_simultaneous[1:] == pytest.approx(rest.lower_simultaneous, abs=1e-12)
    for copies in (1, 3):
        none = statistics.mean_bounds(ACCURACY, copies * [parent], copies * [[parent]], weights=WEIGHTS)
        assert none.upper == pytest.approx([bounds.upper[0]])


def test_one_discordant_image_does_not_harm_its_neighbours() -> None:
    parent, candidates = rates()
    right = np.array(parent["clean"])
    one = right.copy()
    one[right.argmin()] = True  # a gain: a resample without it deviates upwards
    rest = statistics.bounds(ACCURACY, parent, candidates, weights=WEIGHTS)
    bounds = statistics.bounds(ACCURACY, parent, [{"clean": one}, *candidates], weights=WEIGHTS)
    assert (bounds.lower_simultaneous[1:] > rest.lower_simultaneous - 0.15 * (rest.high - rest.low)).all()
    assert bounds.lower_simultaneous[0] < -1 / N < bounds.upper[0]


def test_means_without_spread_are_certain_and_change_no_other_bound() -> None:
    parent, candidates = losses()
    rest = statistics.bounds(NLL, parent, candidates, weights=WEIGHTS)
    constant = {"clean": parent["clean"] + 0.25}
    bounds = statistics.bounds(NLL, parent, [parent, constant, *candidates], weights=WEIGHTS)
    for name in FIELDS:
        assert getattr(bounds, name)[:2] == pytest.approx([0.0, 0.25], abs=1e-12)
        assert getattr(bounds, name)[2:] == pytest.approx(getattr(rest, name), abs=1e-12)


@pytest.mark.parametrize(("differing", "known"), [(1, False), (9, False), (10, True)])
def test_means_that_differ_on_few_images_have_no_bounds(differing: int, known: bool) -> None:
    parent, candidates = losses()
    few = parent["clean"].copy()
    few[:differing] += np.linspace(0.5, 1.5, differing)
    rest = statistics.bounds(NLL, parent, candidates, weights=WEIGHTS)
    bounds = statistics.bounds(NLL, parent, [{"clean": few}, *candidates], weights=WEIGHTS)
    assert np.isfinite([bounds.upper[0], bounds.lower_simultaneous[0]]).tolist() == [known, known]
    assert np.isfinite(bounds.lower_simultaneous[1:]).all()
    if not known:
        assert bounds.lower_simultaneous[1:] == pytest.approx(rest.lower_simultaneous, abs=1e-12)
        assert (bounds.upper[0], bounds.lower_simultaneous[0]) == (np.inf, -np.inf)


@pytest.mark.parametrize("kind", ["accuracy", "nll", "auroc"])
def test_few_and_odd_replicates_never_put_a_bound_on_the_wrong_side(kind: str) -> None:
    metric, evidence = KINDS[kind]
    parent, candidates = evidence(count=2)
    for at in range(40):
        odd = {name: w[at : at + 1] for name, w in WEIGHTS.items()}
        bounds = statistics.bounds(metric, parent, candidates, weights=odd)
        assert (bounds.lower_simultaneous <= bounds.drop).all()
        assert (bounds.drop <= bounds.upper).all()


def test_identical_scores_have_no_width() -> None:
    parent, candidates = scores()
    bounds = statistics.bounds(AUROC, parent, [parent, *candidates], weights=WEIGHTS)
    assert [getattr(bounds, name)[0] for name in FIELDS] == [0.0] * 5
    assert statistics.bounds(AUROC, parent, [parent], weights=WEIGHTS).lower_simultaneous.tolist() == [0.0]


@settings(max_examples=40)
@given(st.data())
def test_bounds_of_any_rates_hold_the_drop_between_them(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    column = st.lists(st.booleans(), min_size=size, max_size=size).map(lambda x: {"x": np.array(x)})
    seeds = data.draw(st.integers(1, 3))
    parents = data.draw(st.lists(column, min_size=seeds, max_size=seeds))
    count = data.draw(st.integers(1, 4))
    candidates = [data.draw(st.lists(column, min_size=count, max_size=count)) for _ in parents]
    weights = statistics.bootstrap_weights({"x": size}, replicates=30, seed=1)
    found = statistics.mean_bounds(ACCURACY, parents, candidates, weights=weights)
    assert np.isfinite([getattr(found, name) for name in FIELDS]).all()
    assert (found.lower_simultaneous <= found.drop).all()
    assert (found.drop <= found.upper).all()
    assert (found.low <= found.high).all()
    assert (np.abs([found.lower_simultaneous, found.upper]) <= 1).all()
    turned = statistics.mean_bounds(ERROR, parents, candidates, weights=weights)
    assert turned.low == pytest.approx(-found.high, abs=1e-12)


def test_what_is_refused() -> None:
    parent, candidates = rates()
    described = Metric("temperature", higher_is_better=None, unit="1", text="")
    with pytest.raises(ContractError, match="without a direction there is no drop"):
        statistics.bounds(described, parent, candidates, weights=WEIGHTS)
    with pytest.raises(ContractError, match="at least one"):
        statistics.bounds(ACCURACY, parent, [], weights=WEIGHTS)
    with pytest.raises(ContractError, match="for each parent the same number of candidates"):
        statistics.mean_bounds(ACCURACY, 2 * [parent], [candidates, candidates[:2]], weights=WEIGHTS)
    with pytest.raises(ContractError, match="1 parents"):
        statistics.mean_bounds(ACCURACY, [parent], [candidates, candidates], weights=WEIGHTS)
    with pytest.raises(ContractError, match="measured on the same images"):
        statistics.bounds(ACCURACY, parent, [{"clean": np.ones(3)}], weights=WEIGHTS)
    with pytest.raises(ContractError, match="measured on the same images"):
        statistics.mean_bounds(
            ACCURACY, [parent, {"clean": np.ones(3)}], [candidates, candidates], weights=WEIGHTS
        )
    for wrong in ({}, {"clean": np.ones((5, 3))}):
        with pytest.raises(ContractError, match="no weights for the 400 images of population 'clean'"):
            statistics.bounds(ACCURACY, parent, candidates, weights=wrong)


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.05, 0.2, "3%", "30%"])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"ece"}))
def test_a_p_value_is_the_smallest_level_at_which_the_bound_is_within_the_tolerance(
    kind: str, tolerance: float | str
) -> None:
    metric, evidence = KINDS[kind]
    for seed in range(12):
        parent, candidates = evidence(seed)
        bounds = statistics.bounds(metric, parent, candidates, weights=WEIGHTS, tolerance=tolerance)
        most = parse_limit(tolerance).at(float(metrics.evaluate(metric.functional, parent)))
        shown, within = bounds.noninferiority_p <= 0.05, bounds.upper <= most
        assert (
            shown <= within if kind == "nll" else shown == within
        ).all()  # numbers without a bound: see below
        assert (bounds.noninferiority_p[bounds.drop > most] == 1).all()
        assert ((bounds.noninferiority_p > 0) & (bounds.noninferiority_p <= 1)).all()


def test_losses_without_a_bound_are_said_to_hold_as_rarely_as_stated() -> None:
    """Few images make the mean of a log-normal loss: without those that a sample has not, 6 % would be wrong."""
    random, images, draws = np.random.default_rng(0), 300, 400
    weights = statistics.bootstrap_weights({"clean": images}, replicates=1000, seed=0)
    parents = random.lognormal(-2, 1.2, (draws, images))
    candidates = parents * (random.lognormal(-0.125, 0.5, parents.shape) + 0.1)
    true = 0.1 * float(np.exp(-2 + 1.2**2 / 2))
    questions = [
        PairedDrops(NLL, [{"clean": parent}], [[{"clean": candidate}]], true)
        for parent, candidate in zip(parents, candidates, strict=True)
    ]
    found = bounds_of_many(questions, weights=weights)
    assert (
        np.mean([one.noninferiority_p[0] <= 0.025 for one in found]) <= 0.025 + 0.0156
    )  # two standard errors
    assert np.mean([one.upper[0] <= true for one in found]) > 0.05  # the bound at 95 % alone


def test_many_drops_together_are_those_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules[PairedDrops.__module__], "DIFFERENCES", 3 * N * 4
    )  # several groups of rates
    two_seeds = [rates(seed, 3) for seed in (5, 6)]
    questions = [
        *(PairedDrops(ACCURACY, [p], [c], "2%" if k % 2 else 0.01) for k, (p, c) in enumerate(map(rates, range(5)))),
        PairedDrops(ERROR, [p for p, _ in two_seeds], [c for _, c in two_seeds], 0.02),
        PairedDrops(NLL, [losses()[0]], [losses()[1]], 0.1),
        PairedDrops(AUROC, [scores()[0]], [scores()[1]], 0.02),
        PairedDrops(ECE, [confidences()[0]], [confidences()[1]], 0.02),
    ]  # fmt: skip
    together = bounds_of_many(questions, weights=WEIGHTS)
    for question, found in zip(questions, together, strict=True):
        alone = statistics.mean_bounds(
            question.metric,
            question.parents,
            question.candidates,
            weights=WEIGHTS,
            tolerance=question.tolerance,
        )
        for name in (*FIELDS, "noninferiority_p", "inferiority_p"):
            np.testing.assert_allclose(getattr(found, name), getattr(alone, name), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("decimals", [1, 9], ids=["ties", "no ties"])
@pytest.mark.parametrize("sizes", [(1, 1), (40, 3), (3, 700)])
def test_replicates_of_the_auroc_from_ranks_are_those_of_its_definition(
    sizes: tuple[int, int], decimals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalsuite.statistics.resampling.BLOCK", 900)
    random = np.random.default_rng(3)
    evidence = {
        name: random.normal(shift, 1, size).round(decimals)
        for name, size, shift in zip(("clean", "out"), sizes, (0, 1), strict=True)
    }
    weights = statistics.bootstrap_weights(dict(zip(evidence, sizes, strict=True)), replicates=60, seed=1)
    expected = metrics.evaluate("auroc", evidence, weights=weights)
    np.testing.assert_array_equal(Replicates(weights)("auroc", evidence), expected)


def test_a_mean_over_sets_takes_the_replicates_of_each_set() -> None:
    random = np.random.default_rng(4)
    evidence = {"clean": random.normal(size=50)} | {name: random.normal(1, 1, 20) for name in ("a", "b")}
    weights = statistics.bootstrap_weights({k: len(x) for k, x in evidence.items()}, replicates=40, seed=2)
    drawn = Replicates(weights)
    for functional in ("mean_auroc", "mean_aupr_in", "mean_fpr95_id_positive"):
        np.testing.assert_array_equal(
            drawn(functional, evidence), metrics.evaluate(functional, evidence, weights=weights)
        )
        assert drawn.value(functional, evidence) == float(metrics.evaluate(functional, evidence))
