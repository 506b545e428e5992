"""Mistakes in a table of measurements, each with its message, and columns of earlier versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalsuite.errors import UnknownNameError, UserError
from evalsuite.thresholds.threshold import thresholds


def table(**changes: Any) -> pd.DataFrame:
    """One method, two ratios, one metric, one condition."""
    columns: dict[str, Any] = {
        "method": ["dense", "magnitude", "magnitude"],
        "ratio": [0.0, 0.5, 0.9],
        "metric": "accuracy",
        "condition": "clean",
        "value": [0.9, 0.89, 0.6],
        "higher_is_better": True,
    }
    return pd.DataFrame(columns | changes)


def test_the_table_that_the_mistakes_start_from_is_right() -> None:
    found = thresholds(table(), tolerance=0.02)
    assert found["potential"].tolist() == [0.5, 0.5]
    assert found["seed"].tolist() == [0, "all"]


@pytest.mark.parametrize("name", ["method", "ratio", "metric", "condition", "value"])
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"no column {name}; thresholds need method, ratio"):
        thresholds(table().drop(columns=name), tolerance=0.02)


ONE = "method magnitude, seed 0, ratio 0.5, metric accuracy, condition clean"
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no parent": ({"ratio": [0.1, 0.5, 0.9]}, "method dense, seed 0, ratio 0.1.*no parent"),
    "parent of another seed": (
        {"seed": [1, 0, 0]},
        f"{ONE}: no parent; give a row with ratio 0 of this seed",
    ),
    "two parents": ({"ratio": [0.0, 0.0, 0.9]}, "method magnitude, seed 0, ratio 0.0.*second parent"),
    "same ratio": ({"ratio": [0.0, 0.5, 0.5]}, f"{ONE}: a second row with this ratio"),
    "same ratio and target": (
        {"method": "m", "ratio": [0.0, 0.5, 0.5], "target_ratio": [0.0, 0.6, 0.6], "value": 0.9},
        "method m, seed 0, ratio 0.5, metric accuracy, condition clean: a second row with this ratio",
    ),
    "same target": ({"target_ratio": [0.0, 0.5, 0.5]}, "a second row with this target_ratio"),
    "ratio in percent": ({"ratio": [0, 50, 90]}, r"ratio 50.0.*the ratio must be in \[0, 1\)"),
    "negative ratio": ({"ratio": [0, -0.1, 0.9]}, "ratio -0.1.*the ratio must be"),
    "no ratio": ({"ratio": [0, np.nan, 0.9]}, "ratio nan.*the ratio must be"),
    "words": ({"value": [0.9, "good", 0.6]}, "column 'value' has 'good' in row 1; it must hold numbers"),
    "words for a ratio": ({"ratio": [0, "half", 0.9]}, "column 'ratio' has 'half' in row 1"),
    "no method": ({"method": ["dense", None, "magnitude"]}, "row 1 of the table has no method"),
    "no condition": ({"condition": ["clean", "clean", None]}, "row 2 of the table has no condition"),
    "no direction": ({"higher_is_better": None}, "no direction is known for accuracy; give a column"),
    "two directions": (
        {"higher_is_better": [True, True, False]},
        "metric 'accuracy' has two values of higher_is_better: True and False",
    ),
    "direction in words": ({"higher_is_better": "up"}, "the direction of metric 'accuracy' is not known"),
    "two units": ({"unit": ["%", "%", "fraction"]}, "two values of unit: '%' and 'fraction'"),
    "two groups": (
        {"group": ["a", "a", "b"]},
        "metric 'accuracy', condition 'clean' has two values of group",
    ),
    "part of an image": ({"n": [899, 899, 898.5]}, "n is the number of images and must be a whole number"),
    "no images": ({"n": [899, 0, 899]}, "n is the number of images"),
    "a seed called all": ({"seed": "all"}, "a seed is called 'all'"),
    "seeds with other target ratios": (
        {
            "method": ["dense", "dense", "m", "m"],
            "seed": [0, 1, 0, 1],
            "ratio": [0, 0, 0.5, 0.6],
            "value": 0.9,
        },
        "the seeds of method 'm' have no ratio in common; give a column target_ratio",
    ),
}


@pytest.mark.parametrize(("first", "second"), [(0.85, 0.5), (0.5, 0.85)])
def test_two_candidates_that_cost_the_same_must_both_pass(first: float, second: float) -> None:
    """On another axis than that of the targets, two of them may stand at one ratio."""
    frame = pd.DataFrame(
        {
            "method": ["dense", *["m"] * 3],
            "target_ratio": [0, 0.3, 0.5, 0.7],
            "ratio": [0, 0.2, 0.4, 0.4],
            "metric": "accuracy",
            "condition": "clean",
            "value": [0.9, 0.9, first, second],
            "higher_is_better": True,
        }
    )
    found = thresholds(frame, tolerance=0.1).iloc[0]
    assert (found["potential"], found["first_failure"]) == (0.2, 0.4)
    assert found["potential_any"] == 0.4


def test_ratios_need_not_rise_with_their_targets() -> None:
    frame = pd.DataFrame(
        {
            "method": ["dense", *["m"] * 3],
            "target_ratio": [0, 0.3, 0.5, 0.7],
            "ratio": [0, 0.4, 0.2, 0.6],  # the second candidate costs more than the first
            "metric": "accuracy",
            "condition": "clean",
            "value": [0.9, 0.6, 0.9, 0.9],
            "higher_is_better": True,
        }
    )
    found = thresholds(frame, tolerance=0.1).iloc[0]
    assert (found["potential"], found["first_failure"]) == (0.2, 0.4)
    assert bool(found["non_monotone"])
    worst_first = frame.assign(value=[0.9, 0.9, 0.6, 0.9])
    found = thresholds(worst_first, tolerance=0.1).iloc[0]
    assert (found["potential"], found["first_failure"], bool(found["infeasible"])) == (0.0, 0.2, True)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_its_sentence(name: str) -> None:
    changes, message = MISTAKES[name]
    frame = table(**changes) if len(changes) == 1 else pd.DataFrame(table().iloc[0].to_dict() | changes)
    with pytest.raises(UserError, match=message):
        thresholds(frame, tolerance=0.02)


@pytest.mark.parametrize("tolerance", [-0.01, float("nan"), float("inf")])
def test_a_tolerance_that_is_none(tolerance: float) -> None:
    with pytest.raises(UserError, match=r"the tolerance of metric 'accuracy' is .* at least 0"):
        thresholds(table(), tolerance=tolerance)
    with pytest.raises(UserError, match=r"the tolerance of metric 'accuracy' is .* at least 0"):
        thresholds(table(), tolerance={"accuracy": tolerance})


def test_percentages_with_the_tolerance_of_a_share_are_asked_about() -> None:
    percent = table(value=[90.0, 89.0, 60.0])
    others = (
        "acc",
        "val_acc@1",
        "top1",
        "Top-5 score",
        "f1_macro",
        "mIoU",
        "precision",
        "recall",
        "error_rate",
    )
    for metric in ("accuracy", "robust_accuracy", "msp_auroc", *others):
        with pytest.raises(UserError, match=f"^{metric} holds values up to 90, .* is 0.005: divide"):
            thresholds(percent.assign(metric=metric), tolerance=0.005)
    found = thresholds(percent, tolerance=0.5)
    assert found["potential"].tolist() == [0.0, 0.0]
    plain = [percent.assign(metric=name) for name in ("nll", "macc", "psnr", "accident_count", "stop1")]
    for clear in (percent.assign(unit="%"), *plain, table()):
        assert len(thresholds(clear, tolerance=0.005)) == 2
    assert thresholds(percent, tolerance="2%")["potential"].tolist() == [0.5, 0.5]


def test_a_tolerance_for_a_metric_that_was_not_measured() -> None:
    with pytest.raises(
        UnknownNameError, match="tolerance for an unknown metric 'acuracy': did you mean 'acc"
    ):
        thresholds(table(), tolerance={"acuracy": 0.02})


def test_a_tolerance_for_a_metric_that_only_describes() -> None:
    with pytest.raises(UserError, match="the direction of metric 'accuracy' is not known"):
        thresholds(table(higher_is_better=None), tolerance={"accuracy": 0.02})


def test_the_argument_gives_the_direction_and_wins() -> None:
    plain = table().drop(columns="higher_is_better")
    for frame in (plain, table(higher_is_better=False)):
        found = thresholds(frame, tolerance=0.02, higher_is_better={"accuracy": True, "nll": False})
        assert found["potential"].tolist() == [0.5, 0.5]


def test_only_metrics_with_a_tolerance_get_rows() -> None:
    frame = pd.concat([table(), table(metric="nll"), table(metric="share", higher_is_better=None)])
    assert set(thresholds(frame, tolerance=0.02)["metric"]) == {"accuracy", "nll"}
    assert set(thresholds(frame, tolerance={"nll": 0.02})["metric"]) == {"nll"}


def test_rows_that_were_not_measured_do_not_count_whatever_they_hold() -> None:
    frame = table(status=["ok", "invalid", "ok"], n=[899, 0, 899], value=[0.9, 0.9, 0.9])
    found = thresholds(frame, tolerance=0.02).iloc[0]
    assert (found["potential"], found["potential_any"], found["first_failure"]) == (0.0, 0.9, 0.5)
    assert found["incomplete"]
    assert found["n"] == 899


def test_a_candidate_that_could_not_be_made_stands_at_its_target() -> None:
    frame = table(ratio=[0, 0.5, np.nan], target_ratio=[0, 0.5, 0.9], status=["ok", "ok", "error"])
    found = thresholds(frame, tolerance=0.02).iloc[0]
    assert (found["first_failure"], found["tested"], found["incomplete"]) == (0.9, "0.5 0.9", True)


def test_a_parent_that_was_not_measured_fails_every_ratio() -> None:
    found = thresholds(table(status=["error", "ok", "ok"]), tolerance=0.02).iloc[0]
    assert found["infeasible"]
    assert found["incomplete"]
    assert np.isnan(found["reference"])


def test_a_given_drop_replaces_the_difference_of_the_values_where_it_is_there() -> None:
    frame = table(drop=[np.nan, 0.05, np.nan], value=[0.9, 0.9, 0.89])
    found = thresholds(frame, tolerance=0.02).iloc[0]
    assert (found["potential"], found["potential_any"]) == (0.0, 0.9)


def test_ties_are_found_at_the_scale_of_the_values() -> None:
    frame = table(value=[64.4, 63.9, 63.8999])
    rounding = 64.4 - 63.9 - 0.5
    assert rounding > 31 * np.finfo(float).eps
    assert thresholds(frame, tolerance=0.5)["potential"].tolist() == [0.5, 0.5]


def test_ties_of_means_are_found_at_the_largest_scale() -> None:
    small, large = table(value=[1.0, 0.5, 0.0]), table(value=[64.4, 63.9, 0.0], seed=1)
    found = thresholds(pd.concat([small, large]).fillna({"seed": 0}), tolerance=0.5)
    assert found["potential"].tolist() == [0.5, 0.5, 0.5]


def test_an_infinite_value_fails_whatever_its_scale() -> None:
    frame = table(value=[0.3, 0.3, np.inf], higher_is_better=False)
    assert thresholds(frame, tolerance=0.5)["first_failure"].tolist() == [0.9, 0.9]


def test_numbers_written_as_text_and_a_strange_index_are_fine() -> None:
    frame = table(value=["0.9", "0.89", "0.6"], n=["899", None, "898"]).set_index(pd.Index([7, 7, 7]))
    found = thresholds(frame, tolerance=0.02)
    assert found["potential"].tolist() == [0.5, 0.5]
    assert found["n"].tolist() == [898, 898]


def test_the_frame_is_left_alone() -> None:
    frame = table(status=["ok", "ok", "error"])
    before = frame.copy(deep=True)
    thresholds(frame, tolerance=0.02)
    pd.testing.assert_frame_equal(frame, before)


def test_a_table_without_candidates_has_no_thresholds() -> None:
    for frame in (table().iloc[:1], table().iloc[:0]):
        found = thresholds(frame, tolerance=0.02)
        assert len(found) == 0
        assert "potential" in found


OLD = {"drop_upper_95": "drop_upper", "drop_lower_simultaneous": "drop_floor", "noninferiority_p": "drop_p"}
BOUNDED = {
    "drop_low": [np.nan, -0.01, 0.2],
    "drop_high": [np.nan, 0.015, 0.4],
    "drop_upper_95": [np.nan, 0.014, 0.39],
    "drop_lower_simultaneous": [np.nan, -0.02, 0.1],
    "noninferiority_p": [np.nan, 0.01, 1.0],
    "drop_tolerance": 0.02,
}


@pytest.mark.parametrize("new", OLD)
def test_columns_of_earlier_versions_are_taken_with_a_warning(new: str) -> None:
    expected = thresholds(table(**BOUNDED), tolerance=0.02)
    assert expected["certified"].tolist() == [0.5, 0.5]
    old = table(**BOUNDED).rename(columns={new: OLD[new]})
    with pytest.warns(DeprecationWarning, match=f"column '{OLD[new]}' is now called '{new}'") as warned:
        found = thresholds(old, tolerance=0.02)
    assert warned[0].filename == __file__
    pd.testing.assert_frame_equal(found, expected)


def test_bounds_over_seeds_may_have_columns_of_earlier_versions() -> None:
    rows = [table(seed=seed, target_ratio=[0, 0.5, 0.9]) for seed in (0, 1)]
    several = pd.concat(rows, ignore_index=True)
    bounds = pd.DataFrame({name: column[1:] for name, column in BOUNDED.items() if isinstance(column, list)})
    over_seeds = bounds.assign(
        method="magnitude", metric="accuracy", condition="clean", target_ratio=[0.5, 0.9], drop_tolerance=0.02
    )
    expected = thresholds(several, tolerance=0.02, over_seeds=over_seeds)
    assert expected.loc[expected["seed"] == "all", "certified"].item() == 0.5
    with pytest.warns(DeprecationWarning, match="is now called") as warned:
        found = thresholds(several, tolerance=0.02, over_seeds=over_seeds.rename(columns=OLD))
    assert len(warned) == len(OLD)
    pd.testing.assert_frame_equal(found, expected)


def test_a_table_with_both_names_keeps_the_present_one() -> None:
    both = table(**BOUNDED, drop_upper=[np.nan, 9.0, 9.0])
    pd.testing.assert_frame_equal(
        thresholds(both, tolerance=0.02), thresholds(table(**BOUNDED), tolerance=0.02)
    )
