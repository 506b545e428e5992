"""The matrix of thresholds: methods by kinds of conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalsuite.cost_axes import share_phrase
from evalsuite.report.data import Row, present, unique
from evalsuite.report.labels import (
    DASH,
    condition_label,
    decimals,
    group_label,
    metric_label,
    metric_on_condition,
    number,
    percent,
    percentage,
    tested_ratios,
)
from evalsuite.report.verdict_bar import VerdictBar
from evalsuite.types import SYNTHETIC_FROST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evalsuite.report.data import ReportData

FLAGS: Mapping[str, tuple[str, str]] = {
    "censored": ("nothing failed", "no tested ratio failed: the true threshold may be higher"),
    "infeasible": (
        "failed at the smallest",
        "a condition failed at the smallest ratio tested; 0 means that no tested ratio passed",
    ),
    "non_monotone": ("a larger one passed", "a larger ratio passed after a smaller one had failed"),
    "underpowered": (
        "more images needed",
        "the 95 % interval of a deciding drop is wider than the tolerance: more images needed",
    ),
    "incomplete": ("a ratio was not measured", "a ratio could not be measured and counts as failed"),
    "at_chance": (
        "at chance level",
        "a network at chance level would pass: the parent is better than that by no more than the tolerance",
    ),
}
"""Short and full words for each flag of a threshold."""


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """A threshold in the matrix, as it is shown and explained.

    Attributes:
        row: The threshold.
        shown: The row of the condition whose curve explains it.
        text: The potential in percent.
        interval: Its 95 % interval, or the certified ratio, in percent; empty where neither is known.
        tip: The explanation, one fact per line.
        bar: Up to which ratio it is shown to hold, and from which to fail.
        tested: The tested ratios.
    """

    row: Row
    shown: Row
    text: str
    interval: str
    tip: str
    bar: VerdictBar
    tested: tuple[float, ...]

    @property
    def whole_percent(self) -> str:
        """The part of the text before the decimal point."""
        return self.text.partition(".")[0]

    @property
    def decimal(self) -> str:
        """The decimal with its point; empty if there is none."""
        return "".join(self.text.partition(".")[1:])


@dataclass(frozen=True, slots=True)
class MatrixColumn:
    """A column of the matrix.

    Attributes:
        title: Name of the test.
        note: How several conditions become one number; empty for a single one.
        metrics: Metrics of which the first that was measured is shown.
        condition: The condition, if it is a single one.
        group: The group of conditions otherwise.
        aggregate: How the group is summarised: ``mean`` or ``minimum``.
        also: Beginnings of names of conditions without a group that belong to it.
        conditions: Names of conditions without a group that belong to it.
    """

    title: str
    note: str
    metrics: tuple[str, ...]
    condition: str = ""
    group: str = ""
    aggregate: str = "minimum"
    also: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ThresholdMatrix:
    """The matrix: `cells` has a row per method and an entry, possibly ``None``, per column.

    What `everywhere` says holds for all cells.
    """

    columns: tuple[MatrixColumn, ...]
    cells: Mapping[str, tuple[MatrixCell | None, ...]]
    everywhere: tuple[str, ...]
    descriptions: tuple[tuple[str, str], ...]

    def spans(self) -> list[tuple[str, int]]:
        """Returns each title with the number of neighbouring columns that share it."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.title:
                runs[-1] = (column.title, runs[-1][1] + 1)
            else:
                runs.append((column.title, 1))
        return runs


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """The threshold of a method in a column.

    Attributes:
        row: The threshold, of a condition or of the worst or the mean of several.
        shown: The threshold of the condition whose curve explains it.
        count: Number of conditions behind it.
        undecided: How many of them have no certified ratio.
    """

    row: Row
    shown: Row
    count: int = 1
    undecided: int = 0


_OOD = ("msp_auroc", "energy_auroc")
_CALIBRATION = ("ece_equal_width", "ece_l2_squared_debiased", "ece_equal_mass", "ece_smooth", "brier", "nll")
_SHIFTED = ("ece_equal_width_scaled", "brier_scaled", "nll_scaled", "brier")
_SIMILARITY = ("agreement", "negative_flip_rate", "softmax_distance")
_FLAGS_OF_ANY = ("infeasible", "non_monotone", "incomplete", "at_chance", "underpowered")
"""Flags of the worst of several conditions that are set if one of them has the flag."""

COLUMNS = (
    MatrixColumn("Test accuracy", "", ("accuracy",), condition="clean"),
    MatrixColumn("Corruptions, generated", "mean", ("accuracy",), group="corruptions", aggregate="mean"),
    MatrixColumn("Corruptions, generated", "worst", ("accuracy",), group="corruptions"),
    MatrixColumn(
        "Corruptions, official", "mean", ("accuracy",), group="corruptions official", aggregate="mean"
    ),
    MatrixColumn("Corruptions, official", "worst", ("accuracy",), group="corruptions official"),
    MatrixColumn("Natural shift", "worst", ("accuracy",), group="shift"),
    MatrixColumn("Perturbation sequences", "mean", ("flip_probability",), group="videos", aggregate="mean"),
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
_PREFERRED = ("accuracy", "robust_accuracy", "msp_auroc", "energy_auroc", "ece_equal_width")
"""Metrics that are named first among conditions with the same threshold: the best known ones."""


def metrics_without_column(places: Iterable[tuple[str, str]]) -> list[str]:
    """Returns the metrics, of pairs of a metric and a group of conditions, that no kind of test holds yet.

    >>> metrics_without_column([("accuracy", ""), ("knn_auroc", "ood-far"), ("margin", ""), ("top5_accuracy", "")])
    ['margin', 'top5_accuracy']
    """
    by_metric: dict[str, set[str]] = {}
    for metric, group in places:
        by_metric.setdefault(metric, set()).add(group or "")
    held = {metric for column in COLUMNS for metric in column.metrics}
    return [metric for metric, groups in by_metric.items() if metric not in held and groups == {""}]


def threshold_matrix(rows: Sequence[Row], methods: Sequence[str]) -> ThresholdMatrix:
    """Returns the matrix of the thresholds over all seeds.

    Args:
        rows: Thresholds, see `evalsuite.report.data.ReportData.headline`.
        methods: The rows of the matrix.
    """
    columns, results = column_results(rows, methods)
    shown = [result.row for line in results.values() for result in line if result is not None]
    digits = decimals(row["potential"] for row in shown)
    cells = {method: _cells(line, digits) for method, line in results.items()}
    everywhere = tuple(FLAGS[flag][1] for flag in _common_flags(shown))
    return ThresholdMatrix(columns, cells, everywhere, _descriptions(columns, results))


def threshold_matrices(data: ReportData) -> dict[str, ThresholdMatrix]:
    """Returns a matrix for each data set, by its name; without a name where all methods are of one."""
    names = unique(data.data_sets.get(method, "") for method in data.methods)
    if len(names) < 2:
        return {"": threshold_matrix(data.headline, data.methods)}
    methods = {name: [m for m in data.methods if data.data_sets.get(m, "") == name] for name in names}
    return {
        name: threshold_matrix([row for row in data.headline if row["method"] in of_data_set], of_data_set)
        for name, of_data_set in methods.items()
    }


def column_results(
    rows: Sequence[Row], methods: Sequence[str]
) -> tuple[tuple[MatrixColumn, ...], dict[str, tuple[ColumnResult | None, ...]]]:
    """Returns the columns in which some method has a threshold, and by method its result in each of them.

    Groups of a plug-in get columns of their own; the last column is over all conditions. The note of a column for the
    worst of several conditions has their number.
    """
    by_method = {method: [row for row in rows if row["method"] == method] for method in methods}
    usual = {column.group for column in COLUMNS}
    groups = unique(row["group"] for row in rows if row["group"] and row["group"] not in usual)
    extra = [MatrixColumn(group_label(name).capitalize(), "worst", (), group=name) for name in groups]
    extra += _columns_of_metrics(rows)
    columns: list[MatrixColumn] = []
    results: dict[str, list[ColumnResult | None]] = {method: [] for method in methods}
    for column in (*COLUMNS, *extra, EVERYTHING):
        line = {method: column_result(column, by_method[method], method) for method in methods}
        counts = sorted({result.count for result in line.values() if result is not None})
        if counts or (column is EVERYTHING and columns):
            several = column.note == "worst" and counts[-1:] > [1]
            note = f"worst of {' or '.join(map(str, counts))}"  # runs that stand side by side have their own
            columns.append(replace(column, note=note) if several else column)
            for method, result in line.items():
                results[method].append(result)
    return tuple(columns), {method: tuple(line) for method, line in results.items()}


def _columns_of_metrics(rows: Sequence[Row]) -> list[MatrixColumn]:
    """A column for each metric that is of no other kind: on its one condition, or the worst of several."""
    single = [row for row in rows if row["aggregate"] == "single"]
    columns = []
    for metric in metrics_without_column((row["metric"], row["group"] or "") for row in single):
        conditions = unique(row["condition"] for row in single if row["metric"] == metric)
        title = metric_label(metric)[:1].upper() + metric_label(metric)[1:]
        columns.append(
            MatrixColumn(title, "", (metric,), condition=conditions[0])
            if len(conditions) == 1
            else MatrixColumn(title, "worst", (metric,), conditions=tuple(conditions))
        )
    return columns


def column_result(column: MatrixColumn, rows: Sequence[Row], method: str) -> ColumnResult | None:
    """Returns the threshold of a method in a column, of the first of its metrics that has one."""
    single = single_rows(rows, method)
    if column.title == EVERYTHING.title:
        return _worst(single)
    inside = unique(row["metric"] for row in single if column.group and row["group"] == column.group)
    for metric in unique((*column.metrics, *inside)):
        of_metric = [row for row in single if row["metric"] == metric]
        if column.condition:
            matching = [row for row in of_metric if row["condition"] == column.condition][:1]
        elif column.aggregate == "mean":
            matching = _mean(column, metric, method, rows)
        else:
            matching = [
                row
                for row in of_metric
                if (column.group and row["group"] == column.group) or _belongs(row, column)
            ]
        if matching:
            return _worst(matching, column.group)
    return None


def single_rows(rows: Sequence[Row], method: str) -> list[Row]:
    """Returns a method's thresholds of single conditions, without synthetic frost, which is not a published one."""
    single = (row for row in rows if row["method"] == method and row["aggregate"] == "single")
    return [row for row in single if SYNTHETIC_FROST not in row["condition"]]


def weakest_row(rows: Sequence[Row]) -> Row | None:
    """Returns the row with the smallest threshold."""
    return min(rows, key=_order, default=None)


def _order(row: Row) -> tuple[float, float, int]:
    failure = row["first_failure"] if row["first_failure"] is not None else float("inf")
    metric = row["metric"]
    return row["potential"], failure, _PREFERRED.index(metric) if metric in _PREFERRED else len(_PREFERRED)


def _belongs(row: Row, column: MatrixColumn) -> bool:
    name = str(row["condition"])
    return not row["group"] and (
        name in column.conditions or (bool(column.also) and name.startswith(column.also))
    )


def _mean(column: MatrixColumn, metric: str, method: str, rows: Sequence[Row]) -> list[Row]:
    """The threshold of the mean over a group: preferably that of a measured mean, which has an interval."""
    of_metric = [row for row in rows if (row["method"], row["metric"]) == (method, metric)]
    measured = [r for r in of_metric if r["condition"] == column.group and r["aggregate"] == "single"]
    summaries = [r for r in of_metric if r["group"] == column.group and r["aggregate"] in ("of-mean", "mean")]
    ranked = [*measured, *sorted(summaries, key=lambda r: r["aggregate"] != "of-mean")]
    return [row for row in ranked if row["potential"] is not None][:1]


def _worst(rows: Sequence[Row], group: str = "") -> ColumnResult | None:
    """The weakest row; of several, with the statements that hold for all of them.

    The smallest certified ratio of several conditions is certified for all of them, without a correction
    (intersection-union test, Berger 1982); undecided conditions are left out.
    """
    weakest = weakest_row(rows)
    if weakest is None or len(rows) == 1:
        return None if weakest is None else ColumnResult(weakest, weakest)
    certified = present(rows, "certified")
    attaining = [row for row in rows if row["potential"] == weakest["potential"]]
    joint: dict[str, Any] = {
        **{flag: any(row.get(flag) for row in rows) for flag in _FLAGS_OF_ANY},
        "censored": all(row["censored"] for row in attaining),
        "first_failure": min(present(rows, "first_failure"), default=None),
        "certified": min(certified, default=None),
        "certified_jointly": min(present(rows, "certified_jointly"), default=None),
        "noninferior_up_to": min(present(rows, "noninferior_up_to"), default=None),
        "inferior_from": min(present(rows, "inferior_from"), default=None),
        "potential_low": None,
        "potential_high": None,
    }
    labels = {"aggregate": "minimum", "group": group, "condition": group} if group else {}
    return ColumnResult({**weakest, **joint, **labels}, weakest, len(rows), len(rows) - len(certified))


def _descriptions(
    columns: Sequence[MatrixColumn], results: Mapping[str, Sequence[ColumnResult | None]]
) -> tuple[tuple[str, str], ...]:
    """Metric, tolerance and condition of each column but the last."""
    descriptions = []
    for index, column in enumerate(columns[:-1]):
        first = next(result for line in results.values() if (result := line[index]) is not None)
        row, name = first.row, column.title + (f", {column.note}" if column.note else "")
        text = f"{metric_label(row['metric'])}, tolerance {number(row['tolerance'])}"
        condition = "" if first.count > 1 else f", on {condition_label(row['condition'])}"
        descriptions.append((name, text + condition))
    return tuple(descriptions)


def _common_flags(rows: Sequence[Row]) -> tuple[str, ...]:
    """Flags that all cells would have: they are explained once instead."""
    return tuple(flag for flag in FLAGS if len(rows) > 1 and all(row.get(flag) for row in rows))


def _cells(results: Sequence[ColumnResult | None], digits: int) -> tuple[MatrixCell | None, ...]:
    return tuple(None if result is None else _cell(result, digits) for result in results)


def _cell(result: ColumnResult, digits: int) -> MatrixCell:
    row, tested = result.row, tested_ratios(result.row["tested"])
    text = tip(row)
    if result.count > 1:
        text += f"\nWorst of {result.count} checks"
        text += f", {result.undecided} of them undecided" if result.undecided else ""
    if row["aggregate"] == "minimum":
        text += f"\nFirst failure: {condition_label(result.shown['condition'])}"
    bar = VerdictBar(
        "",
        result.count,
        result.undecided,
        row.get("noninferior_up_to"),
        row.get("inferior_from"),
        max(tested, default=1.0),
    )
    return MatrixCell(
        row,
        result.shown,
        potential_text(row, digits),
        interval(row, digits),
        text + f"\n{bar.tip[:1].upper()}{bar.tip[1:]}",
        bar,
        tested,
    )


def flag_notes(row: Row) -> tuple[str, ...]:
    """Returns the flags of a threshold in a few words each; that nothing failed is said by its first failure."""
    return tuple(short for flag, (short, _) in FLAGS.items() if flag != "censored" and row.get(flag))


def potential_text(row: Row, digits: int) -> str:
    """Returns a potential in percent.

    >>> potential_text({"potential": 0.95, "censored": True}, 0)
    '95'
    """
    return percentage(row["potential"], digits)


def certified_text(row: Row, digits: int) -> str:
    """Returns up to which ratio a model is non-inferior at 95 % confidence, in percent; empty where undecided.

    >>> certified_text({"certified": 0.5}, 0), certified_text({"certified": 0.0}, 0), certified_text({}, 0)
    ('certified up to 50', 'certified at no ratio', '')
    """
    certified = row.get("certified")
    if certified is None:
        return ""
    return f"certified up to {percentage(certified, digits)}" if certified else "certified at no ratio"


def interval(row: Row, digits: int) -> str:
    """Returns the 95 % interval of a potential in percent, or its certified ratio where it has none.

    >>> interval({"potential_low": 0.5, "potential_high": 0.9}, 0), interval({"certified": 0.5}, 0), interval({}, 0)
    ('50\u201390', 'certified up to 50', '')
    """
    low, high = row.get("potential_low"), row.get("potential_high")
    if low is not None and high is not None:
        return f"{percentage(low, digits)}{DASH}{percentage(high, digits)}"
    return certified_text(row, digits)


def tip(row: Row) -> str:
    """Returns the explanation of a threshold, one fact per line."""
    name = metric_on_condition(row)
    lines = [name.capitalize() if row["metric"].islower() else name]
    mean = row["aggregate"] == "mean"
    at_least = "at least " if row.get("censored") else ""
    of_cost = share_phrase(row.get("axis"))
    lines.append(
        f"{'On average p' if mean else 'P'}asses up to {at_least}{percent(row['potential'])}{of_cost}"
    )
    if row["first_failure"] is not None:
        lines[-1] += f"; first failure{' of a condition' if mean else ''} at {percent(row['first_failure'])}"
    if row["potential_any"] is not None and row["potential_any"] > row["potential"]:
        lines.append(f"Largest ratio that passed (smaller ones failed): {percent(row['potential_any'])}")
    lines.extend(_statements(row))
    lines.append(_tolerance_and_parent(row))
    if row["n"] is not None:
        lines.append(f"{number(row['n'])} images")
    if tested := tested_ratios(row["tested"]):
        lines.append(f"Tested at {', '.join(percentage(r, decimals(tested)) for r in tested)} %")
    return "\n".join([*lines, *(meaning for flag, (_, meaning) in FLAGS.items() if row.get(flag))])


def _statements(row: Row) -> list[str]:
    """Statements at 95 % confidence on the true potential of these networks."""
    statements = []
    if row.get("certified") is not None:
        statements.append(f"Certified at 95 % {_up_to(row['certified'])}")
    if row.get("certified_jointly") is not None:
        statements.append(
            "With familywise error control over all checks of the method (Holm): "
            f"{_up_to(row['certified_jointly'])}"
        )
    if row.get("potential_low") is not None and row.get("potential_high") is not None:
        low, high = percent(row["potential_low"]), percent(row["potential_high"])
        statements.append(f"95 % interval of the true value: {low} to {high}")
    return statements


def _up_to(ratio: float) -> str:
    return f"up to {percent(ratio)}" if ratio else "at no tested ratio"


def _tolerance_and_parent(row: Row) -> str:
    unit = "" if row["unit"] in (None, "", "fraction") else f" {row['unit']}"
    tolerance = f"Tolerance {number(row['tolerance'])}{unit}"
    single = row["aggregate"] in ("single", "of-mean") and row["reference"] is not None
    return f"{tolerance}, parent {number(row['reference'])}" if single else tolerance
