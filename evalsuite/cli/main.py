"""The commands: parse, call, print; no logic."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from evalsuite.cli.console import (
    err,
    escaped,
    print_inspection,
    print_json,
    print_listing,
    print_plan,
    print_program,
    print_report,
    print_spent,
    print_status,
    progress,
)
from evalsuite.cli.results import register
from evalsuite.cli.tables import print_rows, print_summary, print_verdicts
from evalsuite.errors import EvalsuiteError, UserError
from evalsuite.registry import Entry, Registry, unknown

app = typer.Typer(
    name="evalsuite",
    help="How far can a network be pruned before it stops being as good as its parent, beyond test accuracy?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts are brackets
    context_settings={"help_option_names": ["-h", "--help"]},
)
KINDS = ("producers", "evaluators", "datasets", "models", "recipes", "suites")
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
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:<n>, or several: cuda:0,1.")] = "cpu",
    data: Annotated[Path | None, typer.Option(help="Data folder. [default: $EVALSUITE_DATA]")] = None,
    download: Annotated[bool, typer.Option("--download", help="Allow fetching missing data sets.")] = False,
    workers: Annotated[
        str,
        typer.Option(help="Tasks at once: a number, or auto for all processors. [default: one per device]"),
    ] = "",
    executor: Annotated[
        str, typer.Option(help="serial, local, ray or ray://host:port. [default: local if there are workers]")
    ] = "",
    only: Annotated[list[str] | None, typer.Option(help="Only this test or method; may be repeated.")] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Compute skipped and invalid cells again, as failed ones are."),
    ] = False,
    recipe: Annotated[str, typer.Option(help="Train by this recipe instead: see list recipes.")] = "",
    search: Annotated[
        str, typer.Option(help="Find the threshold of metric@condition alone, by testing fewer ratios.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it costs.")
    ] = False,
) -> None:
    """Run a suite and write its report; what an earlier run finished is not computed again."""
    from evalsuite.runs.provenance import Options

    options = Options(
        seed=seed,
        device=device,
        data=data,
        download=download,
        workers=_count(workers),
        executor=executor,
        only=tuple(only or ()),
        retry_failed=retry_failed,
        recipe=recipe,
    )
    if dry_run:
        from evalsuite.execution.dry_run import plan

        print_plan(plan(suite, out=out_dir, options=options))
        return
    from evalsuite.api import run

    with progress() as tell:
        found = run(suite, out=out_dir, options=options, progress=tell, search_for=search)
    print_summary(found)
    print_spent(found.record)
    print_report(found.path / "index.html")
    raise typer.Exit(FAILED if found.failures["status"].isin(["invalid", "error"]).any() else 0)


@app.command("status")
def status_command(
    run: Annotated[Path, typer.Argument(help="A run folder, for example reports/digits.")],
) -> None:
    """Say how far a run has come, also while it goes on; nothing is written."""
    from evalsuite.runs.status import status

    print_status(status(run))


@app.command("check")
def check_command(
    parent: Annotated[str, typer.Option(help="Weights of the dense network.")],
    candidate: Annotated[
        list[str] | None, typer.Option(help="Weights of a pruned one; may be repeated.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV or TOML that lists candidates: file, method, seed ...")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Architecture: resnet20, torchvision:resnet18, file.py:function ... [default: guessed]"
        ),
    ] = "",
    data: Annotated[str, typer.Option(help="Name of the data set.")] = "cifar10",
    data_root: Annotated[Path | None, typer.Option(help="Data folder. [default: $EVALSUITE_DATA]")] = None,
    suite: Annotated[str, typer.Option(help="Take tests and tolerances from this suite.")] = "",
    setting: Annotated[
        list[str] | None, typer.Option(help="Setting of the architecture, e.g. shortcut=B.")
    ] = None,
    mean: Annotated[
        str, typer.Option(help="Mean per channel that the network was trained with: 0.5,0.5,0.5")
    ] = "",
    std: Annotated[str, typer.Option(help="Standard deviation per channel: 0.5,0.5,0.5")] = "",
    tolerance: Annotated[
        list[str] | None, typer.Option(help="Tolerance: accuracy=0.01, nll=5%, accuracy@fog/3=0.02.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this metric decides; may be repeated.")
    ] = None,
    proof: Annotated[bool, typer.Option("--proof", help="Pass only what is shown at 95 %.")] = False,
    out_dir: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("reports/check"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:<n>, or several: cuda:0,1.")] = "cpu",
    workers: Annotated[
        str,
        typer.Option(help="Tasks at once: a number, or auto for all processors. [default: one per device]"),
    ] = "",
    trust_program: Annotated[
        bool, typer.Option("--trust-program", help="Load .pt2 and TorchScript files, which may run code.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts there as JUnit XML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Check finished models against their parent: exit code 0 if all are commensurate, 1 if one is not."""
    from evalsuite.api import check
    from evalsuite.config.manifest import candidates_of_paths
    from evalsuite.config.manifest import read_manifest as listed
    from evalsuite.execution import check as checking
    from evalsuite.runs.provenance import Options
    from evalsuite.tolerances import parsed

    given = candidates_of_paths(candidate or []) + (listed(manifest) if manifest else ())
    question = checking.CheckRequest(
        parent=parent,
        candidates=given,
        model=model,
        settings=checking.settings(
            [*(setting or []), *([f"mean={mean}"] if mean else []), *([f"std={std}"] if std else [])]
        ),
        data={"name": data},
        suite=suite,
        tolerances=parsed(tolerance or []),
        metrics=tuple(metric or ()),
        proof=proof,
    )
    options = Options(
        device=device,
        data=data_root,
        workers=_count(workers),
        trust_program=trust_program,
        command=shlex.join(["python", "-m", "evalsuite", *sys.argv[1:]]),
    )
    with progress() as tell:
        found, run = check(question, out=out_dir, options=options, progress=tell)
    if as_json:
        print_rows(found)
    else:
        print_verdicts(found)
        print_report(run.path / "index.html")
    if junit is not None:
        checking.write_junit(found, junit)
    raise typer.Exit(0 if found["passed"].all() else FAILED)


@app.command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A file of weights, or a whole program.")],
    parent: Annotated[Path | None, typer.Option(help="The dense network, to measure ratios.")] = None,
    masks: Annotated[Path | None, typer.Option(help="A separate file of masks.")] = None,
    image: Annotated[
        str, typer.Option(help="Count MACs for such images: 3x32x32; else the architecture's usual.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what is in a checkpoint or a program, without running anything that is in it."""
    from evalsuite.models.checkpoints.architecture_detection import image_shape, match_architecture
    from evalsuite.models.checkpoints.inspection import inspect
    from evalsuite.models.checkpoints.reading import read_weights
    from evalsuite.models.exported.contents import is_program, program_content

    shape = image_shape(image) if image else None
    if is_program(file):
        program = program_content(file, parent=parent, masks=masks)
        print_json(json.dumps(dataclasses.asdict(program))) if as_json else print_program(program)
        return
    found = inspect(file, parent=parent, masks=masks)
    known = match_architecture(read_weights(file, masks=masks), image_shape=shape)
    if as_json:
        print_json(json.dumps({**dataclasses.asdict(found), **dataclasses.asdict(known)}))
    else:
        print_inspection(found, known)


@app.command("list")
def list_command(kind: Annotated[str, typer.Argument(help=", ".join(KINDS) + ".")]) -> None:
    """List what can be named in a suite: name, one line, where it is defined."""
    if kind not in KINDS:
        raise UserError(unknown("listing", kind, KINDS))
    print_listing(_entries(kind))


register(app)


def main() -> None:
    """Runs the command line; a mistake of the user is one sentence and exit code 2."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a suite says how many threads it uses
    try:
        app()
    except UserError as error:
        err.print(f"[bold red]evalsuite:[/] {escaped(str(error))}", soft_wrap=True)
        sys.exit(WRONG)
    except EvalsuiteError as error:
        err.print(f"[bold red]evalsuite:[/] {escaped(str(error))}", soft_wrap=True)
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


def _count(workers: str) -> int | None:
    """How many workers: as `evalsuite.runs.provenance.Options` wants it."""
    if not workers:
        return None
    if workers != "auto" and not (workers.isdecimal() and int(workers)):
        raise UserError(f"found --workers {workers}, expected a number from 1 on, or auto")
    return 0 if workers == "auto" else int(workers)


def _entries(kind: str) -> list[Entry]:
    if kind == "suites":
        from evalsuite.config.suite import shipped_suites

        return [Entry(name, _description(path), str(path)) for name, path in shipped_suites().items()]
    if kind == "recipes":
        from evalsuite.training.published_recipes import RECIPES

        return [
            Entry(name, one.text, "evalsuite.training.published_recipes")
            for name, one in sorted(RECIPES.items())
        ]
    return _registries()[kind].entries()


def _registries() -> dict[str, Registry[Any]]:
    from evalsuite.datasets import DATASETS
    from evalsuite.evaluators import EVALUATORS
    from evalsuite.models import MODELS
    from evalsuite.producers import PRODUCERS

    return {"producers": PRODUCERS, "evaluators": EVALUATORS, "datasets": DATASETS, "models": MODELS}


def _description(path: Path) -> str:
    return str(tomllib.loads(path.read_text("utf-8")).get("description", ""))
