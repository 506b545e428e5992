"""What the commands show of results: summaries, thresholds, verdicts. Only the command line imports this."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from evalsuite.cli.console import escaped, out, print_json
from evalsuite.cost_axes import AXES, DEFAULT_AXIS

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.run import Run

FLAGS = ("censored", "infeasible", "non_monotone", "incomplete", "at_chance", "underpowered")
MANY = 6
"""Methods beyond which a table with a column for each is too wide."""
MOST_REASONS = 8
TITLE = "Prune potential: commensurate up to this ratio"
PARTIAL = r"\*| corruptions\b|corruptions[^/]*/"
"""Conditions that the report shows and a summary leaves out: painted frost, means of a family, of a severity."""
UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


def print_rows(table: pd.DataFrame) -> None:
    """Prints a table as JSON, one object per row, every number to its last digit."""
    from evalsuite.report.findings import records  # pandas takes a while to import

    print_json(json.dumps(records(table), default=str))


def print_summary(found: Run) -> None:
    """Prints, per method, the largest ratio up to which each headline metric is commensurate."""
    import pandas as pd

    thresholds = found.thresholds()
    headline = thresholds[(thresholds["seed"] == "all") & thresholds["aggregate"].isin(["single", "minimum"])]
    worst = headline["aggregate"] == "minimum"
    grouped = pd.MultiIndex.from_frame(headline.loc[worst, ["metric", "group"]])
    alone = ~pd.MultiIndex.from_frame(headline[["metric", "group"]]).isin(grouped)
    partial = headline["condition"].str.contains(PARTIAL, regex=True)
    chosen = headline[worst | (alone & ~partial)]  # of a group the worst condition; the report has them all
    if not chosen.empty:
        chosen = _told_apart(chosen)
        out.print(_by_method(chosen) if chosen["method"].nunique() > MANY else _by_condition(chosen))
    _print_missing(found)


def _print_missing(found: Run) -> None:
    """Prints how many numbers there are not, and why."""
    from evalsuite.results.run import UNCOMPUTED, UNTESTED

    total, reasons = len(found.measurements), found.failures["reason"]
    left, pending = int((reasons == UNTESTED).sum()), int((reasons == UNCOMPUTED).sum())
    if missing := len(reasons) - left - pending:
        out.print(f"{missing:,} of {total:,} numbers are missing; the report says why.")
        _print_reasons(found.failures)
    if pending:
        out.print(f"{pending:,} of {total:,} numbers are not computed yet; start the same run again.")
    if left:
        out.print(f"{left:,} of {total:,} numbers were left out by the search, which did not need them.")


def _print_reasons(failures: pd.DataFrame) -> None:
    """Prints what went wrong, the same reason once; what does not apply to a model is in the report alone."""
    bad = failures[failures["status"].isin(["error", "invalid"])]
    cells = bad.drop_duplicates(["method", "seed", "target_ratio", "evaluator"])
    for (test, reason), rows in list(cells.groupby(["evaluator", "reason"], sort=False))[:MOST_REASONS]:
        times = "" if len(rows) == 1 else f" ({len(rows)} times)"
        out.print(escaped(f"  {test}: {reason}{times}"), soft_wrap=True)


def _by_condition(chosen: pd.DataFrame) -> Table:
    """A line per metric and condition, a column per method."""
    table = Table(box=None, pad_edge=False, title=TITLE, title_justify="left")
    table.add_column("metric")
    table.add_column("condition")
    methods = list(dict.fromkeys(chosen["method"]))
    for method in methods:
        table.add_column(escaped(method), justify="right")
    for (metric, _, _), rows in chosen.groupby(["metric", "condition", "aggregate"], sort=False):
        potentials = dict(zip(rows["method"], rows["potential"], strict=True))
        shares = (f"{potentials[method]:.1%}" if method in potentials else "-" for method in methods)
        table.add_row(escaped(str(metric)), escaped(_place(rows.iloc[0])), *shares)
    return table


def _by_method(chosen: pd.DataFrame) -> Table:
    """A line per method, the best first: what its first condition says, what all say, and the first to go."""
    first = chosen.iloc[0]
    table = Table(box=None, pad_edge=False, title=TITLE, title_justify="left")
    table.add_column("method")
    for title in (f"{first['metric']}, {_place(first)}", "everything"):
        table.add_column(escaped(title), justify="right")
    table.add_column("first to go")
    ranked = sorted(
        chosen.groupby("method", sort=False),
        key=lambda one: (one[1].iloc[0]["potential"], one[1]["potential"].mean()),
        reverse=True,
    )
    for method, rows in ranked:
        weakest = rows.sort_values("potential", kind="stable").iloc[0]
        table.add_row(
            escaped(str(method)),
            f"{rows.iloc[0]['potential']:.1%}",
            f"{weakest['potential']:.1%}",
            escaped(f"{weakest['metric']}, {_place(weakest)}"),
        )
    return table


def _told_apart(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows; where ratios are not all counted in one cost, methods with what theirs are counted in.

    What all have in common is said once.
    """
    axes = rows["axis"].unique()
    if len(axes) == 1:
        if axes[0] != DEFAULT_AXIS:
            out.print(f"Ratios are shares of the parent's {AXES[axes[0]].noun} that are gone.")
        return rows
    counted = ["" if axis == DEFAULT_AXIS else f" ({AXES[axis].noun})" for axis in rows["axis"]]
    return rows.assign(method=[f"{name}{text}" for name, text in zip(rows["method"], counted, strict=True)])


def _place(row: pd.Series[Any]) -> str:
    return f"{row['condition']} (worst)" if row["aggregate"] == "minimum" else str(row["condition"])


def print_thresholds(rows: pd.DataFrame) -> None:
    """Prints one line per method, metric and condition: what holds, what is certified, where it fails first."""
    table = Table(box=None, pad_edge=False)
    for title in ("method", "metric", "condition"):
        table.add_column(title)
    for title in ("tolerance", "parent", "potential", "certified", "95 % interval", "first failure"):
        table.add_column(title, justify="right")
    table.add_column("flags")
    for _, row in _told_apart(rows).iterrows():
        flags = [name for name in FLAGS if row.get(name)]
        low, high = row["potential_low"], row["potential_high"]
        place = (
            row["condition"] if row["aggregate"] == "single" else f"{row['condition']} ({row['aggregate']})"
        )
        table.add_row(
            *(escaped(str(text)) for text in (row["method"], row["metric"], place)),
            f"{row['tolerance']:.4g}",
            f"{row['reference']:.4f}",
            f"{row['potential']:.1%}",
            _share(row["certified"]),
            f"{_share(low)} to {_share(high)}" if low >= 0 else "-",
            _share(row["first_failure"]),
            ", ".join(flags).replace("_", "-"),
        )
    out.print(table)


def print_cross(rows: pd.DataFrame) -> None:
    """Prints the 2x2 cross of methods and recipes: a line per pair and target ratio."""
    table = Table(box=None, pad_edge=False)
    for title in ("ratio", "A", "B"):
        table.add_column(title)
    for title in ("A, recipe 1", "B, recipe 1", "A, recipe 2", "B, recipe 2"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for _, row in rows.iterrows():
        numbers = ("value", "other_value", "value_other_recipe", "other_value_other_recipe")
        verdict = f"{row['winner']} under both: {row['verdict']}" if row["winner"] else row["verdict"]
        methods = (escaped(str(row[name])) for name in ("method", "other_method"))
        table.add_row(
            f"{row['target_ratio']:.1%}",
            *methods,
            *(f"{row[name]:.4f}" for name in numbers),
            escaped(verdict),
        )
    out.print(table)


def _share(ratio: float) -> str:
    return f"{ratio:.1%}" if ratio >= 0 else "-"  # a missing number compares with nothing


def print_verdicts(found: pd.DataFrame) -> None:
    """Prints one line per candidate and metric: the condition with the largest drop, and how many failed.

    Beside the verdict on what was measured stands how much of it the images show at 95 %.
    """
    table = Table(box=None, pad_edge=False)
    for title in (
        "candidate",
        "ratio",
        "parameters",
        "MACs",
        "packed",
        "metric",
        "worst on",
        "value",
        "parent",
        "drop",
        "95 % interval",
    ):
        table.add_column(title, justify="left" if title in ("candidate", "metric", "worst on") else "right")
    table.add_column("tolerated", justify="right")
    table.add_column("verdict")
    for (candidate, metric), rows in found.groupby(["candidate", "metric"], sort=False):
        worst = rows.sort_values("drop", ascending=False, na_position="first", kind="stable").iloc[0]
        verdict = _verdict(rows)
        numbers = (f"{worst[name]:.4f}" for name in ("value", "parent", "drop"))
        interval = f"{worst['drop_low']:+.4f} {worst['drop_high']:+.4f}"
        place = (
            escaped(str(candidate)),
            f"{worst['ratio']:.1%}",
            _count(float(worst["parameters"])),
            *(_count(float(rows[name].astype("float64").iloc[0])) for name in ("macs", "packed")),
            escaped(str(metric)),
            escaped(worst["condition"]),
        )
        table.add_row(*place, *numbers, interval, f"{worst['tolerance']:g}", verdict)
    out.print(table)
    for row in found[found["flags"].fillna("") != ""].to_dict("records"):
        told = "{candidate}, {metric} on {condition}: {flags}".format_map(row)
        out.print(f"[yellow]Doubted:[/] {escaped(told)}")


def _verdict(rows: pd.DataFrame) -> str:
    """How many conditions failed, and of how many the images show at 95 % what was found."""
    failed, count = int((~rows["passed"]).sum()), len(rows)
    if failed:
        shown = int((rows["shown"] == "not commensurate").sum())
        return f"[bold red]FAIL[/] {failed} of {count} ({shown} shown)"
    shown = int((rows["shown"] == "commensurate").sum())
    return f"[green]pass[/] ({shown} of {count} shown)"


def _count(number: Any) -> str:
    """A large count in three figures; a dash where nobody could count."""
    if not number >= 1:  # a missing number compares with nothing
        return "-"
    unit, divisor = next((unit, size) for unit, size in UNITS if number >= size)
    return f"{number / divisor:.3g}{unit}"
