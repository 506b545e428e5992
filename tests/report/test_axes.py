"""What a report says of ratios that are no shares of parameters; and who may be compared with whom then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalsuite.report.fairness import fairness
from evalsuite.report.matrix import tip
from evalsuite.report.verdicts import sentences, verdict
from evalsuite.types import Candidate, Cost, Phase

ROW = {
    "method": "m", "metric": "accuracy", "condition": "clean", "group": "", "aggregate": "single", "unit": "",
    "tolerance": 0.01, "reference": 0.9, "potential": 0.8, "potential_any": 0.8, "first_failure": 0.9, "n": 100,
    "tested": "0.8 0.9", "censored": False, "infeasible": False, "axis": "packed",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Test accuracy holds to 80\u202f% of the packed bytes gone."),
        ({"axis": "nonzero"}, "Test accuracy holds to 80\u202f%."),
        ({"axis": None}, "Test accuracy holds to 80\u202f%."),
        (
            {"censored": True, "axis": "macs"},
            "Test accuracy holds to at least 80\u202f% of the multiply-accumulates gone, the largest ratio tested.",
        ),
        (
            {"infeasible": True, "axis": "bytes"},
            "Test accuracy fails at 90\u202f% of the bytes on disk gone, the smallest ratio tested.",
        ),
    ],
)
def test_the_answer_says_what_is_gone(changes: dict[str, object], said: str) -> None:
    assert str(sentences(verdict([{**ROW, **changes}], "m"))[0]) == said


def test_so_does_what_a_number_says_when_one_points_at_it() -> None:
    assert "Holds to 80\u202f% of the packed bytes gone; first failure at 90\u202f%" in tip(ROW)
    assert "gone" not in tip({**ROW, "axis": "nonzero"})


def candidate(method: str, axis: str, *, packed: int | None) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400, packed)
    history = (Phase("pretraining", 1, 10, 30, "constant", "s"),)
    return Candidate(method, 0, 0.5, 0.5, 0.5, cost, "w", {"name": "net"}, history, axis)


@pytest.mark.parametrize(("packed", "same"), [(200, True), (203, True), (150, False), (None, False)])
def test_ratios_of_different_things_are_compared_by_what_both_are_stored_in(
    packed: int | None, same: bool
) -> None:
    """Both say 50 %, one of the parameters, the other of the bytes: that is no comparison."""
    zeros = candidate("magnitude", "nonzero", packed=200)
    zeros = replace(zeros, cost=replace(zeros.cost, macs_nonzero=100))
    (found,) = fairness([zeros, candidate("unify", "packed", packed=packed)], made=("magnitude", "unify"))
    assert found.holds["S1"] is same
    if not same:
        assert found.why == "at 50 %: ratios 50 % of the non-zero parameters and 50 % of the packed bytes"
