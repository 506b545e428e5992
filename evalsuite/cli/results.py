"""The commands that only read: conclusions at other tolerances, exports, and how many images a tolerance needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalsuite.cli.console import counting, out, print_report
from evalsuite.cli.tables import print_cross, print_rows, print_thresholds
from evalsuite.cost_axes import AXES

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.run import Run
    from evalsuite.tolerances import Rule, Tolerance

RunFolder = Annotated[Path, typer.Argument(help="A run folder, for example reports/digits.")]


Axis = Annotated[
    str,
    typer.Option(help=f"Count ratios in another cost: {', '.join(AXES)}. [default: what each method saves]"),
]


def report_command(
    run: RunFolder,
    figures: Annotated[
        str, typer.Option(help="Also write each chart for a paper, into RUN/figures: pdf, svg or png.")
    ] = "",
    axis: Axis = "",
) -> None:
    """Rebuild tables and page of a run from its cells, without the models."""
    from evalsuite.api import findings, publish
    from evalsuite.results.run import Run

    found = Run(run, axis=axis)
    page = publish(found)
    print_report(page)
    if figures:
        from evalsuite.report.figures import figures as write_figures

        folder = page.parent / "figures"
        with counting("drawing figures") as progress:
            written = write_figures(findings(found), folder, figures, progress=progress)
        out.print(f"Figures: {len(written)} in {folder.resolve()}", soft_wrap=True, markup=False)


def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the page.")] = Path("reports/compare"),
    axis: Axis = "",
) -> None:
    """Put several runs, with several parents, into one report."""
    from evalsuite.report.several_runs import comparison
    from evalsuite.report.writing import write
    from evalsuite.results.run import Run

    print_report(write(comparison([Run(run, axis=axis) for run in runs]), out_dir))


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
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """Draw the thresholds of a run again, at other tolerances, from its cells and without the models."""
    from evalsuite.results.run import Run

    found = Run(run, axis=axis)
    rules = asked(found, metric or [], tolerance)
    rows = chosen(
        (Run(run, tolerances=rules, axis=axis) if rules else found).thresholds(), metric or [], seed
    )
    if as_json:
        print_rows(rows)
    else:
        print_thresholds(rows)


def cross_command(
    run: RunFolder,
    metric: Annotated[str, typer.Option(help="What is compared.")] = "accuracy",
    condition: Annotated[str, typer.Option(help="Under which condition.")] = "clean",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Compare pairs of methods under pairs of recipes: who wins under both, and where the recipe decides."""
    from evalsuite.results.factorial_comparison import factorial_comparison
    from evalsuite.results.run import Run

    rows = factorial_comparison(Run(run), metric=metric, condition=condition)
    if as_json:
        print_rows(rows)
    else:
        print_cross(rows)


def export_command(
    run: RunFolder,
    form: Annotated[str, typer.Option("--format", help="csv, parquet or mlflow.")] = "csv",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to. [default: RUN/export]")
    ] = None,
    axis: Axis = "",
) -> None:
    """Write the tables of a run for other programs."""
    from evalsuite.report.export import export
    from evalsuite.results.run import Run

    folder = export(Run(run, axis=axis), form, out_dir or run / "export")
    out.print(f"Tables: {folder.resolve()}", soft_wrap=True, markup=False)


def plan_command(
    tolerance: Annotated[float, typer.Option(help="Largest drop that is commensurate, e.g. 0.005.")] = 0.005,
    discordance: Annotated[
        float, typer.Option(help="Share of images on which parent and candidate differ in being right.")
    ] = 0.06,
    drop: Annotated[float, typer.Option(help="True drop that is expected.")] = 0.0,
    power: Annotated[float, typer.Option(help="Probability that the ratio is then certified.")] = 0.8,
    spread: Annotated[
        float, typer.Option(help="Standard deviation of the drop over seeds, to plan seeds as well.")
    ] = 0.0,
) -> None:
    """Say how many images (and seeds) a tolerance needs to be certified."""
    from evalsuite.statistics.sample_size import required_images, required_seeds

    images = required_images(tolerance, discordance, drop=drop, power=power)
    assumed = f"(--discordance {discordance:g}, --drop {drop:g})"
    out.print(
        f"{images:,} images certify a drop of at most {tolerance:g} in {power:.0%} of the tests {assumed}"
    )
    if spread:
        seeds = required_seeds(tolerance, spread, drop=drop, power=power)
        out.print(f"{seeds} seeds do so for the method, as if images were plenty")


def asked(found: Run, places: list[str], rule: Rule) -> dict[str, Tolerance]:
    """Returns the tolerances that a command line asks for; none where it asks for the run's own.

    Args:
        found: The run.
        places: Metrics, or metric@condition.
        rule: One for all of them; empty: the run's own.
    """
    from evalsuite.tolerances import parsed

    if not rule:
        return {}
    return parsed([f"{place}={rule}" for place in places or found.tolerances])


def chosen(rows: pd.DataFrame, places: list[str], seed: str) -> pd.DataFrame:
    """Returns the rows of one seed, of the metrics and conditions that were named.

    Raises:
        UserError: If there are none of a name.
    """
    from evalsuite.errors import UserError
    from evalsuite.registry import unknown

    rows = rows[rows["seed"].astype(str) == seed]
    names = {*rows["metric"], *(rows["metric"] + "@" + rows["condition"])}
    for place in places:
        if place not in names:
            raise UserError(unknown("metric with a tolerance in this run", place, sorted(names)))
    if not places:
        return rows
    return rows[rows["metric"].isin(places) | (rows["metric"] + "@" + rows["condition"]).isin(places)]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command("report")(report_command)
    app.command("compare")(compare_command)
    app.command("threshold")(threshold_command)
    app.command("recipe-cross")(cross_command)
    app.command("export")(export_command)
    app.command("plan")(plan_command)
