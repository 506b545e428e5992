"""Verdicts: Holm against its definition, the exact null through the whole chain, duplicates, planted failures."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.results.harmless_copy import COLUMNS as HARMLESS
from evalsuite.results.verdict_tables import check_table, count_table, group_table
from evalsuite.thresholds.intervals import RatioTests, potential_interval
from evalsuite.thresholds.seeds import tests_over_seeds as over_seeds
from evalsuite.thresholds.threshold import judged_curves, threshold_rows
from evalsuite.thresholds.verdicts import ERROR, INFERIOR, NONINFERIOR, UNDECIDED, holm, verdicts

CLOSE = 1e-9
SHAPES = ["steep", "plateau", "ties", "at once"]
slow = pytest.mark.skipif(not os.environ.get("EVALSUITE_SLOW"), reason="EVALSUITE_SLOW is not set")
"""Thousands of simulated samples, for a change of the statistics."""


def unknown(count: int) -> Any:
    return np.full(count, np.nan)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=12))
def test_holm_is_bonferroni_step_by_step(p_values: list[float]) -> None:
    p = np.array(p_values)
    left = set(range(len(p)))
    while left:  # the definition: the smallest of those that are left, at the level of so many
        smallest = min(left, key=lambda index: p[index])
        if p[smallest] > ERROR / len(left):
            break
        left.remove(smallest)
    assert set(np.flatnonzero(~holm(p, unknown(len(p))))) == left


def test_a_test_that_is_there_twice_counts_once() -> None:
    p = np.array([0.006, 0.009, 0.02, 0.9])
    once = holm(p, np.arange(4.0))
    twice = holm(np.concatenate([p, p]), np.tile(np.arange(4.0), 2))
    assert once.tolist() == [True, False, False, False]
    assert twice.tolist() == [*once, *once]
    assert not holm(np.concatenate([p, p]), unknown(8)).any()


def test_a_search_is_tested_at_the_level_of_its_whole_grid() -> None:
    rows = pd.DataFrame({"inferiority_p": [0.004, 1.0], "noninferiority_p": 1.0, "condition": "clean"})
    rows = rows.assign(method="m", scope="s", seed=0, metric="a", aggregate="single", test=np.nan)
    rows = rows.assign(drop_tolerance=0.01)
    assert verdicts(rows.assign(grid=0)).tolist() == [INFERIOR, UNDECIDED]
    assert verdicts(rows.assign(grid=9)).tolist() == [UNDECIDED, UNDECIDED]


def test_a_row_without_bounds_is_undecided_and_one_without_a_tolerance_has_no_verdict() -> None:
    rows = pd.DataFrame(
        {"inferiority_p": np.nan, "noninferiority_p": np.nan, "drop_tolerance": [0.01, np.nan]}
    )
    rows = rows.assign(method="m", scope="s", seed=0, test=np.nan, grid=0)
    assert verdicts(rows).tolist() == [UNDECIDED, ""]


def one_curve(noninferiority: list[float], inferiority: list[float], grid: int = 0) -> tuple[float, ...]:
    ratios = np.array([0.5, 0.7, 0.9])
    tests = np.array([noninferiority]), np.array([inferiority])
    found = potential_interval(
        RatioTests(ratios, np.ones((1, 3), bool), *tests, np.full((1, 3), np.nan), grid)
    )
    return found.noninferior_up_to, found.largest_undecided, found.inferior_from


def test_the_interval_is_found_from_below_and_from_above() -> None:
    assert one_curve([0.001, 0.5, 1], [1, 1, 0.001])[:2] == (0.5, 0.7)
    assert one_curve([0.5, 0.001, 0.001], [1, 1, 1])[:2] == (0.0, 0.9)  # a prefix, whatever holds above
    assert one_curve([1, 1, 1], [0.001, 0.001, 0.001]) == (0.0, 0.0, 0.5)
    assert one_curve([1, 1, 1], [0.02, 1, 1])[1] == 0.9  # 2 % is not enough for three tests
    assert one_curve([1, 1, 1], [0.008, 1, 1]) == (0.0, 0.0, 0.5)  # one inferior below makes all above fail
    assert one_curve([1, 1, 1], [1, 0.001, 1]) == (0.0, 0.5, 0.7)


def test_the_interval_of_a_search_shares_its_level_among_the_grid() -> None:
    assert one_curve([1, 1, 1], [1, 1, 0.004])[1] == 0.7
    assert one_curve([1, 1, 1], [1, 1, 0.004], grid=9)[1] == 0.9
    assert one_curve([1, 1, 1], [1, 0.002, 1], grid=9) == (0.0, 0.5, 0.7)


def chain(simulation: Any, d: Any, tolerance: float) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Verdicts, thresholds and groups of differences, as a run makes them."""
    table = simulation.measurements(d, tolerance)
    checks = check_table(table[table["method"] != "dense"], None, None, None)
    judged = judged_curves(table, tolerance, {})
    return checks, threshold_rows(judged), group_table(judged)


def says_that_it_fails(tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> bool:
    """Whether a familywise claim, or the interval of everything, names a failure."""
    checks, _, groups = tables
    everything = groups[groups["group"] == "everything"]
    return bool((checks["verdict"] == INFERIOR).any() or everything["inferior_from"].notna().any())


def null(simulation: Any, draws: int, seed: int) -> list[bool]:
    """Whether a harmless copy of a candidate with real drops is said to fail: evidence exchanged image by image."""
    random = np.random.default_rng(seed)
    d = simulation.differences(simulation.Setting("ties", 600, 0.01, checks=15), random)
    return [
        says_that_it_fails(chain(simulation, simulation.exchanged(d, random), 0.01)) for _ in range(draws)
    ]


def test_a_harmless_copy_is_not_said_to_fail(simulation: Any) -> None:
    assert not any(null(simulation, 6, seed=0))


def test_a_harmless_copy_is_said_to_fail_in_at_most_16_of_200_draws(simulation: Any) -> None:
    random = np.random.default_rng(10)
    d = simulation.differences(simulation.Setting("ties", 600, 0.01, checks=15), random)
    found = [simulation.claims(simulation.exchanged(d, random), 0.01) for _ in range(200)]
    named = [bool(c.inferior.any()) or not np.isnan(c.interval.inferior_from) for c in found]
    assert sum(named) <= 16
    assert sum(c.potential == 0 for c in found) > 100  # what point estimates would have said


@pytest.mark.extensive
def test_a_harmless_copy_is_not_said_to_fail_in_two_hundred_draws(simulation: Any) -> None:
    assert sum(null(simulation, 200, seed=1)) <= 16


@slow
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_harmless_copy_is_not_said_to_fail_in_two_thousand_draws(simulation: Any) -> None:
    failures = np.mean(null(simulation, 2000, seed=2))
    assert failures <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


def check_interval(simulation: Any, setting: Any, draws: int) -> list[Any]:
    found = list(simulation.simulated(setting, draws, seed=3))
    allowed = ERROR * draws + 2 * np.sqrt(ERROR * (1 - ERROR) * draws)
    truth = setting.truth
    assert sum(c.interval.noninferior_up_to > truth + CLOSE for c in found) <= allowed
    assert sum(c.interval.largest_undecided < truth - CLOSE for c in found) <= allowed
    assert sum(c.interval.median < truth - CLOSE for c in found) <= draws / 2 + np.sqrt(draws)
    for c in found:
        assert c.interval.noninferior_up_to <= c.potential + CLOSE
        assert c.potential <= c.interval.median + CLOSE
        assert c.interval.median <= c.interval.largest_undecided + CLOSE
        assert not (c.inferior & c.noninferior).any()
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_holds_the_true_potential(simulation: Any, shape: str) -> None:
    interval = check_interval(simulation, simulation.Setting(shape, 500, 0.02, checks=15), 60)
    if shape == "steep":
        assert np.mean([c.inferior[:, 3:].mean() for c in interval]) > 0.9  # caution alone would never err


@slow
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_of_75_checks_holds_the_true_potential(simulation: Any, shape: str) -> None:
    interval = check_interval(simulation, simulation.Setting(shape, 899, 0.01), 500)
    power = {"steep": 0.97, "plateau": 0.97, "ties": 0.8, "at once": 0.35}[shape]
    failing = simulation.Setting(shape, 899, 0.01).drops > 0.01 + CLOSE
    assert np.mean([c.inferior[failing].mean() for c in interval]) > power


def test_the_plain_point_estimate_would_fail(simulation: Any) -> None:
    setting = simulation.Setting("ties", 500, 0.02, checks=15)
    found = list(simulation.simulated(setting, 30, seed=4))
    assert sum(c.potential < setting.truth - CLOSE for c in found) > 15


def test_a_planted_failure_is_found_with_the_stated_power(simulation: Any) -> None:
    setting = simulation.Setting(simulation.ONE, 2800, 0.01, checks=15, lowest=0.06, highest=0.06)
    found = list(simulation.simulated(setting, 40, seed=5))
    assert sum(c.inferior[7, 0] for c in found) >= 26  # 80 % among 375 tests, more among 75


def test_a_duplicated_check_changes_nothing(simulation: Any) -> None:
    random = np.random.default_rng(6)
    d = simulation.differences(simulation.Setting("ties", 500, 0.01, checks=15), random)
    table = simulation.measurements(d, 0.01)
    first = table["condition"] == table["condition"].iloc[0]
    copy = table[first].assign(condition="copy/1")
    both = pd.concat([table, copy], ignore_index=True)
    once, twice = (check_table(t[t["method"] != "dense"], None, None, None) for t in (table, both))
    states = twice[twice["condition"] != "copy/1"]["verdict"].tolist()
    assert states == once["verdict"].tolist()
    copied = twice[twice["condition"] == "copy/1"]["verdict"].tolist()
    assert copied == once[once["condition"] == table["condition"].iloc[0]]["verdict"].tolist()
    groups = [group_table(judged_curves(t, 0.01, {})) for t in (table, both)]
    ends = [g[g["group"] == "everything"][["noninferior_up_to", "inferior_from"]].to_numpy() for g in groups]
    np.testing.assert_array_equal(ends[0], ends[1])


def test_the_tables_agree_with_the_plain_computation(simulation: Any) -> None:
    random = np.random.default_rng(8)
    setting = simulation.Setting("steep", 800, 0.01, checks=15)
    d = simulation.differences(setting, random)
    checks, answers, groups = chain(simulation, d, 0.01)
    expected = simulation.claims(d, 0.01)
    states = checks["verdict"].to_numpy().reshape(15, 5)
    np.testing.assert_array_equal(states == INFERIOR, expected.inferior)
    np.testing.assert_array_equal(states == NONINFERIOR, expected.noninferior)
    everything = groups[(groups["group"] == "everything") & (groups["seed"] == "all")].iloc[0]
    assert everything["noninferior_up_to"] == expected.interval.noninferior_up_to
    assert everything["potential"] == pytest.approx(expected.potential)
    counts = count_table(checks, pd.DataFrame(columns=["method", "seed", "target_ratio", *HARMLESS]))
    assert (counts[[NONINFERIOR, INFERIOR, UNDECIDED]].sum(axis=1) == counts["checks"]).all()
    assert counts["checks"].tolist() == [15] * 5
    headline = answers[(answers["seed"] == "all") & answers["noninferior_up_to"].notna()]
    assert (headline["noninferior_up_to"] <= headline["potential"]).all()
    shown = headline[headline["inferior_from"].notna()]
    assert (shown["potential"] < shown["inferior_from"]).all()
    minimum = headline[headline["aggregate"] == "minimum"]
    assert len(minimum) == 1


def test_a_decided_row_is_not_underpowered(simulation: Any) -> None:
    random = np.random.default_rng(9)
    d = simulation.differences(simulation.Setting("steep", 4000, 0.01, checks=5), random)
    table = simulation.measurements(d, 0.01).assign(drop_low=-1.0, drop_high=1.0)
    rows = threshold_rows(judged_curves(table, 0.01, {})).query("seed == 'all' and aggregate == 'single'")
    decided = rows["noninferior_up_to"] == rows["potential"]
    decided &= rows["inferior_from"] == rows["first_failure"]
    assert decided.any()
    assert not rows[decided]["underpowered"].any()


def test_seeds_as_a_sample_need_more_than_the_images_alone() -> None:
    p = np.array([0.001, 0.001, 0.001])
    margins, errors = np.array([0.01, 0.01, -0.01]), np.array([0.0, 0.004, 0.0])
    found = over_seeds(p, margins, errors, np.full(3, 3))
    assert found[0] == pytest.approx(0.001)  # seeds that do not differ: the images decide
    assert found[1] > ERROR
    assert found[2] == 1.0
