"""The threshold matrix: methods by kinds of conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalsuite.cost_axes import share
from evalsuite.report.findings import unique
from evalsuite.report.verdicts import Row, known, singles, weakest
from evalsuite.report.wording import (
    NOTHING,
    condition_label,
    decimals,
    group_label,
    metric_label,
    number,
    percent,
    percentage,
    ratios,
    subject,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.report.verdicts import Row


FLAGS: Mapping[str, tuple[str, str]] = {
    "censored": ("≥", "no tested ratio failed: the true threshold may be higher"),
    "infeasible": (
        "\u2217",
        "a condition failed at the smallest ratio tested; 0 means that no tested ratio held",
    ),
    "non_monotone": ("†", "a larger ratio passed after a smaller one had failed"),
    "underpowered": (
        "‡",
        "the 95 % interval of a deciding drop is wider than the tolerance: more images needed",
    ),
    "incomplete": ("§", "a ratio could not be measured and counts as failed"),
    "at_chance": (
        "°",
        "a network that only guesses would pass: its parent is better than that by no more than the tolerance",
    ),
}
"""Mark and meaning of each flag of a threshold."""


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """Is one number of the matrix and all that is said about it.

    Attributes:
        row: The threshold.
        shown: The row of the condition whose curve explains it.
        text: The potential in percent, with ``≥`` if censored.
        marks: Marks of the other flags.
        proven: Its 95 % interval, or what is shown at 95 %, in percent; empty where neither is known.
        tip: Everything about it in words.
        shortfall: How far it stays below test accuracy, in steps of 5 points, 10 at most.
        tested: The tested ratios.
    """

    row: Row
    shown: Row
    text: str
    marks: str
    proven: str
    tip: str
    shortfall: int
    tested: tuple[float, ...]

    @property
    def whole(self) -> str:
        """The whole percent, to be set large."""
        return self.text.partition(".")[0]

    @property
    def decimal(self) -> str:
        """The decimal with its point, to be set small; empty if there is none."""
        return "".join(self.text.partition(".")[1:])


@dataclass(frozen=True, slots=True)
class Matrix:
    """Is the table: `cells` has a row per method and an entry, possibly ``None``, per column."""

    columns: tuple[MatrixColumn, ...]
    cells: Mapping[str, tuple[MatrixCell | None, ...]]
    legend: tuple[tuple[str, str], ...]
    summarised: tuple[tuple[str, str], ...]

    def spans(self) -> list[tuple[str, int]]:
        """Returns each title with the number of neighbouring columns that share it."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.title:
                runs[-1] = (column.title, runs[-1][1] + 1)
            else:
                runs.append((column.title, 1))
        return runs


def matrix(rows: Sequence[Row], methods: Sequence[str]) -> Matrix:
    """Returns the matrix of the thresholds over all seeds.

    Args:
        rows: Thresholds, see `findings.headline`.
        methods: The rows of the matrix.
    """
    columns = answered(rows, methods)
    chosen = {m: tuple(answer(column, rows, m) for column in columns) for m in methods}
    found = [one.row for line in chosen.values() for one in line if one is not None]
    digits = decimals(row["potential"] for row in found)
    everywhere = _everywhere(found)
    cells = {m: _line(columns, chosen[m], digits) for m in methods}
    cells = {m: tuple(_unmarked(cell, everywhere) for cell in line) for m, line in cells.items()}
    return Matrix(columns, cells, _legend(cells, everywhere), _summarised(columns, chosen))


def _summarised(
    columns: Sequence[MatrixColumn], chosen: Mapping[str, Sequence[Answer | None]]
) -> tuple[tuple[str, str], ...]:
    """What each column is about: its metric, its tolerance, and how many conditions it stands for."""
    told = []
    for place, column in enumerate(columns[:-1]):
        first = next(one for line in chosen.values() if (one := line[place]) is not None)
        row, name = first.row, column.title + (f", {column.note}" if column.note else "")
        about = f"{metric_label(row['metric'])}, tolerance {number(row['tolerance'])}"
        told.append((name, about if first.count > 1 else f"{about}, on {condition_label(row['condition'])}"))
    return tuple(told)


def _everywhere(rows: Sequence[Row]) -> str:
    """Marks that every cell would carry: they are said once, and not in the cells."""
    common = [
        mark for flag, (mark, _) in FLAGS.items() if flag != "censored" and all(r.get(flag) for r in rows)
    ]
    return "".join(common) if len(rows) > 1 else ""


def _unmarked(cell: MatrixCell | None, everywhere: str) -> MatrixCell | None:
    if cell is None:
        return None
    return replace(cell, marks="".join(mark for mark in cell.marks if mark not in everywhere))


def _legend(cells: Mapping[str, Sequence[MatrixCell | None]], everywhere: str) -> tuple[tuple[str, str], ...]:
    shown = [cell for line in cells.values() for cell in line if cell is not None]
    used = "".join(cell.text[0] + cell.marks for cell in shown)
    explained = tuple((mark, meaning) for mark, meaning in FLAGS.values() if mark in used)
    return explained + tuple(("everywhere", text) for mark, text in FLAGS.values() if mark in everywhere)


def _line(
    columns: Sequence[MatrixColumn], found: Sequence[Answer | None], digits: int
) -> tuple[MatrixCell | None, ...]:
    accuracy = found[0].row if columns[:1] == COLUMNS[:1] and found[0] is not None else None
    return tuple(_cell(one, accuracy, digits) for one in found)


def marks(row: Row) -> str:
    """Returns the marks of a threshold's flags, but for ``≥``, which stands before the number."""
    return "".join(mark for flag, (mark, _) in FLAGS.items() if flag != "censored" and row.get(flag))


def figure(row: Row, digits: int) -> str:
    """Returns a potential in percent.

    >>> figure({"potential": 0.95, "censored": True}, 0)
    '≥95'
    """
    return ("≥" if row.get("censored") else "") + percentage(row["potential"], digits)


def tip(row: Row) -> str:
    """Returns everything about a threshold in words, one fact per line."""
    lines = [subject(row).capitalize() if row["metric"].islower() else subject(row)]
    mean = row["aggregate"] == "mean"
    at_least = "at least " if row.get("censored") else ""
    gone = share(row.get("axis"))
    lines.append(f"{'On average h' if mean else 'H'}olds to {at_least}{percent(row['potential'])}{gone}")
    if row["first_failure"] is not None:
        lines[-1] += f"; first failure{' of a condition' if mean else ''} at {percent(row['first_failure'])}"
    if row["potential_any"] is not None and row["potential_any"] > row["potential"]:
        lines.append(f"Largest ratio that passed, whatever lies between: {percent(row['potential_any'])}")
    lines.extend(_proven(row))
    lines.append(_limit(row))
    if row["n"] is not None:
        lines.append(f"{number(row['n'])} images")
    if tested := ratios(row["tested"]):
        lines.append(f"Tested at {', '.join(percentage(r, decimals(tested)) for r in tested)} %")
    return "\n".join([*lines, *(meaning for flag, (_, meaning) in FLAGS.items() if row.get(flag))])


def _proven(row: Row) -> list[str]:
    """What the images allow to say about the true potential of these networks."""
    proven = []
    if row.get("certified") is not None:
        proven.append(f"Shown at 95 % to hold to {percent(row['certified'])}")
    if row.get("certified_jointly") is not None:
        proven.append(
            f"Read together with all other checks of the method (Holm): {percent(row['certified_jointly'])}"
        )
    if row.get("potential_low") is not None and row.get("potential_high") is not None:
        low, high = percent(row["potential_low"]), percent(row["potential_high"])
        proven.append(f"95 % interval of the true value: {low} to {high}")
    return proven


def _limit(row: Row) -> str:
    unit = "" if row["unit"] in (None, "", "fraction") else f" {row['unit']}"
    limit = f"Tolerance {number(row['tolerance'])}{unit}"
    single = row["aggregate"] in ("single", "of-mean") and row["reference"] is not None
    return f"{limit}, parent {number(row['reference'])}" if single else limit


def interval(row: Row, digits: int) -> str:
    """Returns the 95 % interval of a potential in percent, or what is shown at 95 % where there is none.

    >>> interval({"potential_low": 0.5, "potential_high": 0.9}, 0), interval({"certified": 0.5}, 0), interval({}, 0)
    ('50\u201390', 'shown 50', '')
    """
    low, high, certified = (row.get(key) for key in ("potential_low", "potential_high", "certified"))
    if low is not None and high is not None:
        return f"{percentage(low, digits)}{NOTHING}{percentage(high, digits)}"
    return "" if certified is None else f"shown {percentage(certified, digits)}"


def _cell(found: Answer | None, accuracy: Row | None, digits: int) -> MatrixCell | None:
    if found is None:
        return None
    row, tested = found.row, ratios(found.row["tested"])
    base = accuracy["potential"] if accuracy is not None else max(tested, default=1.0)
    shortfall = min(10, round(20 * max(0.0, base - row["potential"])))
    told = tip(row)
    if found.count > 1:
        told += f"\nWorst of {found.count} tests"
        told += f", {row['unproven']} of them without a proof" if row["unproven"] else ""
    if row["aggregate"] == "minimum":
        told += f"\nGives way first: {condition_label(found.shown['condition'])}"
    return MatrixCell(
        row, found.shown, figure(row, digits), marks(row), interval(row, digits), told, shortfall, tested
    )


_OOD = ("msp_auroc", "energy_auroc")
_CALIBRATION = ("ece_equal_width", "ece_l2_squared_debiased", "ece_equal_mass", "ece_smooth", "brier", "nll")
_SHIFTED = ("ece_equal_width_scaled", "brier_scaled", "nll_scaled", "brier")
_SIMILARITY = ("agreement", "broken", "softmax_distance")
_ANY = ("infeasible", "non_monotone", "incomplete", "at_chance", "underpowered")
"""Flags that hold for the worst of several conditions where they hold for one of them."""


@dataclass(frozen=True, slots=True)
class MatrixColumn:
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
    MatrixColumn("Test accuracy", "", ("accuracy",), condition="clean"),
    MatrixColumn("Corruptions, generated", "mean", ("accuracy",), group="corruptions", aggregate="mean"),
    MatrixColumn("Corruptions, generated", "worst", ("accuracy",), group="corruptions"),
    MatrixColumn(
        "Corruptions, official", "mean", ("accuracy",), group="corruptions official", aggregate="mean"
    ),
    MatrixColumn("Corruptions, official", "worst", ("accuracy",), group="corruptions official"),
    MatrixColumn("Natural shift", "worst", ("accuracy",), group="shift"),
    MatrixColumn("Videos", "mean", ("flip_probability",), group="videos", aggregate="mean"),
    MatrixColumn("Noise", "worst", ("accuracy",), group="noise"),
    MatrixColumn("Attack", "worst", ("robust_accuracy",), group="attack", also=("worst/", "worst l2/")),
    MatrixColumn(
        "Black-box attack", "worst", ("robust_accuracy",), group="black-box attack", also=("worst black-box",)
    ),
    MatrixColumn("OOD, near", "worst", _OOD, group="ood-near"),
    MatrixColumn("OOD, far", "worst", _OOD, group="ood-far"),
    MatrixColumn("Calibration", "", _CALIBRATION, condition="clean"),
    MatrixColumn("Calibration, shifted", "worst", _SHIFTED, group="calibration-shift"),
    MatrixColumn("Similarity", "", _SIMILARITY, condition="clean"),
    MatrixColumn("Classes", "worst", ("class_accuracy",), group="classes"),
)
EVERYTHING = MatrixColumn("Everything", "weakest", ())


def answered(rows: Sequence[Row], methods: Sequence[str]) -> tuple[MatrixColumn, ...]:
    """Returns the columns that some method can answer, a plug-in's own groups included, and the last one.

    The note of a column for the worst of several conditions says how many these are.
    """
    known = {column.group for column in COLUMNS}
    groups = unique(row["group"] for row in rows if row["group"] and row["group"] not in known)
    extra = tuple(MatrixColumn(group_label(g).capitalize(), "worst", (), group=g) for g in groups)
    asked = []
    for column in (*COLUMNS, *extra):
        found = [one for one in (answer(column, rows, method) for method in methods) if one]
        if found:
            asked.append(_counted(column, max(one.count for one in found)))
    return (*asked, EVERYTHING) if asked or any(singles(rows, method) for method in methods) else ()


def answer(column: MatrixColumn, rows: Sequence[Row], method: str) -> Answer | None:
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


def _counted(column: MatrixColumn, count: int) -> MatrixColumn:
    return replace(column, note=f"worst of {count}") if column.note == "worst" and count > 1 else column


def _belongs(row: Row, column: MatrixColumn) -> bool:
    return not row["group"] and bool(column.also) and str(row["condition"]).startswith(column.also)


def _mean(column: MatrixColumn, metric: str, method: str, rows: Sequence[Row]) -> list[Row]:
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
