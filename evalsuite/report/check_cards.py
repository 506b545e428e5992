"""The first screen of a check: for each finished model whether it may ship, and its checks, those that fail first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalsuite.report.data import Row, records
from evalsuite.report.labels import condition_label, metric_on_condition, number
from evalsuite.results.check_verdicts import (
    CandidateVerdict,
    Outcome,
    candidate_verdicts,
    exit_reason,
    overall_outcome,
)
from evalsuite.thresholds.verdicts import INFERIOR
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalsuite.report.data import ReportData

SHOWN = 12
"""Checks that are shown at once; the others are folded."""


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One check of a candidate.

    Attributes:
        label: Metric and condition.
        row: Its numbers, with the number of images as ``n``.
        margin: Tolerance minus drop, in tolerances: below 0 more is lost than tolerated.
    """

    label: str
    row: Row
    margin: float

    @property
    def fails(self) -> bool:
        """Whether it is a reason of DO NOT SHIP: shown to fail, or without a number."""
        return bool(self.row["verdict"] == INFERIOR or self.row["value"] is None)


@dataclass(frozen=True, slots=True)
class CheckCard:
    """A candidate: its verdict, its costs, its measured time if there is one, and its checks.

    The checks that fail come first, the others by rising margin.
    """

    verdict: CandidateVerdict
    costs: Row
    latency: str
    lines: tuple[CheckLine, ...]

    @property
    def name(self) -> str:
        """Name of the candidate, with its seed where that is not 0."""
        return self.verdict.candidate + (f", seed {self.verdict.seed}" if self.verdict.seed else "")


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """The answer of a check over all candidates, with the exit code of the command and its reason."""

    outcome: Outcome
    exit_code: int
    reason: str
    controls: str
    cards: tuple[CheckCard, ...]


def check_answer(data: ReportData) -> CheckAnswer | None:
    """Returns the answer of a check of finished models; ``None`` for a run that made its candidates."""
    if data.checked.empty:
        return None
    about: dict[str, Any] = data.record["suite"]["check"]
    verdicts = candidate_verdicts(data.checked)
    code, reason = exit_reason(verdicts, about["undecided"])
    rows = records(data.checked)
    places = {(row["metric"], row["condition"]): row for row in records(data.measurements)}
    times = {name: _latency(data, name) for name in (verdict.candidate for verdict in verdicts)}
    cards = [
        _card(verdict, [row for row in rows if _is_of(row, verdict)], places, times[verdict.candidate])
        for verdict in verdicts
    ]
    return CheckAnswer(overall_outcome(verdicts), code, reason, _controls(about["controls"]), tuple(cards))


def _is_of(row: Row, verdict: CandidateVerdict) -> bool:
    return (row["candidate"], row["seed"]) == (verdict.candidate, verdict.seed)


def _latency(data: ReportData, candidate: str) -> str:
    """The measured time of a candidate and that of the parent, for each batch size; empty where none was measured."""
    table = data.measurements
    times = table[(table["metric"] == "latency") & table["value"].notna()]
    of_parent = times[times["method"] == DENSE].set_index("condition")["value"].to_dict()
    return "; ".join(
        f"{number(row['value'], 3)} ms per image ({condition_label(row['condition'])}; "
        f"the parent {number(of_parent.get(row['condition']), 3)})"
        for row in records(times[times["method"] == candidate].drop_duplicates("condition"))
    )


def _card(
    verdict: CandidateVerdict, rows: list[Row], places: Mapping[tuple[str, str], Row], latency: str
) -> CheckCard:
    lines = [_line(row, places) for row in rows if row["value"] is not None or not row["passed"]]
    return CheckCard(
        verdict, rows[0], latency, tuple(sorted(lines, key=lambda line: (not line.fails, line.margin)))
    )


def _line(row: Row, places: Mapping[tuple[str, str], Row]) -> CheckLine:
    measured = places.get((row["metric"], row["condition"]), {})
    place = {**row, "aggregate": "single", "group": measured.get("group") or "", "n": measured.get("n")}
    drop = row["drop"]
    margin = float("-inf") if drop is None else (row["tolerance"] - drop) / max(row["tolerance"], 1e-9)
    return CheckLine(metric_on_condition(place), place, margin)


def _controls(names: list[str]) -> str:
    if not names:
        return (
            "No dense control was given (check --control FILE), so this cannot tell what pruning costs from what "
            "retraining costs."
        )
    count = f"{len(names)} dense control{'s' * (len(names) > 1)}"
    return f"{count} beside the candidates: what they fail as well is not due to pruning."
