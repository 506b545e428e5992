"""What the page says of checks that are read together, and each for itself."""

from __future__ import annotations

from typing import Any

import pytest

from evalsuite.report.matrix import tip
from evalsuite.report.verdicts import verdict


def row(condition: str, certified: float | None, jointly: float | None) -> dict[str, Any]:
    return {
        "method": "m", "metric": "accuracy", "condition": condition, "group": "", "aggregate": "single",
        "unit": "fraction", "potential": 0.9, "potential_any": 0.9, "first_failure": None, "censored": True,
        "infeasible": False, "certified": certified, "certified_jointly": jointly, "tolerance": 0.01,
        "reference": 0.9, "n": 100, "tested": "0.5 0.9",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "proven", "jointly"),
    [
        ([row("clean", 0.9, 0.5), row("fog/3", 0.7, 0.7)], 0.7, 0.5),
        ([row("clean", 0.9, 0.9), row("fog/3", None, None)], 0.9, 0.9),
        ([row("clean", 0.9, 0.9), row("frost*/3", 0.5, None)], 0.9, 0.9),
        ([row("clean", None, None)], None, None),
    ],
)
def test_a_verdict_has_both(rows: Any, proven: float | None, jointly: float | None) -> None:
    found = verdict(rows, "m")
    assert (found.proven, found.jointly) == (proven, jointly)


def test_a_number_says_what_holds_beside_all_others() -> None:
    assert "Read together with all other checks of the method (Holm): 50\u202f%" in tip(
        row("clean", 0.9, 0.5)
    )
    assert "Holm" not in tip(row("clean", 0.9, None))
