"""``run``: runs a suite and prints what it found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from evalsuite.cli import console, endings
from evalsuite.cli.dry_run import print_plan
from evalsuite.cli.options import (
    BatchSize,
    DataRoot,
    Device,
    DryRun,
    Limit,
    NoCache,
    Precision,
    SkipUnreadable,
    Verify,
    Workers,
    worker_count,
    written_path,
)
from evalsuite.cli.progress import cell_progress, duration
from evalsuite.cli.threshold_tables import print_summary
from evalsuite.errors import CellError, UserError


def run_command(
    suite: Annotated[
        str, typer.Argument(help="Path of a suite, or the name of one that ships with evalsuite.")
    ] = "digits",
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", parser=written_path, help="Run folder. [default: reports/<suite>]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One seed instead of the suite's.")] = None,
    device: Device = "cpu",
    data_root: DataRoot = None,
    data: Annotated[str, typer.Option(hidden=True)] = "",
    download: Annotated[bool, typer.Option("--download", help="Allow fetching missing data sets.")] = False,
    workers: Workers = "",
    executor: Annotated[
        str, typer.Option(help="serial, local, ray or ray://host:port. [default: local if there are workers]")
    ] = "",
    only: Annotated[list[str] | None, typer.Option(help="Only this test or method; may be repeated.")] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Compute skipped and invalid cells again, as failed ones are."),
    ] = False,
    recipe: Annotated[str, typer.Option(help="Train by this recipe instead: see list recipes.")] = "",
    candidates_from: Annotated[
        list[str] | None,
        typer.Option(
            help="Prune by your function(model, ratio, data) too: file.py:function; may be repeated. Runs that code."
        ),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    verify: Verify = False,
    search: Annotated[
        str, typer.Option(help="Find the threshold of metric@condition alone, by testing fewer ratios.")
    ] = "",
    limit: Limit = None,
    batch_size: BatchSize = None,
    precision: Precision = "",
    no_cache: NoCache = False,
    dry_run: DryRun = False,
) -> None:
    """Run a suite and write its report; what an earlier run finished is not computed again."""
    from evalsuite.config.options import Options

    options = Options(
        seed=seed,
        device=device,
        data_root=_data_root(data, data_root),
        download=download,
        workers=worker_count(workers),
        executor=executor,
        only=tuple(only or ()),
        retry_failed=retry_failed,
        recipe=recipe,
        candidates_from=tuple(candidates_from or ()),
        skip_unreadable=skip_unreadable,
        verify=verify,
        search=search,
        limit=limit,
        batch_size=batch_size,
        precision=precision,
        cache=not no_cache,
    )
    if dry_run:
        from evalsuite.execution.dry_run import describe_run
        from evalsuite.execution.planning import prepare

        print_plan(describe_run(prepare(suite, out=out_dir, options=options)))
        return
    from evalsuite.api import run

    try:
        with cell_progress() as progress:
            results = run(suite, out=out_dir, options=options, progress=progress)
    except (
        CellError
    ) as error:  # a parent that could not be made: an answer of the suite, and no mistake in it
        console.print_error(str(error))
        raise typer.Exit(endings.FAILED) from error
    print_summary(results)
    print_time_spent(results.record)
    console.print_path("Report", results.path / "index.html")
    raise typer.Exit(endings.FAILED if results.failures["status"].isin(["invalid", "error"]).any() else 0)


def _data_root(data: str, data_root: Path | None) -> Path | None:
    """The folder with data of ``run``, whose option was called --data in evalsuite 0.1."""
    if not data:
        return data_root
    if data_root is None and Path(data).is_dir():
        console.print_warning(
            f"--data {data}: a folder with data is now given by --data-root {data}; "
            "the old spelling stops working with the next release"
        )
        return Path(data)
    raise UserError(
        f"--data {data}: the suite names the data set that it runs on; change it under [data] in the suite, "
        "and give a folder with data by --data-root"
    )


def print_time_spent(record: Mapping[str, Any]) -> None:
    """Prints how long the components of a run took, over all runs in its folder, and what was not read again."""
    if not record.get("computed"):
        console.out.print(
            "Nothing was computed: all cells were there. Weights behind finished cells were not read again; "
            "status --verify reads all.",
            soft_wrap=True,
        )
    spent = record.get("spent") or {}
    if not record.get("computed") or not spent:
        return
    text = ", ".join(f"{component} {duration(total['seconds'])}" for component, total in spent.items())
    console.out.print(f"Spent: {text}", soft_wrap=True, markup=False)
