"""The threshold matrix: methods by kinds of conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalsuite.report.findings import unique
from evalsuite.report.verdicts import Row, singles, weakest
from evalsuite.report.wording import condition_label, decimals, number, percent, percentage, ratios, subject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
}
"""Mark and meaning of each flag of a threshold."""

_OOD = ("msp_auroc", "energy_auroc")
_CALIBRATION = ("ece_equal_width", "ece_equal_mass", "brier", "nll")


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
    """

    title: str
    note: str
    metrics: tuple[str, ...]
    condition: str = ""
    group: str = ""
    aggregate: str = "minimum"


COLUMNS = (
    Column("Test accuracy", "", ("accuracy",), condition="clean"),
    Column("Corruptions", "mean", ("accuracy",), group="corruptions", aggregate="mean"),
    Column("Corruptions", "worst", ("accuracy",), group="corruptions"),
    Column("Noise", "worst", ("accuracy",), group="noise"),
    Column("Attack", "worst", ("robust_accuracy",), group="attack"),
    Column("OOD, near", "worst", _OOD, group="ood-near"),
    Column("OOD, far", "worst", _OOD, group="ood-far"),
    Column("Calibration", "", _CALIBRATION, condition="clean"),
)
EVERYTHING = Column("Everything", "weakest", ())


@dataclass(frozen=True, slots=True)
class Cell:
    """Is one number of the matrix and all that is said about it.

    Attributes:
        row: The threshold.
        shown: The row of the condition whose curve explains it.
        text: The potential in percent, with ``≥`` if censored.
        marks: Marks of the other flags.
        tip: Everything about it in words.
        shortfall: How far it stays below test accuracy, in steps of 5 points, 10 at most.
        tested: The tested ratios.
    """

    row: Row
    shown: Row
    text: str
    marks: str
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

    columns: tuple[Column, ...]
    cells: Mapping[str, tuple[Cell | None, ...]]
    legend: tuple[tuple[str, str], ...]

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
    columns = _answered(rows, methods)
    chosen = {m: tuple(_answer(c, singles(rows, m), _summaries(rows, m)) for c in columns) for m in methods}
    digits = decimals(row["potential"] for found in chosen.values() for row in found if row is not None)
    everywhere = _everywhere([row for found in chosen.values() for row in found if row is not None])
    cells = {m: _line(columns, chosen[m], rows, digits) for m in methods}
    cells = {m: tuple(_unmarked(cell, everywhere) for cell in line) for m, line in cells.items()}
    return Matrix(columns, cells, _legend(cells, everywhere))


def _everywhere(rows: Sequence[Row]) -> str:
    """Marks that every cell would carry: they are said once, and not in the cells."""
    common = [
        mark for flag, (mark, _) in FLAGS.items() if flag != "censored" and all(r.get(flag) for r in rows)
    ]
    return "".join(common) if len(rows) > 1 else ""


def _unmarked(cell: Cell | None, everywhere: str) -> Cell | None:
    if cell is None:
        return None
    return replace(cell, marks="".join(mark for mark in cell.marks if mark not in everywhere))


def _legend(cells: Mapping[str, Sequence[Cell | None]], everywhere: str) -> tuple[tuple[str, str], ...]:
    shown = [cell for line in cells.values() for cell in line if cell is not None]
    used = "".join(cell.text[0] + cell.marks for cell in shown)
    explained = tuple((mark, meaning) for mark, meaning in FLAGS.values() if mark in used)
    return explained + tuple(("everywhere", text) for mark, text in FLAGS.values() if mark in everywhere)


def _line(
    columns: Sequence[Column], found: Sequence[Row | None], rows: Sequence[Row], digits: int
) -> tuple[Cell | None, ...]:
    accuracy = found[0] if columns[:1] == COLUMNS[:1] else None
    return tuple(_cell(row, rows, accuracy, digits) for row in found)


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
    lines.append(f"{'On average h' if mean else 'H'}olds to {at_least}{percent(row['potential'])}")
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
    if row.get("potential_low") is not None and row.get("potential_high") is not None:
        low, high = percent(row["potential_low"]), percent(row["potential_high"])
        proven.append(f"95 % interval of the true value: {low} to {high}")
    return proven


def _limit(row: Row) -> str:
    unit = "" if row["unit"] in (None, "", "fraction") else f" {row['unit']}"
    limit = f"Tolerance {number(row['tolerance'])}{unit}"
    single = row["aggregate"] in ("single", "of-mean") and row["reference"] is not None
    return f"{limit}, parent {number(row['reference'])}" if single else limit


def _answered(rows: Sequence[Row], methods: Sequence[str]) -> tuple[Column, ...]:
    """The columns that some method can answer, a plug-in's own groups included, and the last one."""
    known = {column.group for column in COLUMNS}
    groups = unique(r["group"] for r in rows if r["group"] and r["group"] not in known)
    extra = tuple(Column(g.capitalize(), "worst", _metrics(rows, g), group=g) for g in groups)
    found = [(singles(rows, method), _summaries(rows, method)) for method in methods]
    asked = tuple(c for c in (*COLUMNS, *extra) if any(_answer(c, *pair) for pair in found))
    return (*asked, EVERYTHING) if asked or any(single for single, _ in found) else ()


def _metrics(rows: Sequence[Row], group: str) -> tuple[str, ...]:
    return tuple(unique(row["metric"] for row in rows if row["group"] == group))


def _summaries(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method and row["aggregate"] != "single"]


def _answer(column: Column, single: Sequence[Row], summaries: Sequence[Row]) -> Row | None:
    """The threshold that answers a column's question, by the first of its metrics that has one."""
    if column is EVERYTHING:
        return weakest(single)
    for metric in column.metrics:
        mine = [row for row in single if row["metric"] == metric]
        if column.condition:
            found = next((row for row in mine if row["condition"] == column.condition), None)
        else:
            found = _grouped(column, metric, mine, summaries)
        if found is not None:
            return found
    return None


def _grouped(column: Column, metric: str, single: Sequence[Row], summaries: Sequence[Row]) -> Row | None:
    mine = [row for row in summaries if row["metric"] == metric and row["group"] == column.group]
    for row in mine:
        if row["aggregate"] == column.aggregate:
            return row
    if column.aggregate != "minimum":
        return next((row for row in mine if row["aggregate"] == "of-mean"), None)
    return weakest([row for row in single if row["group"] == column.group])


def _cell(row: Row | None, rows: Sequence[Row], accuracy: Row | None, digits: int) -> Cell | None:
    if row is None:
        return None
    tested = ratios(row["tested"])
    base = accuracy["potential"] if accuracy is not None else max(tested, default=1.0)
    shortfall = min(10, round(20 * max(0.0, base - row["potential"])))
    shown = _shown(row, rows)
    first = (
        f"\nGives way first: {condition_label(shown['condition'])}" if row["aggregate"] == "minimum" else ""
    )
    return Cell(row, shown, figure(row, digits), marks(row), tip(row) + first, shortfall, tested)


def _shown(row: Row, rows: Sequence[Row]) -> Row:
    """The condition behind a summary: the worst of its group, or the group's mean where that was measured."""
    if row["aggregate"] == "single":
        return row
    same: list[Any] = [r for r in rows if all(r[k] == row[k] for k in ("method", "metric", "group"))]
    if row["aggregate"] != "minimum":
        same = [r for r in same if r["aggregate"] == "of-mean" or r["condition"] == r["group"]] or same
        return next((r for r in same if r["aggregate"] == "of-mean"), row)
    return weakest([r for r in same if r["aggregate"] == "single"]) or row
