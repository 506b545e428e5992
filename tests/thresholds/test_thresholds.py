"""Thresholds of whole tables: seeds, groups, columns, order, speed, and a second implementation in loops."""

from __future__ import annotations

import itertools
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.thresholds.threshold import COLUMNS, threshold, thresholds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAN = float("nan")
Curve = tuple[list[float], list[float]]


def frame_of(curves: Mapping[tuple[str, int, str, str], Curve], **columns: Any) -> pd.DataFrame:
    """A table whose parent has 0.5 everywhere and whose candidates are worse by the given drops."""
    rows: list[dict[str, Any]] = []
    for (method, seed, metric, condition), (ratios, drops) in curves.items():
        here = {"seed": seed, "metric": metric, "condition": condition}
        parent = here | {"method": "dense", "ratio": 0.0, "target_ratio": 0.0, "value": 0.5}
        if parent not in rows:
            rows.append(parent)
        for rung, (ratio, drop) in enumerate(zip(ratios, drops, strict=True), start=1):
            target = {"ratio": ratio, "target_ratio": rung / 100}
            rows.append(here | target | {"method": method, "value": 0.5 - drop})
    return pd.DataFrame(rows).assign(higher_is_better=True, **columns)


def row(found: pd.DataFrame, **labels: Any) -> pd.Series[Any]:
    for name, label in labels.items():
        found = found[found[name] == label]
    assert len(found) == 1
    return found.iloc[0]


THREE_SEEDS = {
    ("wt", 0, "accuracy", "clean"): ([0.501, 0.701, 0.901], [0.0, 0.01, 0.02]),
    ("wt", 1, "accuracy", "clean"): ([0.500, 0.700, 0.900], [0.0, 0.04, 0.01]),
    ("wt", 2, "accuracy", "clean"): ([0.499, 0.699, 0.899], [0.0, 0.01, 0.06]),
}


def test_the_headline_is_the_threshold_of_the_mean_drop() -> None:
    table = thresholds(frame_of(THREE_SEEDS), tolerance=0.02)
    assert table["seed"].tolist() == [0, 1, 2, "all"]
    assert table["potential"].tolist() == [0.901, 0.5, 0.699, pytest.approx(0.7)]
    assert table["potential_any"].tolist() == [0.901, 0.9, 0.699, pytest.approx(0.7)]
    headline = row(table, seed="all")
    assert headline["first_failure"] == pytest.approx(0.9)
    assert headline["underpowered"] is None
    assert headline["tested"] == "0.5 0.7 0.9"
    assert row(table, seed=0)["tested"] == "0.501 0.701 0.901"


def test_the_published_convention_averages_the_potentials_of_the_seeds() -> None:
    table = thresholds(frame_of(THREE_SEEDS), tolerance=0.02)
    headline = row(table, seed="all")
    assert headline["potential_any_mean"] == pytest.approx(np.mean([0.901, 0.9, 0.699]))
    assert headline["potential_any_std"] == pytest.approx(np.std([0.901, 0.9, 0.699]))
    assert table["potential_any_mean"].isna().tolist() == [True, True, True, False]


def test_one_seed_has_no_spread_but_keeps_its_power() -> None:
    one = dict(itertools.islice(THREE_SEEDS.items(), 1))
    table = thresholds(frame_of(one, drop_low=-0.005, drop_high=0.02), tolerance=0.02)
    assert table[["potential_any_mean", "potential_any_std"]].isna().all(axis=None)
    assert table["underpowered"].tolist() == [True, True]
    assert table["potential"].tolist() == [0.901, 0.901]


def test_each_candidate_is_compared_with_the_parent_of_its_own_seed() -> None:
    frame = frame_of(THREE_SEEDS)
    frame.loc[frame["seed"] == 1, "value"] += 0.3
    table = thresholds(frame, tolerance=0.02)
    assert table["potential"].tolist() == [0.901, 0.5, 0.699, pytest.approx(0.7)]
    assert table["reference"].tolist() == pytest.approx([0.5, 0.8, 0.5, 0.6])


def test_a_seed_that_lacks_a_ratio_leaves_the_mean_unmeasured_there() -> None:
    frame = frame_of(THREE_SEEDS)
    table = thresholds(frame[~((frame["seed"] == 1) & (frame["target_ratio"] == 0.02))], tolerance=0.02)
    assert row(table, seed=1)["tested"] == "0.5 0.9"
    assert not row(table, seed=1)["incomplete"]
    headline = row(table, seed="all")
    assert (headline["potential"], headline["first_failure"]) == (0.5, pytest.approx(0.7))
    assert headline["incomplete"]


def test_a_seed_that_lacks_a_condition_is_told() -> None:
    curves = THREE_SEEDS | {("wt", 0, "accuracy", "fog/3"): ([0.501, 0.701], [0.0, 0.0])}
    table = thresholds(frame_of(curves), tolerance=0.02)
    assert row(table, seed="all", condition="fog/3")["incomplete"]
    assert not row(table, seed="all", condition="clean")["incomplete"]
    assert not row(table, seed=0, condition="fog/3")["incomplete"]


def test_a_seed_that_lacks_a_condition_makes_the_headline_of_the_group_incomplete() -> None:
    curves = THREE_SEEDS | {("wt", 0, "accuracy", "fog/3"): ([0.501, 0.701], [0.0, 0.0])}
    table = thresholds(frame_of(curves, group="both"), tolerance=0.02)
    headlines = table[(table["seed"] == "all") & (table["aggregate"] != "single")]
    assert headlines["incomplete"].tolist() == [True, True, True]
    first = table[(table["seed"] == 0) & (table["aggregate"] != "single")]
    assert first["incomplete"].tolist() == [False, False, True]  # fog/3 lacks one ratio in the mean drop


def test_the_mean_of_equal_ratios_is_that_ratio() -> None:
    assert (0.003 + 0.003 + 0.003) / 3 != 0.003
    curves = {("wt", seed, "accuracy", "clean"): ([0.003], [0.0]) for seed in range(3)}
    assert thresholds(frame_of(curves), tolerance=0.02)["potential"].tolist() == 4 * [0.003]


def test_lower_is_better_turns_the_drop_around() -> None:
    frame = frame_of(THREE_SEEDS)
    frame["value"] = 1 - frame["value"]
    pd.testing.assert_frame_equal(
        thresholds(frame.assign(higher_is_better=False), tolerance=0.02).drop(columns="higher_is_better"),
        thresholds(frame_of(THREE_SEEDS), tolerance=0.02).drop(columns="higher_is_better"),
    )


GROUPED = {
    ("wt", 0, "auroc", "fog/3"): ([0.5, 0.7, 0.9], [0.0, 0.03, 0.03]),
    ("wt", 0, "auroc", "snow/3"): ([0.5, 0.7, 0.9], [0.0, 0.0, 0.03]),
    ("wt", 0, "auroc", "blur/3"): ([0.5, 0.7, 0.9], [0.0, 0.0, 0.0]),
}


def test_a_group_has_mean_minimum_and_the_threshold_of_the_mean() -> None:
    table = thresholds(frame_of(GROUPED, group="corruptions"), tolerance=0.02)
    assert table["aggregate"].tolist() == 6 * ["single"] + 2 * ["mean"] + 2 * ["minimum"] + 2 * ["of-mean"]
    assert table["condition"].tolist()[6:] == 6 * ["corruptions"]
    mean, minimum, of_mean = (row(table, aggregate=a, seed="all") for a in ("mean", "minimum", "of-mean"))
    assert mean["potential"] == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert mean["potential_any"] == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert minimum["potential"] == minimum["potential_any"] == 0.5
    assert of_mean["potential"] == 0.9  # mean drops 0, 0.01, 0.02
    assert mean["first_failure"] == minimum["first_failure"] == 0.7
    assert np.isnan(of_mean["first_failure"])
    assert (mean["censored"], minimum["censored"], of_mean["censored"]) == (True, False, True)


def test_a_minimum_is_censored_if_every_condition_that_attains_it_is() -> None:
    curves = {
        ("wt", 0, "auroc", "fog/3"): ([0.5], [0.0]),
        ("wt", 0, "auroc", "snow/3"): ([0.5, 0.7, 0.9], [0.0, 0.0, 0.03]),
    }
    table = thresholds(frame_of(curves, group="corruptions"), tolerance=0.02)
    assert row(table, aggregate="minimum", seed=0)["censored"]
    assert row(table, aggregate="minimum", seed=0)["potential"] == 0.5


def test_the_published_tables_take_mean_and_minimum_per_seed_first() -> None:
    potentials = {("fog/3", 0): 0.5, ("snow/3", 0): 0.9, ("fog/3", 1): 0.9, ("snow/3", 1): 0.7}
    ladder = [0.5, 0.7, 0.9]
    curves = {
        ("wt", seed, "auroc", condition): (ladder, [0.0 if ratio <= reached else 0.5 for ratio in ladder])
        for (condition, seed), reached in potentials.items()
    }
    table = thresholds(frame_of(curves, group="corruptions"), tolerance=0.02)
    for aggregate, per_seed in (("mean", [0.7, 0.8]), ("minimum", [0.5, 0.7])):
        headline = row(table, aggregate=aggregate, seed="all")
        assert headline["potential_any_mean"] == pytest.approx(np.mean(per_seed))
        assert headline["potential_any_std"] == pytest.approx(np.std(per_seed))


def test_a_group_of_one_condition_and_no_group_have_no_aggregates() -> None:
    frame = frame_of(GROUPED)
    frame["group"] = frame["condition"].map({"fog/3": "alone", "snow/3": ""})
    assert set(thresholds(frame, tolerance=0.02)["aggregate"]) == {"single"}


def test_a_method_that_lacks_a_condition_of_the_group_is_incomplete_in_all_aggregates() -> None:
    curves = GROUPED | {("ft", 0, "auroc", "fog/3"): ([0.5, 0.7], [0.0, 0.0])}
    table = thresholds(frame_of(curves, group="corruptions"), tolerance=0.02)
    aggregates = table[table["aggregate"] != "single"]
    assert set(aggregates.loc[aggregates["method"] == "ft", "incomplete"]) == {True}
    assert set(aggregates.loc[aggregates["method"] == "wt", "incomplete"]) == {False}


def test_power_of_aggregates() -> None:
    frame = frame_of(GROUPED, group="corruptions", drop_low=0.0, drop_high=0.01)
    table = thresholds(frame, tolerance=0.02)
    power = {a: row(table, aggregate=a, seed="all")["underpowered"] for a in ("mean", "minimum", "of-mean")}
    assert power == {"mean": False, "minimum": False, "of-mean": None}
    frame.loc[frame["condition"] == "fog/3", "drop_high"] = 0.03
    assert row(thresholds(frame, tolerance=0.02), aggregate="minimum", seed="all")["underpowered"] is True


def test_columns_types_and_a_round_trip_through_csv() -> None:
    table = thresholds(frame_of(GROUPED, group="corruptions", unit="fraction", n=899), tolerance=0.02)
    assert tuple(table.columns) == COLUMNS
    assert table["n"].tolist() == len(table) * [899]
    assert set(table["unit"]) == {"fraction"}
    back = pd.read_csv(StringIO(table.to_csv(index=False)), keep_default_na=False, na_values=[""])
    assert back["potential"].tolist() == table["potential"].tolist()
    assert back["tested"].tolist() == table["tested"].tolist()


def test_the_order_is_that_of_first_appearance() -> None:
    ladder = ([0.5], [0.0])
    keys = itertools.product(["zeta", "alpha"], [1, 0], ["nll", "accuracy"], ["fog/3", "clean"])
    table = thresholds(frame_of(dict.fromkeys(keys, ladder), group="both"), tolerance=0.02)
    labels = list(zip(*(table[name] for name in ("method", "metric", "condition", "seed")), strict=True))
    conditions = ("fog/3", "clean", "both", "both", "both")
    expected = itertools.product(["zeta", "alpha"], ["nll", "accuracy"], conditions, [1, 0, "all"])
    assert labels == list(expected)


def test_a_large_table_has_a_row_for_each_method_metric_condition_and_mode() -> None:
    names = ["method", "ratio", "metric", "condition"]
    ratios = np.linspace(0.05, 0.99, 20).tolist()
    axes = [[f"m{i}" for i in range(20)], ratios, ["accuracy", "auroc", "ece"], [f"c{i}" for i in range(100)]]
    parents = pd.MultiIndex.from_product([["dense"], [0.0], *axes[2:]], names=names)
    frame = parents.append(pd.MultiIndex.from_product(axes, names=names)).to_frame(index=False)
    frame["value"] = 0.9 - frame["ratio"] ** 4 / 10
    frame = frame.assign(higher_is_better=True, group="all of them")
    table = thresholds(frame, tolerance=0.02)
    assert len(table) == 20 * 3 * (100 + 3) * 2


def plain_mean(curves: Iterable[dict[int, tuple[float, float]]]) -> dict[int, tuple[float, float]]:
    """Mean ratio and mean drop at each rung; the drop is NaN where a curve lacks it."""
    members = list(curves)
    rungs = sorted({rung for curve in members for rung in curve})
    means: dict[int, tuple[float, float]] = {}
    for rung in rungs:
        there = [curve[rung] for curve in members if rung in curve]
        drop = sum(drop for _, drop in there) / len(members) if len(there) == len(members) else NAN
        means[rung] = (sum(ratio for ratio, _ in there) / len(there), drop)
    return means


def plain(curve: dict[int, tuple[float, float]]) -> dict[str, Any]:
    points = sorted(curve.values())
    found = threshold([ratio for ratio, _ in points], [drop for _, drop in points], 1 / 64)
    fields = ("potential", "potential_any", "first_failure", "censored", "infeasible", "non_monotone")
    return {name: getattr(found, name) for name in fields}


@st.composite
def tables(draw: st.DrawFn) -> dict[tuple[str, int, str], dict[int, tuple[float, float]]]:
    """Curves by method, seed and condition: rung to measured ratio and drop, all exact in floating point."""
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.sampled_from("xyz")),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
    drops = st.integers(-4, 4).map(lambda k: k / 128) | st.just(NAN)
    rest = dict.fromkeys(range(2, 6), drops)
    return {
        key: {
            rung: (rung / 8 + key[1] / 64, drop)
            for rung, drop in draw(st.fixed_dictionaries({1: drops}, optional=rest)).items()
        }
        for key in keys
    }


@settings(max_examples=40)
@given(tables())
def test_agrees_with_plain_loops(curves: dict[tuple[str, int, str], dict[int, tuple[float, float]]]) -> None:
    rows: list[dict[str, Any]] = []
    for seed, condition in {key[1:] for key in curves}:
        rows.append({"method": "dense", "ratio": 0.0, "seed": seed, "condition": condition, "value": 0.5})
    for (method, seed, condition), curve in curves.items():
        here = {"method": method, "seed": seed, "condition": condition}
        rows += [here | {"ratio": r, "target_ratio": t / 8, "value": 0.5 - d} for t, (r, d) in curve.items()]
    frame = pd.DataFrame(rows).assign(metric="accuracy", higher_is_better=True, group="g")
    table = thresholds(frame, tolerance=1 / 64)

    everything: dict[tuple[str, Any, str], dict[int, tuple[float, float]]] = dict(curves)
    for method, condition in {(key[0], key[2]) for key in curves}:
        seeds = [curve for key, curve in curves.items() if (key[0], key[2]) == (method, condition)]
        everything[method, "all", condition] = plain_mean(seeds)
    expected = {(*key, "single"): plain(curve) for key, curve in everything.items()}
    if len({key[2] for key in curves}) > 1:
        for method, seed in {key[:2] for key in everything}:
            members = [key for key in everything if key[:2] == (method, seed)]
            of_mean = plain_mean([everything[key] for key in members])
            expected[method, seed, "g", "of-mean"] = plain(of_mean)
            for name, function in (("mean", np.mean), ("minimum", np.min)):
                each = {
                    n: [plain(everything[key])[n] for key in members] for n in ("potential", "potential_any")
                }
                expected[method, seed, "g", name] = {n: function(numbers) for n, numbers in each.items()}
    keys = list(zip(*(table[name] for name in ("method", "seed", "condition", "aggregate")), strict=True))
    assert set(keys) == set(expected)
    assert len(keys) == len(expected)
    for key, (_, answer) in zip(keys, table.iterrows(), strict=True):
        for name, value in expected[key].items():
            assert answer[name] == (NAN if value is None else pytest.approx(value)) or (
                value is None and np.isnan(answer[name])
            ), (key, name)


def test_candidates_of_one_measured_ratio_pass_together() -> None:
    """A coarse method made of the targets 0.5 and 0.6 networks of one size: the ratio holds if both do."""
    rows = [
        ("dense", 0.0, 0.0, 0.90),
        ("m", 0.4, 0.4, 0.90),
        ("m", 0.5, 0.5, 0.90),
        ("m", 0.6, 0.5, 0.80),
        ("m", 0.7, 0.7, 0.90),
    ]
    table = pd.DataFrame(rows, columns=["method", "target_ratio", "ratio", "value"])
    table = table.assign(metric="accuracy", condition="clean", higher_is_better=True)
    table["drop_upper_95"] = table["drop_high"] = [np.nan, 0.005, 0.005, 0.105, 0.005]
    table["drop_low"] = table["drop_lower_simultaneous"] = [np.nan, -0.005, -0.005, 0.095, -0.005]
    for order in (table, table.iloc[[0, 4, 3, 2, 1]]):
        found = thresholds(order, tolerance=0.01).query("seed == 'all'").iloc[0]
        assert (found["potential"], found["first_failure"], found["potential_any"]) == (0.4, 0.5, 0.7)
        assert (found["certified"], found["potential_low"], found["potential_high"]) == (0.4, 0.4, 0.4)
        assert found["non_monotone"]
        assert found["tested"] == "0.4 0.5 0.5 0.7"


@pytest.mark.parametrize(
    ("parent", "tolerance", "higher", "chance", "expected"),
    [
        (0.12, 0.02, True, 0.1, True),
        (0.13, 0.02, True, 0.1, False),
        (0.05, 0.01, True, 0.1, True),
        (0.4, "90%", True, 0.1, True),
        (2.2, 0.2, False, 2.3, True),
        (2.0, 0.2, False, 2.3, False),
        (0.12, 0.02, True, np.nan, False),
    ],
)
def test_a_tolerance_that_a_guess_meets_is_flagged(
    parent: float, tolerance: float | str, higher: bool, chance: float, expected: bool
) -> None:
    """A parent at 12 % of ten classes, two points tolerated: nothing can fail but by being worse than a guess."""
    table = pd.DataFrame({"method": ["dense", "m"], "ratio": [0.0, 0.5], "value": [parent, parent]})
    table = table.assign(metric="x", condition="clean", higher_is_better=higher)
    assert thresholds(table, tolerance=tolerance)["at_chance"].tolist() == [False, False]
    assert thresholds(table.assign(chance=chance), tolerance=tolerance)["at_chance"].tolist() == 2 * [
        expected
    ]


def test_a_group_is_at_chance_where_one_of_its_conditions_is() -> None:
    rows = [("dense", 0.0, "a", 0.9), ("m", 0.5, "a", 0.9), ("dense", 0.0, "b", 0.1), ("m", 0.5, "b", 0.1)]
    table = pd.DataFrame(rows, columns=["method", "ratio", "condition", "value"])
    table = table.assign(metric="x", group="g", higher_is_better=True, chance=0.1)
    found = thresholds(table, tolerance=0.01).query("seed == 'all'").set_index(["condition", "aggregate"])
    assert found["at_chance"].to_dict() == {
        ("a", "single"): False,
        ("b", "single"): True,
        ("g", "mean"): True,
        ("g", "minimum"): True,
        ("g", "of-mean"): False,
    }
