"""What bounds certify and what they rule out: hand-made curves, plain loops, seeds, groups, and order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from evalsuite.errors import UserError
from evalsuite.thresholds.threshold import STATEMENTS, threshold, thresholds
from evalsuite.types import Bounds, Threshold

NAN = float("nan")
INF = float("inf")
RATIOS = [0.5, 0.7, 0.9]
LIMITS = ["drop_low", "drop_high", "drop_upper_95", "drop_lower_simultaneous"]


def bounds(drops: Any, high: Any, upper: Any, lower: Any) -> Bounds:
    drop = np.array(drops, dtype=float)
    high, upper, lower = (np.array(one, float) for one in (high, upper, lower))
    p = np.full_like(drop, NAN)
    return Bounds(drop, 2 * drop - high, high, upper, lower, p, p, tolerance=NAN)


def found(drops: Any, *, high: Any, upper: Any, lower: Any, tolerance: float = 0.02) -> Threshold:
    return threshold(RATIOS, drops, tolerance, bounds=bounds(drops, high, upper, lower))


# name: drops, highs, uppers, lowers; certified, interval
HAND_MADE: dict[
    str, tuple[list[float], list[float], list[float], list[float], float, tuple[float, float] | None]
] = {
    "clear": ([0, 0, 0.1], [0.01, 0.01, 0.12], [0.01, 0.01, 0.12], [-0.01, -0.01, 0.08], 0.7, (0.7, 0.7)),
    "nothing known": ([0, 0, 0], [9, 9, 9], [9, 9, 9], [-9, -9, -9], 0.0, (0.0, 0.9)),
    "95 % but not 97.5 %": ([0, 0, 0], [0.01, 0.03, 0.01], [0.01, 0.02, 0.01], [-9, -9, -9], 0.9, (0.5, 0.9)),
    "stops at the first": ([0, 0, 0], [0.03, 0, 0], [0.03, 0, 0], [-9, -9, -9], 0.0, (0.0, 0.9)),
    "fails at once": ([0.1, 0.1, 0.1], [0.12] * 3, [0.12] * 3, [0.05] * 3, 0.0, (0.0, 0.0)),
    "a dip that is shown": (
        [0, 0.1, 0],
        [0.01, 0.2, 0.01],
        [0.01, 0.2, 0.01],
        [-9, 0.05, -9],
        0.5,
        (0.5, 0.5),
    ),
    "a dip that is not": ([0, 0.1, 0], [0.01, 0.2, 0.01], [0.01, 0.2, 0.01], [-9, 0.01, -9], 0.5, (0.5, 0.9)),
    "ties": ([0, 0, 0], [0.02] * 3, [0.02] * 3, [-9, -9, -9], 0.9, (0.9, 0.9)),
    "as low as the tolerance is no failure": ([0.03] * 3, [9] * 3, [9] * 3, [0.02] * 3, 0.0, (0.0, 0.9)),
    "one could not be measured": ([0, NAN, 0], [0, NAN, 0], [0, NAN, 0], [-9, NAN, -9], 0.5, (0.5, 0.9)),
    "one has no bounds": ([0, 0, 0], [0, NAN, 0], [0, NAN, 0], [-9, NAN, -9], 0.5, (0.5, 0.9)),
    "endless bounds": ([0, 0, 0], [0, 0, 0], [0, INF, 0], [0, -INF, 0], 0.5, (0.5, 0.9)),
    "no lower bounds": ([0, 0, 0], [0, 0, 0], [0, 0, 0], [NAN, NAN, NAN], 0.9, None),
    "bounds below the drop": ([0.1, 0, 0], [0] * 3, [0] * 3, [-9] * 3, 0.0, (0.0, 0.9)),
    "lower bounds above the drop": ([0, 0, 0.1], [0, 0, 9], [0, 0, 9], [0.1, 0.1, 0.1], 0.7, (0.7, 0.7)),
    "97.5 % beyond 95 %": ([0, 0, 0], [0, 0, 0], [0, 9, 0], [-9] * 3, 0.5, (0.5, 0.9)),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_bounds(name: str) -> None:
    drops, high, upper, lower, certified, interval = HAND_MADE[name]
    answer = found(drops, high=high, upper=upper, lower=lower)
    assert answer.certified == certified
    assert answer.interval == interval


def test_without_bounds_nothing_is_certified() -> None:
    assert threshold(RATIOS, [0, 0, 0], 0.02).certified is None
    assert threshold(RATIOS, [0, 0, 0], 0.02).interval is None
    biased = found([0, 0, 0], high=[0, 0, 0], upper=[NAN] * 3, lower=[NAN] * 3)
    assert biased.certified is None
    assert biased.interval is None


def test_bounds_give_the_widths() -> None:
    answer = found([0, 0, 0], high=[0.005, 0.005, 0.015], upper=[0] * 3, lower=[-9] * 3)
    assert answer.underpowered is True  # from -0.015 to 0.015
    given = threshold(
        RATIOS, [0, 0, 0], 0.02, widths=[0] * 3, bounds=bounds([0] * 3, [1] * 3, [0] * 3, [0] * 3)
    )
    assert given.underpowered is False


def test_bounds_of_another_length_are_refused() -> None:
    with pytest.raises(UserError, match="3 ratios and bounds on 2 drops"):
        threshold(RATIOS, [0, 0, 0], 0.02, bounds=bounds([0, 0], [0, 0], [0, 0], [0, 0]))


NUMBERS = st.integers(-4, 4).map(lambda k: k / 128) | st.just(NAN)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_agrees_with_plain_loops_and_keeps_its_order(rows: list[tuple[float, ...]]) -> None:
    ratios = [(k + 1) / 10 for k in range(len(rows))]
    drops, high, upper, lower = (np.array(column) for column in zip(*rows, strict=True))
    tolerance = 1 / 128
    answer = threshold(ratios, drops.tolist(), tolerance, bounds=bounds(drops, high, upper, lower))
    certified = low = 0.0
    for ratio, drop, bound in zip(ratios, drops, upper, strict=True):
        if not (drop <= tolerance and bound <= tolerance):
            break
        certified = ratio
    for ratio, drop, bound in zip(ratios, drops, high, strict=True):
        if not (drop <= tolerance and bound <= tolerance and ratio <= certified):
            break
        low = ratio
    end = 0.0
    for ratio, drop, bound in zip(ratios, drops, lower, strict=True):
        if drop > tolerance and bound > tolerance:
            break
        end = ratio
    if np.isnan(drops + upper).all():
        assert answer.certified is None
        return
    assert answer.certified == certified
    if answer.interval is not None:
        assert answer.interval == (low, end)
        assert low <= certified <= answer.potential <= end


def frame(drops: Any, conditions: int = 1, **columns: Any) -> pd.DataFrame:
    """Seeds in rows, ratios in columns; the parent has 0.5."""
    rows: list[dict[str, Any]] = []
    for seed, curve in enumerate(np.atleast_2d(drops)):
        for condition in range(conditions):
            here = {"seed": seed, "metric": "accuracy", "condition": f"c{condition}", "group": "g"}
            rows.append(here | {"method": "dense", "ratio": 0.0, "target_ratio": 0.0, "value": 0.5})
            for ratio, drop in zip(RATIOS, curve, strict=False):
                candidate = {"method": "m", "target_ratio": ratio, "value": 0.5 - drop}
                rows.append(here | candidate | {"ratio": ratio + seed / 1000})
    return pd.DataFrame(rows).assign(higher_is_better=True, **columns)


def over_seeds(condition: str = "c0", **columns: Any) -> pd.DataFrame:
    shared = {"method": "m", "metric": "accuracy", "condition": condition, "target_ratio": RATIOS}
    return pd.DataFrame(shared | dict.fromkeys(LIMITS, 0.0) | columns)


def row(table: pd.DataFrame, **labels: Any) -> pd.Series[Any]:
    for name, label in labels.items():
        table = table[table[name] == label]
    assert len(table) == 1
    return table.iloc[0]


def test_columns_of_a_table_are_used() -> None:
    table = frame([0, 0, 0.1]).assign(
        drop_low=-0.01, drop_high=0.01, drop_upper_95=0.005, drop_lower_simultaneous=-0.01
    )
    table.loc[table["ratio"] == 0.9, "drop_lower_simultaneous"] = 0.05
    table.loc[table["ratio"] == 0.7, "drop_high"] = 0.03
    answers = thresholds(table, tolerance=0.02)
    for seed in (0, "all"):  # one seed: the headline is that seed
        answer = row(answers, seed=seed)
        assert answer[["certified", "potential_low", "potential_high"]].tolist() == [0.7, 0.5, 0.7]
        assert np.isnan(answer["certified_method"])


def test_a_table_without_the_columns_certifies_nothing() -> None:
    answers = thresholds(frame([0, 0, 0]), tolerance=0.02)
    assert answers[list(STATEMENTS)].isna().all(axis=None)
    assert answers.columns[13:22].tolist() == ["potential_any_std", *STATEMENTS]


def test_rows_that_were_not_measured_have_no_bounds() -> None:
    table = frame([0, 0, 0], drop_upper_95=0.0, drop_high=0.0, drop_lower_simultaneous=0.0, status="ok")
    table.loc[table["ratio"] == 0.7, "status"] = "error"
    answer = row(thresholds(table, tolerance=0.02), seed=0)
    assert (answer["certified"], answer["potential_low"], answer["potential_high"]) == (0.5, 0.5, 0.9)


THREE = [[0.0, 0.004, 0.03], [0.002, 0.006, 0.05], [0.001, 0.002, 0.04]]


def test_headlines_of_several_seeds_need_bounds_of_their_own() -> None:
    table = frame(THREE, drop_high=0.0, drop_upper_95=0.0, drop_lower_simultaneous=0.0)
    without = row(thresholds(table, tolerance=0.02), seed="all")
    assert without[list(STATEMENTS)].isna().all()
    given = over_seeds(drop_low=[-0.01] * 3, drop_high=[0.01, 0.03, 0.06], drop_upper_95=[0.01, 0.015, 0.06])
    answer = row(thresholds(table, tolerance=0.02, over_seeds=given), seed="all")
    ratios = [0.501, 0.701]
    assert answer["certified"] == pytest.approx(ratios[1])
    assert answer["potential_low"] == pytest.approx(ratios[0])
    assert answer["potential_high"] == pytest.approx(0.901)
    assert answer["underpowered"] is True
    one = row(thresholds(table, tolerance=0.02, over_seeds=given), seed=1)
    assert one["certified"] == 0.701


def test_the_method_is_certified_by_students_t_and_the_noise_of_the_images() -> None:
    drops = np.array(THREE)[:, 1]
    mean, margin = drops.mean(), 0.006
    of_seeds = t.ppf(0.95, 2) * drops.std(ddof=1) / math.sqrt(3)
    limit = mean + math.hypot(of_seeds, margin)
    given = over_seeds(drop_upper_95=[0.001, mean + margin, 0.06], drop_high=0.06)
    for tolerance, reached in ((limit + 1e-9, 0.701), (limit - 1e-9, 0.501)):
        answer = row(thresholds(frame(THREE), tolerance=tolerance, over_seeds=given), seed="all")
        assert answer["certified_method"] == pytest.approx(reached)
        assert answer["certified"] == pytest.approx(0.701)


def test_two_seeds_say_nothing_about_the_method() -> None:
    answers = thresholds(frame(THREE[:2]), tolerance=0.02, over_seeds=over_seeds())
    assert answers["certified_method"].isna().all()
    assert row(answers, seed="all")["certified"] == pytest.approx(0.7005)


def test_a_seed_that_lacks_a_ratio_stops_what_is_certified() -> None:
    table = frame(THREE)
    table = table[~((table["seed"] == 2) & (table["target_ratio"] == 0.7))]
    answer = row(thresholds(table, tolerance=0.02, over_seeds=over_seeds()), seed="all")
    assert answer["certified"] == answer["certified_method"] == pytest.approx(0.501)


def test_a_seed_that_lacks_a_condition_certifies_nothing_for_all_seeds() -> None:
    table = frame(THREE, conditions=2)
    table = table[~((table["seed"] == 2) & (table["condition"] == "c1") & (table["method"] == "m"))]
    given = pd.concat([over_seeds("c0"), over_seeds("c1")])
    answers = thresholds(table, tolerance=0.02, over_seeds=given)
    single = answers[answers["aggregate"] == "single"]
    assert row(single, seed="all", condition="c0")["certified"] > 0
    assert np.isnan(row(single, seed="all", condition="c1")["certified"])
    assert np.isnan(row(answers, seed="all", aggregate="minimum")["certified"])


def test_the_minimum_of_a_group_is_certified_for_all_its_conditions() -> None:
    table = frame(
        np.zeros((3, 3)), conditions=2, drop_high=0.0, drop_upper_95=0.0, drop_lower_simultaneous=0.0
    )
    table.loc[(table["condition"] == "c1") & (table["target_ratio"] == 0.9), "drop_upper_95"] = 0.03
    given = pd.concat([over_seeds("c0"), over_seeds("c1", drop_upper_95=[0.0, 0.03, 0.0])])
    answers = thresholds(table, tolerance=0.02, over_seeds=given)
    first = row(answers, aggregate="minimum", seed=0)
    assert first["certified"] == 0.7
    assert np.isnan([first["potential_low"], first["potential_high"], first["certified_method"]]).all()
    headline = row(answers, aggregate="minimum", seed="all")
    assert headline["certified"] == headline["certified_method"] == pytest.approx(0.501)
    for aggregate in ("mean", "of-mean"):
        rest = answers[answers["aggregate"] == aggregate]
        assert len(rest) == 4
        assert rest[list(STATEMENTS)].isna().all(axis=None)


def test_a_group_with_a_condition_without_bounds_certifies_nothing() -> None:
    table = frame([0, 0, 0], conditions=2, drop_high=0.0, drop_upper_95=0.0, drop_lower_simultaneous=0.0)
    table.loc[table["condition"] == "c1", "drop_upper_95"] = NAN
    answers = thresholds(table, tolerance=0.02)
    assert np.isnan(row(answers, aggregate="minimum", seed=0)["certified"])
    assert row(answers, condition="c0", seed=0)["certified"] == 0.9


def test_bounds_over_seeds_must_fit() -> None:
    table = frame(THREE)
    with pytest.raises(
        UserError, match="over_seeds has no column drop_lower_simultaneous; it needs method, metric"
    ):
        thresholds(table, tolerance=0.02, over_seeds=over_seeds().drop(columns="drop_lower_simultaneous"))
    with pytest.raises(UserError, match=r"method m, target_ratio 0\.8, which the table has not"):
        thresholds(table, tolerance=0.02, over_seeds=over_seeds(target_ratio=[0.5, 0.7, 0.8]))
    with pytest.raises(UserError, match="method x, target_ratio"):
        thresholds(table, tolerance=0.02, over_seeds=over_seeds(method="x"))
    other = pd.concat([over_seeds(), over_seeds(metric="nll")])
    assert row(thresholds(table, tolerance=0.02, over_seeds=other), seed="all")["certified"] > 0
    nothing = thresholds(table, tolerance=0.02, over_seeds=over_seeds().head(0))
    assert nothing["certified"].isna().all()
