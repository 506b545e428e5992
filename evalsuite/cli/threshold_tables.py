"""Tables of thresholds: the summary after a run, all of them, and those of a factorial comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from evalsuite.cli import console
from evalsuite.cost_axes import AXES, DEFAULT_AXIS
from evalsuite.types import SYNTHETIC_FROST

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.run import Run

MAX_METHOD_COLUMNS = 6
"""Methods beyond which a table with a column for each is too wide."""
MAX_REASONS = 8
FLAGS = ("censored", "infeasible", "non_monotone", "incomplete", "at_chance", "underpowered")
SUMMARY_TITLE = "Prune potential: commensurate up to this ratio"
PARTIAL = rf"{SYNTHETIC_FROST}/| corruptions\b|corruptions[^/]*/"
"""Conditions that only the report shows: synthetic frost, means of a family, of a severity."""


def print_summary(run: Run) -> None:
    """Prints, per method, the largest ratio up to which each headline metric is commensurate."""
    import pandas as pd

    thresholds = run.thresholds()
    headline = thresholds[(thresholds["seed"] == "all") & thresholds["aggregate"].isin(["single", "minimum"])]
    worst = headline["aggregate"] == "minimum"
    grouped = pd.MultiIndex.from_frame(headline.loc[worst, ["metric", "group"]])
    ungrouped = ~pd.MultiIndex.from_frame(headline[["metric", "group"]]).isin(grouped)
    partial = headline["condition"].str.contains(PARTIAL, regex=True)
    rows = headline[worst | (ungrouped & ~partial)]  # of a group the worst condition; the report has them all
    if not rows.empty:
        rows = _with_axis_in_names(rows)
        many = rows["method"].nunique() > MAX_METHOD_COLUMNS
        console.out.print(_row_per_method(rows) if many else _row_per_condition(rows))
    _print_intervals(run.groups)
    console.print_sample(str((run.record.get("sample") or {}).get("text", "")))
    _print_missing(run)


def _row_per_condition(rows: pd.DataFrame) -> Table:
    """A line per metric and condition, a column per method."""
    table = Table(box=None, pad_edge=False, title=SUMMARY_TITLE, title_justify="left")
    table.add_column("metric")
    table.add_column("condition")
    methods = list(dict.fromkeys(rows["method"]))
    for method in methods:
        table.add_column(escape(method), justify="right")
    for (metric, _, _), same in rows.groupby(["metric", "condition", "aggregate"], sort=False):
        potentials = dict(zip(same["method"], same["potential"], strict=True))
        shares = (f"{potentials[method]:.1%}" if method in potentials else "-" for method in methods)
        table.add_row(escape(str(metric)), escape(_condition(same.iloc[0])), *shares)
    return table


def _row_per_method(rows: pd.DataFrame) -> Table:
    """A line per method, the best first: its first condition, all conditions, and the first that fails."""
    first = rows.iloc[0]
    table = Table(box=None, pad_edge=False, title=SUMMARY_TITLE, title_justify="left")
    table.add_column("method")
    for title in (f"{first['metric']}, {_condition(first)}", "all conditions"):
        table.add_column(escape(title), justify="right")
    table.add_column("first failure")
    ranked = sorted(
        rows.groupby("method", sort=False),
        key=lambda pair: (pair[1].iloc[0]["potential"], pair[1]["potential"].mean()),
        reverse=True,
    )
    for method, same in ranked:
        weakest = same.sort_values("potential", kind="stable").iloc[0]
        table.add_row(
            escape(str(method)),
            f"{same.iloc[0]['potential']:.1%}",
            f"{weakest['potential']:.1%}",
            escape(f"{weakest['metric']}, {_condition(weakest)}"),
        )
    return table


def _print_intervals(groups: pd.DataFrame) -> None:
    """Prints, per method, up to which ratio everything is shown to hold, and from which something is shown to fail."""
    from evalsuite.results.verdict_tables import EVERYTHING
    from evalsuite.thresholds.seeds import ALL_SEEDS

    everything = groups[(groups["group"] == EVERYTHING) & (groups["seed"] == ALL_SEEDS)]
    for row in everything[everything["noninferior_up_to"].notna()].to_dict("records"):
        holds, fails = float(row["noninferior_up_to"]), float(row["inferior_from"])
        all_checks = (
            f"all {row['checks'] - row['never_decided']} checks that images can decide (of {row['checks']})"
            if row["never_decided"]
            else f"all {row['checks']} checks"
        )
        shown = f"shown to hold up to {holds:.1%}" if holds else "not shown to hold at any tested ratio"
        failing = f"shown to fail from {fails:.1%}" if fails == fails else "nothing is shown to fail"
        console.out.print(
            f"{row['method']}, {all_checks} together: {shown}; {failing}.",
            soft_wrap=True,
            markup=False,
        )


def _print_missing(run: Run) -> None:
    """Prints how many numbers are missing, and why."""
    from evalsuite.results.run import UNCOMPUTED, UNTESTED

    total, reasons = len(run.measurements), run.failures["reason"]
    untested, uncomputed = int((reasons == UNTESTED).sum()), int((reasons == UNCOMPUTED).sum())
    if missing := len(reasons) - untested - uncomputed:
        console.out.print(f"{missing:,} of {total:,} numbers are missing; the report says why.")
        _print_reasons(run.failures)
    if uncomputed:
        console.out.print(
            f"{uncomputed:,} of {total:,} numbers are not computed yet; start the same run again."
        )
    if untested:
        console.out.print(
            f"{untested:,} of {total:,} numbers were left out by the search, which did not need them."
        )


def _print_reasons(failures: pd.DataFrame) -> None:
    """Prints each reason for missing numbers once; the report alone has what does not apply to a model."""
    bad = failures[failures["status"].isin(["error", "invalid"])]
    cells = bad.drop_duplicates(["method", "seed", "target_ratio", "evaluator"])
    for (test, reason), rows in list(cells.groupby(["evaluator", "reason"], sort=False))[:MAX_REASONS]:
        times = "" if len(rows) == 1 else f" ({len(rows)} times)"
        console.out.print(escape(f"  {test}: {reason}{times}"), soft_wrap=True)


def print_thresholds(rows: pd.DataFrame) -> None:
    """Prints one line per method, metric and condition: potential, certified ratio, first failure."""
    table = Table(box=None, pad_edge=False)
    for title in ("method", "metric", "condition"):
        table.add_column(title)
    for title in ("tolerance", "parent", "potential", "certified", "95 % interval", "first failure"):
        table.add_column(title, justify="right")
    table.add_column("flags")
    for _, row in _with_axis_in_names(rows).iterrows():
        flags = [name for name in FLAGS if row.get(name)]
        low, high = row["potential_low"], row["potential_high"]
        aggregate = "" if row["aggregate"] == "single" else f" ({row['aggregate']})"
        names = (row["method"], row["metric"], f"{row['condition']}{aggregate}")
        table.add_row(
            *(escape(str(name)) for name in names),
            f"{row['tolerance']:.4g}",
            f"{row['reference']:.4f}",
            f"{row['potential']:.1%}",
            _share(row["certified"]),
            f"{_share(low)} to {_share(high)}" if low >= 0 else "-",
            _share(row["first_failure"]),
            ", ".join(flags).replace("_", "-"),
        )
    console.out.print(table)


def print_factorial(rows: pd.DataFrame) -> None:
    """Prints a 2x2 factorial comparison of methods and recipes: a line per pair and target ratio."""
    table = Table(box=None, pad_edge=False)
    for title in ("ratio", "A", "B"):
        table.add_column(title)
    for title in ("A, recipe 1", "B, recipe 1", "A, recipe 2", "B, recipe 2"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for _, row in rows.iterrows():
        values = ("value", "other_value", "value_other_recipe", "other_value_other_recipe")
        verdict = f"{row['winner']} under both: {row['verdict']}" if row["winner"] else row["verdict"]
        methods = (escape(str(row[name])) for name in ("method", "other_method"))
        table.add_row(
            f"{row['target_ratio']:.1%}",
            *methods,
            *(f"{row[name]:.4f}" for name in values),
            escape(verdict),
        )
    console.out.print(table)


def _with_axis_in_names(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, methods named with their cost axis where these differ; a common axis is printed once."""
    axes = rows["axis"].unique()
    if len(axes) == 1:
        if axes[0] != DEFAULT_AXIS:
            console.out.print(f"Ratios are shares of the parent's {AXES[axes[0]].noun} that are gone.")
        return rows
    suffixes = ["" if axis == DEFAULT_AXIS else f" ({AXES[axis].noun})" for axis in rows["axis"]]
    return rows.assign(method=[f"{name}{text}" for name, text in zip(rows["method"], suffixes, strict=True)])


def _condition(row: pd.Series[Any]) -> str:
    return f"{row['condition']} (worst)" if row["aggregate"] == "minimum" else str(row["condition"])


def _share(ratio: float) -> str:
    return f"{ratio:.1%}" if ratio >= 0 else "-"  # NaN compares with nothing
