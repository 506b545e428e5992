"""The verdicts of a check as Markdown, for the summary of a job or a comment on a change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evalsuite.results.check_verdicts import (
    UndecidedRule,
    candidate_verdicts,
    exit_reason,
    failing_counts,
    stages_sentence,
)
from evalsuite.thresholds.verdicts import INFERIOR

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10
"""Checks of a candidate that are listed."""


def markdown_summary(verdicts: pd.DataFrame, undecided: UndecidedRule) -> str:
    """Returns a table of candidates, and below it what each of them loses most.

    Args:
        verdicts: See `evalsuite.results.check_verdicts.verdict_table`.
        undecided: The rule for undecided checks.
    """
    candidates = candidate_verdicts(verdicts)
    code, reason = exit_reason(candidates, undecided)
    lines = [
        "## Pruned networks against their parent",
        "",
        "| candidate | verdict | shown to hold | shown to fail | undecided |",
        "|---|---|---:|---:|---:|",
    ]
    for verdict in candidates:
        counts = f"{verdict.noninferior} of {verdict.checks} | {verdict.inferior} | {verdict.undecided}"
        lines.append(f"| {_cell(verdict.candidate)} | **{verdict.outcome}** | {counts} |")
    lines += ["", f"Exit code {code}: {_cell(reason)}."]
    if text := stages_sentence(verdicts):
        lines += ["", text]
    for verdict in candidates:
        rows = verdicts[(verdicts["candidate"] == verdict.candidate) & (verdicts["seed"] == verdict.seed)]
        lines += _losses(verdict.candidate, rows)
    return "\n".join(lines) + "\n"


def _losses(candidate: str, rows: pd.DataFrame) -> list[str]:
    """A folded table of the checks that fail, those that are shown to first, by how far they exceed the tolerance."""
    failing = rows[~rows["passed"]]
    if failing.empty:
        return []
    excess = failing["drop"] / failing["tolerance"].where(failing["tolerance"] > 0)
    order = failing.assign(open=failing["verdict"] != INFERIOR, excess=-excess).sort_values(
        ["open", "excess"]
    )
    count = "1 check fails" if len(failing) == 1 else f"{len(failing)} checks fail"
    count += f" ({failing_counts(failing)})"
    lines = [
        "",
        f"<details><summary>{_cell(candidate)}: {count}</summary>",
        "",
        "| check | value | parent | drop, 95 % interval | tolerated | verdict |",
        "|---|---:|---:|---:|---:|---|",
    ]
    lines += [_line(row) for row in order.head(SHOWN).to_dict("records")]
    if len(failing) > SHOWN:
        lines += ["", f"and {len(failing) - SHOWN} more: see the report."]
    return [*lines, "", "</details>"]


def _line(row: Mapping[Any, Any]) -> str:
    check = f"{row['metric']} on {row['condition']}"
    if row["reason"]:
        return f"| {_cell(check)} | | | | {row['tolerance']:g} | {_cell(str(row['reason']))} |"
    drop = f"{row['drop']:.4f}"
    if row["drop_low"] == row["drop_low"]:  # there is an interval
        drop += f" ({row['drop_low']:.4f} to {row['drop_high']:.4f})"
    values = f"{row['value']:.4f} | {row['parent']:.4f} | {drop} | {row['tolerance']:g}"
    return f"| {_cell(check)} | {values} | {row['verdict']} |"


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, in one cell: names of files are other people's."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in text)
    return " ".join(escaped.split())
