"""``threshold`` and ``factorial``: thresholds and comparisons drawn again from the cells of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evalsuite.cli import console
from evalsuite.cli.options import AsJson, Axis, RunFolder
from evalsuite.cli.threshold_tables import print_factorial, print_thresholds
from evalsuite.errors import UserError
from evalsuite.registry import unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.run import Run
    from evalsuite.tolerances import Rule, Tolerance


def threshold_command(
    run: RunFolder,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric, or metric@condition; may be repeated. [default: all]")
    ] = None,
    tolerance: Annotated[
        str,
        typer.Option(help="0.01 in the metric's unit, or 5% of the parent's value. [default: the suite's]"),
    ] = "",
    seed: Annotated[str, typer.Option(help="One seed instead of the mean over all.")] = "all",
    axis: Axis = "",
    as_json: AsJson = False,
) -> None:
    """Draw the thresholds of a run again, at other tolerances, from its cells and without the models."""
    from evalsuite.results.run import Run

    results = Run(run, axis=axis)
    if tolerances := requested_tolerances(results, metric or [], tolerance):
        results = Run(run, tolerances=tolerances, axis=axis)
    rows = selected_rows(results.thresholds(), metric or [], seed)
    if as_json:
        console.print_rows(rows)
    else:
        print_thresholds(rows)


def requested_tolerances(run: Run, metrics: list[str], rule: Rule) -> dict[str, Tolerance]:
    """Returns the tolerances that a command line requests; none where it requests the run's own.

    Args:
        run: The run.
        metrics: Metrics, or metric@condition; empty for all that have a tolerance.
        rule: One for all of them; empty: the run's own.
    """
    from evalsuite.tolerances import parse_tolerances

    return parse_tolerances([f"{metric}={rule}" for metric in metrics or run.tolerances]) if rule else {}


def selected_rows(rows: pd.DataFrame, metrics: list[str], seed: str) -> pd.DataFrame:
    """Returns the thresholds of one seed, of some metrics.

    Args:
        rows: Thresholds.
        metrics: Metrics, or metric@condition; empty for all.
        seed: A seed, or ``all`` for the mean over them.

    Raises:
        UserError: If there are none of a name.
    """
    rows = rows[rows["seed"].astype(str) == seed]
    places = rows["metric"] + "@" + rows["condition"]
    names = {*rows["metric"], *places}
    for metric in metrics:
        if metric not in names:
            raise UserError(unknown_name("metric with a tolerance in this run", metric, sorted(names)))
    return rows[rows["metric"].isin(metrics) | places.isin(metrics)] if metrics else rows


def factorial_command(
    run: RunFolder,
    metric: Annotated[str, typer.Option(help="The metric that is compared.")] = "accuracy",
    condition: Annotated[str, typer.Option(help="The condition that it is compared on.")] = "clean",
    as_json: AsJson = False,
) -> None:
    """Compare pairs of methods under pairs of recipes: which method wins under both, and where the recipe decides."""
    from evalsuite.results.factorial_comparison import factorial_comparison
    from evalsuite.results.run import Run

    rows = factorial_comparison(Run(run), metric=metric, condition=condition)
    if as_json:
        console.print_rows(rows)
    else:
        print_factorial(rows)
