"""``report``, ``compare`` and ``export``: pages, figures and tables of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalsuite.cli import console
from evalsuite.cli.options import Axis, RunFolder, written_path
from evalsuite.cli.progress import count_progress
from evalsuite.errors import UserError


def report_command(
    run: RunFolder,
    figures: Annotated[
        str, typer.Option(help="Also write figures for a paper, into RUN/figures: pdf, svg or png.")
    ] = "",
    only: Annotated[
        str,
        typer.Option(
            help="Only these figures, with commas: verdict, panels, curves, reliability, radius, excess, or one such "
            "as curves:accuracy/clean. [default: all]"
        ),
    ] = "",
    width: Annotated[
        str,
        typer.Option(
            help="Width of the figures: column, page, or millimetres such as 120mm. [default: by kind]"
        ),
    ] = "",
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Show no test images, for a page that others may see.")
    ] = False,
    axis: Axis = "",
) -> None:
    """Rebuild tables and page of a run from its cells, without the models."""
    from evalsuite.api import publish
    from evalsuite.report.build import report_data
    from evalsuite.results.run import Run

    if not figures and (only or width):
        raise UserError(
            f"found --{'only' if only else 'width'} without figures; add --figures pdf, svg or png"
        )
    results = Run(run, axis=axis)
    page = publish(results, pictures=not no_pictures)
    console.print_path("Report", page)
    if figures:
        from evalsuite.report.figures import figures as write_figures

        folder, names = page.parent / "figures", [name.strip() for name in only.split(",") if name.strip()]
        with count_progress("drawing figures") as progress:
            written = write_figures(
                report_data(results), folder, figures, only=names, width=width, progress=progress
            )
        console.print_path("Figures", folder, count=len(written))


def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    out_dir: Annotated[Path, typer.Option("--out", parser=written_path, help="Folder of the page.")] = Path(
        "reports/compare"
    ),
    axis: Axis = "",
) -> None:
    """Put several runs, with several parents, into one report."""
    from evalsuite.report.build import combined_report_data
    from evalsuite.report.page import write_page
    from evalsuite.results.run import Run

    data = combined_report_data([Run(run, axis=axis) for run in runs])
    console.print_path("Report", write_page(data, out_dir))


def export_command(
    run: RunFolder,
    form: Annotated[str, typer.Option("--format", help="csv, parquet, latex or mlflow.")] = "csv",
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", parser=written_path, help="Folder to write to. [default: RUN/export]"),
    ] = None,
    axis: Axis = "",
) -> None:
    """Write the tables of a run for other programs."""
    from evalsuite.report.export import export
    from evalsuite.results.run import Run

    console.print_path("Tables", export(Run(run, axis=axis), form, out_dir or run / "export"))
