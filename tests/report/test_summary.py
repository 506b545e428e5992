"""The sentences of a method: how far it holds, and the ratios that are certified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalsuite.report.labels import THIN
from evalsuite.report.summary import method_summary, sentences

if TYPE_CHECKING:
    pass


FLAGS = ("censored", "infeasible", "non_monotone", "incomplete", "underpowered")


def row(metric: str, condition: str, potential: float, **given: Any) -> dict[str, Any]:
    shared = {"method": "magnitude", "group": "", "aggregate": "single", "tolerance": 0.01, "reference": 0.9}
    shared |= {"potential_any": potential, "n": 100, "unit": "fraction", "tested": "0.5 0.8 0.9"}
    shared |= {"first_failure": 0.9 if potential else 0.5, "infeasible": not potential}
    return {
        **dict.fromkeys(FLAGS, False),
        **shared,
        "metric": metric,
        "condition": condition,
        "potential": potential,
    } | given


ACCURACY = row("accuracy", "clean", 0.8)


CENSORED = {"censored": True, "first_failure": None}


FOG = {"group": "corruptions"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [ACCURACY, row("accuracy", "fog/3", 0.5, **FOG)],
            "Test accuracy holds up to 80 %. But accuracy under fog (severity 3) holds only up to 50 %.",
        ),
        (
            [ACCURACY, row("accuracy", "fog/3", 0.5, **FOG), row("nll", "clean", 0.5)],
            "Test accuracy holds up to 80 %. "
            "But accuracy under fog (severity 3) and one other check hold only up to 50 %.",
        ),
        (
            [ACCURACY, row("msp_auroc", "letters", 0.0)],
            "Test accuracy holds up to 80 %. But MSP AUROC on letters fails already at 50 %.",
        ),
        (
            [ACCURACY, row("nll", "clean", 0.9, **CENSORED)],
            "Test accuracy holds up to 80 %. So does everything else with a tolerance: 1 check.",
        ),
        (
            [row("accuracy", "clean", 0.9, **CENSORED), row("brier", "clean", 0.783)],
            "Test accuracy holds up to at least 90 %, the largest ratio tested. "
            "But brier on clean images holds only up to 78.3 %.",
        ),
        ([ACCURACY], "Test accuracy holds up to 80 %. No other metric has a tolerance."),
        (
            [row("accuracy", "clean", 0.0), row("nll", "clean", 0.8)],
            "Test accuracy fails at 50 %, the smallest ratio tested.",
        ),
        (
            [row("nll", "clean", 0.8)],
            "Everything measured holds up to 80 %. First failure: NLL on clean images.",
        ),
        ([], "No threshold can be stated: no metric with a tolerance was measured at a ratio above 0."),
    ],
)
def test_a_summary_is_one_plain_sentence(rows: list[dict[str, Any]], words: str) -> None:
    said = " ".join(map(str, sentences(method_summary(rows, "magnitude"))))
    assert said.replace(THIN, " ") == words


def test_of_equal_thresholds_the_better_known_metric_is_named() -> None:
    rows = [row("agreement", "clean", 0.5), row("accuracy", "fog/3", 0.5), ACCURACY]
    found = method_summary(rows, "magnitude")
    assert found.weakest is rows[1]
    assert (found.ties, found.checks) == (1, 3)


ROW = {
    "method": "m", "metric": "accuracy", "condition": "clean", "group": "", "aggregate": "single", "unit": "",
    "tolerance": 0.01, "reference": 0.9, "potential": 0.8, "potential_any": 0.8, "first_failure": 0.9, "n": 100,
    "tested": "0.8 0.9", "censored": False, "infeasible": False, "axis": "packed",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Test accuracy holds up to 80\u202f% of the packed bytes gone."),
        ({"axis": "nonzero"}, "Test accuracy holds up to 80\u202f%."),
        ({"axis": None}, "Test accuracy holds up to 80\u202f%."),
        (
            {"censored": True, "axis": "macs"},
            "Test accuracy holds up to at least 80\u202f% of the multiply-accumulates gone, the largest ratio tested.",
        ),
        (
            {"infeasible": True, "axis": "bytes"},
            "Test accuracy fails at 90\u202f% of the bytes on disk gone, the smallest ratio tested.",
        ),
    ],
)
def test_a_summary_names_the_cost_that_the_ratio_is_a_share_of(changes: dict[str, object], said: str) -> None:
    assert str(sentences(method_summary([{**ROW, **changes}], "m"))[0]) == said


def certified_row(condition: str, certified: float | None, jointly: float | None) -> dict[str, Any]:
    return {
        "method": "m", "metric": "accuracy", "condition": condition, "group": "", "aggregate": "single",
        "unit": "fraction", "potential": 0.9, "potential_any": 0.9, "first_failure": None, "censored": True,
        "infeasible": False, "certified": certified, "certified_jointly": jointly, "tolerance": 0.01,
        "reference": 0.9, "n": 100, "tested": "0.5 0.9",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "certified", "jointly"),
    [
        ([certified_row("clean", 0.9, 0.5), certified_row("fog/3", 0.7, 0.7)], 0.7, 0.5),
        ([certified_row("clean", 0.9, 0.9), certified_row("fog/3", None, None)], 0.9, 0.9),
        ([certified_row("clean", 0.9, 0.9), certified_row("frost-synthetic/3", 0.5, None)], 0.9, 0.9),
        ([certified_row("clean", None, None)], None, None),
    ],
)
def test_a_summary_has_both_certified_ratios(
    rows: Any, certified: float | None, jointly: float | None
) -> None:
    found = method_summary(rows, "m")
    assert (found.certified, found.jointly) == (certified, jointly)


def threshold(metric: str, condition: str, potential: float, **given: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("censored", "infeasible", "non_monotone", "incomplete", "underpowered"), False)
    shared = {"method": "m", "group": "", "aggregate": "single", "first_failure": 0.9, "certified": potential}
    return {**flags, **shared, "metric": metric, "condition": condition, "potential": potential} | given


def test_the_certified_ratio_of_all_checks_is_the_smallest_without_undecided_ones() -> None:
    rows = [threshold("accuracy", "clean", 0.8), threshold("nll", "clean", 0.7, certified=0.5)]
    rows.append(threshold("ece_equal_width", "clean", 0.9, certified=None))
    found = method_summary(rows, "m")
    assert (found.certified, found.undecided, found.checks) == (0.5, 1, 3)
    assert method_summary(rows[2:], "m").certified is None
