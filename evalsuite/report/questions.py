"""The questions of the threshold matrix, and the thresholds that answer them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalsuite.report.findings import unique
from evalsuite.report.verdicts import Row, known, singles, weakest
from evalsuite.report.wording import group_label

if TYPE_CHECKING:
    from collections.abc import Sequence

_OOD = ("msp_auroc", "energy_auroc")
_CALIBRATION = ("ece_equal_width", "ece_l2_squared_debiased", "ece_equal_mass", "ece_smooth", "brier", "nll")
_SHIFTED = ("ece_equal_width_scaled", "brier_scaled", "nll_scaled", "brier")
_SIMILARITY = ("agreement", "broken", "softmax_distance")
_ANY = ("infeasible", "non_monotone", "incomplete", "at_chance", "underpowered")
"""Flags that hold for the worst of several conditions where they hold for one of them."""


@dataclass(frozen=True, slots=True)
class Column:
    """Is one question of the matrix.

    Attributes:
        title: What was tested.
        note: How several conditions become one number; empty for a single one.
        metrics: The metrics that answer, best first.
        condition: The condition, if it is a single one.
        group: The group of conditions otherwise.
        aggregate: How the group is summarised: ``mean`` or ``minimum``.
        also: How the names of conditions outside the group begin that belong to it all the same.
    """

    title: str
    note: str
    metrics: tuple[str, ...]
    condition: str = ""
    group: str = ""
    aggregate: str = "minimum"
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Is the threshold that answers a question.

    Attributes:
        row: The threshold, of a condition or of the worst or the mean of several.
        shown: The threshold of the condition whose curve explains it.
        count: How many conditions are behind it.
    """

    row: Row
    shown: Row
    count: int = 1


COLUMNS = (
    Column("Test accuracy", "", ("accuracy",), condition="clean"),
    Column("Corruptions, generated", "mean", ("accuracy",), group="corruptions", aggregate="mean"),
    Column("Corruptions, generated", "worst", ("accuracy",), group="corruptions"),
    Column("Corruptions, official", "mean", ("accuracy",), group="corruptions official", aggregate="mean"),
    Column("Corruptions, official", "worst", ("accuracy",), group="corruptions official"),
    Column("Natural shift", "worst", ("accuracy",), group="shift"),
    Column("Videos", "mean", ("flip_probability",), group="videos", aggregate="mean"),
    Column("Noise", "worst", ("accuracy",), group="noise"),
    Column("Attack", "worst", ("robust_accuracy",), group="attack", also=("worst/", "worst l2/")),
    Column(
        "Black-box attack", "worst", ("robust_accuracy",), group="black-box attack", also=("worst black-box",)
    ),
    Column("OOD, near", "worst", _OOD, group="ood-near"),
    Column("OOD, far", "worst", _OOD, group="ood-far"),
    Column("Calibration", "", _CALIBRATION, condition="clean"),
    Column("Calibration, shifted", "worst", _SHIFTED, group="calibration-shift"),
    Column("Similarity", "", _SIMILARITY, condition="clean"),
    Column("Classes", "worst", ("class_accuracy",), group="classes"),
)
EVERYTHING = Column("Everything", "weakest", ())


def answered(rows: Sequence[Row], methods: Sequence[str]) -> tuple[Column, ...]:
    """Returns the columns that some method can answer, a plug-in's own groups included, and the last one.

    The note of a column for the worst of several conditions says how many these are.
    """
    known = {column.group for column in COLUMNS}
    groups = unique(row["group"] for row in rows if row["group"] and row["group"] not in known)
    extra = tuple(Column(group_label(g).capitalize(), "worst", (), group=g) for g in groups)
    asked = []
    for column in (*COLUMNS, *extra):
        found = [one for one in (answer(column, rows, method) for method in methods) if one]
        if found:
            asked.append(_counted(column, max(one.count for one in found)))
    return (*asked, EVERYTHING) if asked or any(singles(rows, method) for method in methods) else ()


def answer(column: Column, rows: Sequence[Row], method: str) -> Answer | None:
    """Returns the threshold that answers a column's question, by the first of its metrics that has one."""
    single = singles(rows, method)
    if column.title == EVERYTHING.title:
        return _worst(single)
    inside = unique(row["metric"] for row in single if column.group and row["group"] == column.group)
    for metric in unique((*column.metrics, *inside)):
        mine = [row for row in single if row["metric"] == metric]
        if column.condition:
            found = [row for row in mine if row["condition"] == column.condition][:1]
        elif column.aggregate == "mean":
            found = _mean(column, metric, method, rows)
        else:
            found = [row for row in mine if row["group"] == column.group or _belongs(row, column)]
        if found:
            return _worst(found, column.group)
    return None


def _counted(column: Column, count: int) -> Column:
    return replace(column, note=f"worst of {count}") if column.note == "worst" and count > 1 else column


def _belongs(row: Row, column: Column) -> bool:
    return not row["group"] and bool(column.also) and str(row["condition"]).startswith(column.also)


def _mean(column: Column, metric: str, method: str, rows: Sequence[Row]) -> list[Row]:
    """The threshold of the mean over a group: best the one that was measured, which has an interval."""
    mine = [row for row in rows if (row["method"], row["metric"]) == (method, metric)]
    measured = [r for r in mine if r["condition"] == column.group and r["aggregate"] == "single"]
    summaries = [r for r in mine if r["group"] == column.group and r["aggregate"] in ("of-mean", "mean")]
    ranked = [*measured, *sorted(summaries, key=lambda r: r["aggregate"] != "of-mean")]
    return [row for row in ranked if row["potential"] is not None][:1]


def _worst(rows: Sequence[Row], group: str = "") -> Answer | None:
    """The weakest row; of several, with what can be said of all of them.

    What is shown for each condition is shown for all of them at the smallest of these ratios, without a
    correction (intersection-union test, Berger 1982); conditions without a proof of their own are left out.
    """
    first = weakest(rows)
    if first is None or len(rows) == 1:
        return None if first is None else Answer(first, first)
    proven = known(rows, "certified")
    last = [row for row in rows if row["potential"] == first["potential"]]
    together: dict[str, Any] = {
        **{flag: any(row.get(flag) for row in rows) for flag in _ANY},
        "censored": all(row["censored"] for row in last),
        "first_failure": min(known(rows, "first_failure"), default=None),
        "certified": min(proven, default=None),
        "certified_jointly": min(known(rows, "certified_jointly"), default=None),
        "unproven": len(rows) - len(proven),
        "potential_low": None,
        "potential_high": None,
    }
    named = {"aggregate": "minimum", "group": group, "condition": group} if group else {}
    return Answer({**first, **together, **named}, first, len(rows))
