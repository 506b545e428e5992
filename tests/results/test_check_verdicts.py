"""The verdict on a finished model: when it may ship, when it may not, and when the images leave it open."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from evalsuite.results.check_verdicts import (
    COLUMNS,
    CandidateVerdict,
    candidate_verdicts,
    exit_reason,
    overall_outcome,
)

HOLDS: dict[str, Any] = {"verdict": "non-inferior", "drop": 0.0, "passed": True}
FAILS: dict[str, Any] = {"verdict": "inferior", "drop": 0.2, "passed": False}
OPEN: dict[str, Any] = {"verdict": "undecided", "drop": 0.0, "passed": True}
OPEN_ABOVE: dict[str, Any] = {"verdict": "undecided", "drop": 0.2, "passed": False}
NEVER: dict[str, Any] = {**OPEN, "decidable": False}
NEVER_ABOVE: dict[str, Any] = {**OPEN_ABOVE, "decidable": False}
MISSING: dict[str, Any] = {**OPEN, "value": float("nan"), "drop": float("nan"), "passed": False}
UNDEFINED: dict[str, Any] = {**MISSING, "passed": True}


def verdict_of(*rows: dict[str, Any], candidate: str = "light") -> CandidateVerdict:
    about = {"candidate": candidate, "seed": 0, "value": 0.9, "tolerance": 0.1, "decidable": True}
    table = pd.DataFrame([about | row for row in rows], columns=list(COLUMNS))
    (found,) = candidate_verdicts(table)
    return found


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        ((HOLDS, HOLDS), "SHIP"),
        ((HOLDS, NEVER), "SHIP"),
        ((HOLDS, UNDEFINED), "SHIP"),
        ((HOLDS, FAILS), "DO NOT SHIP"),
        ((HOLDS, MISSING), "DO NOT SHIP"),
        ((HOLDS, OPEN), "UNDECIDED"),
        ((HOLDS, OPEN_ABOVE), "UNDECIDED"),
        ((HOLDS, NEVER_ABOVE), "UNDECIDED"),
    ],
    ids=[
        "holds",
        "never decided",
        "undefined",
        "fails",
        "missing",
        "open",
        "open above",
        "never decided, above",
    ],
)
def test_the_outcome_is_that_of_the_weakest_check(rows: tuple[dict[str, Any], ...], outcome: str) -> None:
    found = verdict_of(*rows)
    assert found.outcome == outcome
    assert found.noninferior + found.inferior + found.missing + found.undecided == found.checks


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ((HOLDS, FAILS), "1 of 2 checks is shown to fail, 1 to hold"),
        ((HOLDS, FAILS, FAILS), "2 of 3 checks are shown to fail, 1 to hold"),
        ((HOLDS, OPEN), "0 of 2 checks are shown to fail, 1 to hold; 1 is undecided"),
        (
            (FAILS, OPEN, OPEN_ABOVE, NEVER_ABOVE),
            "1 of 4 checks is shown to fail, 0 to hold; 3 are undecided, 2 of them measured above their tolerance "
            "(no number of images decides 1 of the 3)",
        ),
        (
            (HOLDS, NEVER),
            "0 of 2 checks are shown to fail, 1 to hold; 1 is undecided (no number of images decides it)",
        ),
        (
            (HOLDS, NEVER_ABOVE),
            "0 of 2 checks are shown to fail, 1 to hold; 1 is undecided, measured above its tolerance "
            "(no number of images decides it)",
        ),
    ],
)
def test_the_reason_says_what_is_only_measured_to_fail(rows: tuple[dict[str, Any], ...], reason: str) -> None:
    """Checks that fail by their measured drop are those shown to fail, and those measured above their tolerance."""
    assert verdict_of(*rows).reason == reason


def test_a_drop_that_equals_its_tolerance_up_to_rounding_is_no_failure() -> None:
    equal = {**NEVER, "drop": 0.1 + 2e-17 + 1e-16, "tolerance": 0.1}
    assert equal["drop"] > 0.1
    assert verdict_of(HOLDS, equal).outcome == "SHIP"


def test_the_worst_candidate_is_the_outcome_and_the_reason_names_all_that_fail() -> None:
    ships, fails = verdict_of(HOLDS), verdict_of(FAILS, candidate="heavy")
    still_open, above = verdict_of(OPEN, candidate="open"), verdict_of(OPEN_ABOVE, candidate="above")
    assert overall_outcome([ships]) == "SHIP"
    assert overall_outcome([ships, still_open]) == "UNDECIDED"
    assert overall_outcome([ships, still_open, fails]) == "DO NOT SHIP"
    assert exit_reason([ships], "measured") == (0, "no candidate fails")
    assert exit_reason([ships, still_open], "pass") == (
        0,
        "no candidate fails; open UNDECIDED, which passes by --undecided pass",
    )
    assert exit_reason([fails, above, ships], "measured") == (
        1,
        "heavy DO NOT SHIP; above UNDECIDED, which fails by --undecided measured",
    )
