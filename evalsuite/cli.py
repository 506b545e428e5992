"""The commands: parse, call, print; no logic."""

from __future__ import annotations

import os
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from evalsuite.errors import EvalsuiteError, UserError
from evalsuite.registry import Entry, Registry, unknown

if TYPE_CHECKING:
    from evalsuite.results import Run
    from evalsuite.runner import Progress, Step

app = typer.Typer(
    name="evalsuite",
    help="How far can a network be pruned before it stops being as good as its parent, beyond test accuracy?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

KINDS = ("producers", "evaluators", "datasets", "models", "suites")
FAILED, WRONG, INTERRUPTED = 1, 2, 130  # exit codes: a cell failed; the user's mistake; Ctrl-C


@app.command("run")
def run_command(
    suite: Annotated[
        str, typer.Argument(help="Path of a suite, or the name of one that ships with evalsuite.")
    ] = "digits",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Run folder. [default: reports/<suite>]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One seed instead of the suite's.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<n>.")] = "cpu",
    data: Annotated[Path | None, typer.Option(help="Data folder. [default: $EVALSUITE_DATA]")] = None,
    download: Annotated[bool, typer.Option("--download", help="Allow fetching missing data sets.")] = False,
) -> None:
    """Run a suite and write its report; what an earlier run finished is not computed again."""
    from evalsuite.api import run
    from evalsuite.provenance import Options

    options = Options(seed=seed, device=device, data=data, download=download)
    with _progress() as progress:
        found = run(suite, out=out_dir, options=options, progress=progress)
    _print_summary(found)
    _print_report(found.path / "index.html")
    raise typer.Exit(FAILED if len(found.failures) else 0)


@app.command("report")
def report_command(
    run: Annotated[Path, typer.Argument(help="A run folder, for example reports/digits.")],
) -> None:
    """Rebuild tables and page of a run from its cells, without the models."""
    from evalsuite.api import publish

    _print_report(publish(run))


@app.command("list")
def list_command(kind: Annotated[str, typer.Argument(help=", ".join(KINDS) + ".")]) -> None:
    """List what can be named in a suite: name, one line, where it is defined."""
    if kind not in KINDS:
        raise UserError(unknown("listing", kind, KINDS))
    for line in _listing(_entries(kind), width=out.width if out.is_terminal else None):
        out.print(line, soft_wrap=True, markup=False)


def main() -> None:
    """Runs the command line; a mistake of the user is one sentence and exit code 2."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a suite says how many threads it uses
    try:
        app()
    except UserError as error:
        err.print(f"[bold red]evalsuite:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(WRONG)
    except EvalsuiteError as error:
        err.print(f"[bold red]evalsuite:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of an interrupt
            _stopped()
        raise


def _stopped() -> NoReturn:
    err.print("Stopped. What is finished is kept: the same command goes on from here.")
    sys.exit(INTERRUPTED)


def _entries(kind: str) -> list[Entry]:
    if kind == "suites":
        from evalsuite.suite import shipped

        return [Entry(name, _description(path), str(path)) for name, path in shipped().items()]
    return _registries()[kind].entries()


def _listing(entries: Sequence[Entry], *, width: int | None) -> Iterator[str]:
    """Three columns, one line each, for pipes and wide terminals; else the place goes below the text."""
    rows = [Entry("name", "what it is", "defined in"), *entries]
    names, texts, places = (max(len(getattr(row, field)) for row in rows) for field in ("name", "text", "defined"))
    if width is None or names + texts + places + 4 <= width:
        yield from (f"{row.name:<{names}}  {row.text:<{texts}}  {row.defined}" for row in rows)
        return
    for row in rows:
        lines = [*textwrap.wrap(row.text, max(width - names - 2, 20)), row.defined]
        yield from (f"{name:<{names}}  {line}" for name, line in zip_longest([row.name], lines, fillvalue=""))


def _registries() -> dict[str, Registry[Any]]:
    from evalsuite.data import DATASETS
    from evalsuite.evaluators import EVALUATORS
    from evalsuite.models import MODELS
    from evalsuite.producers import PRODUCERS

    return {"producers": PRODUCERS, "evaluators": EVALUATORS, "datasets": DATASETS, "models": MODELS}


def _description(path: Path) -> str:
    return str(tomllib.loads(path.read_text("utf-8")).get("description", ""))


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere; failed cells are told in both."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(
        *columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("reading the suite", total=None)

        def tell(step: Step) -> None:
            name = f"{step.key.method} {step.key.target_ratio:g} {step.what}"
            bar.update(task, description=_escaped(name), completed=step.done, total=step.total)
            if step.status != "ok":
                err.print(_escaped(f"{name} (seed {step.key.seed}): {step.status}"), soft_wrap=True)

        yield tell


def _print_summary(found: Run) -> None:
    """Per method, the largest ratio up to which each headline metric is commensurate."""
    import pandas as pd

    thresholds = found.thresholds()
    headline = thresholds[(thresholds["seed"] == "all") & thresholds["aggregate"].isin(["single", "minimum"])]
    worst = headline["aggregate"] == "minimum"
    grouped = pd.MultiIndex.from_frame(headline.loc[worst, ["metric", "group"]])
    alone = ~pd.MultiIndex.from_frame(headline[["metric", "group"]]).isin(grouped)
    chosen = headline[worst | alone]  # of a group the worst condition; the report has them all
    if chosen.empty:
        return
    table = Table(
        box=None, pad_edge=False, title="Prune potential: commensurate up to this ratio", title_justify="left"
    )
    table.add_column("metric")
    table.add_column("condition")
    methods = list(dict.fromkeys(chosen["method"]))
    for method in methods:
        table.add_column(_escaped(method), justify="right")
    for (metric, condition, aggregate), rows in chosen.groupby(
        ["metric", "condition", "aggregate"], sort=False
    ):
        potentials = dict(zip(rows["method"], rows["potential"], strict=True))
        name = f"{condition} (worst)" if aggregate == "minimum" else condition
        table.add_row(_escaped(str(metric)), _escaped(str(name)), *(f"{potentials[method]:.1%}" for method in methods))
    out.print(table)
    failed = len(found.failures.drop_duplicates(["method", "seed", "target_ratio", "evaluator"]))
    if failed:
        out.print(f"{failed} cells have no numbers; the report says why.")


def _print_report(page: Path) -> None:
    out.print(f"Report: {page.resolve()}", soft_wrap=True, markup=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
