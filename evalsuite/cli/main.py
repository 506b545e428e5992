"""The commands: they parse, call the library and print; no logic."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import sys
import tomllib
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from evalsuite.cli import console, endings
from evalsuite.cost_axes import AXES
from evalsuite.errors import CellError, EvalsuiteError, UserError
from evalsuite.registry import Registry, RegistryEntry, unknown_name
from evalsuite.types import WeightSet

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.check_verdicts import UndecidedRule
    from evalsuite.results.run import Run
    from evalsuite.tolerances import Rule, Tolerance

app = typer.Typer(
    name="evalsuite",
    help="How far can a network be pruned before it stops being as good as its parent, beyond test accuracy?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts are brackets
    context_settings={"help_option_names": ["-h", "--help"]},
)
KINDS = ("producers", "evaluators", "datasets", "models", "recipes", "suites")
FAILED, WRONG, CRASHED, INTERRUPTED = 1, 2, 70, 130
"""Exit codes: a cell or a check failed; the user's mistake; a fault of a program (as in sysexits.h); Ctrl-C."""


def _written_path(text: str | Path) -> Path:
    """The path of something that a command writes."""
    if not str(text).strip():
        raise UserError(
            f"found the empty path {str(text)!r} of something to write, expected a folder or file; name it"
        )
    return Path(text)


RunFolder = Annotated[Path, typer.Argument(help="A run folder, for example reports/digits.")]
Axis = Annotated[
    str,
    typer.Option(help=f"Count ratios in another cost: {', '.join(AXES)}. [default: what each method saves]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder with data. [default: $EVALSUITE_DATA]")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:<n>, or several: cuda:0,1.")]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Test a seeded sample of N test images, stratified by class. [default: all images]", metavar="N"
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Images per forward pass. [default: the suite's; else 32, on a GPU by a probe]", metavar="N"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and what it costs.")]
Workers = Annotated[
    str, typer.Option(help="Tasks at once: a number, or auto for all processors. [default: one per device]")
]

SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be read, and count them.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read all pictures again that an earlier run has decoded.")
]


Weights = Annotated[
    str,
    typer.Option(
        help="Of a file with two sets of weights: ema for averaged ones, raw for the others. [default: ema]"
    ),
]

Entry = Annotated[
    str,
    typer.Option(
        help="Of a file with several networks: the place in the list, from 0 on, or the key. [default: the only one]"
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.out.print(f"evalsuite {version('evalsuite')}", markup=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # its callback prints it
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Takes the options that stand before a command."""


@app.command("run")
def run_command(
    suite: Annotated[
        str, typer.Argument(help="Path of a suite, or the name of one that ships with evalsuite.")
    ] = "digits",
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", parser=_written_path, help="Run folder. [default: reports/<suite>]"),
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
    dry_run: DryRun = False,
) -> None:
    """Run a suite and write its report; what an earlier run finished is not computed again."""
    from evalsuite.config.options import Options

    options = Options(
        seed=seed,
        device=device,
        data_root=_data_root(data, data_root),
        download=download,
        workers=_worker_count(workers),
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
    )
    if dry_run:
        from evalsuite.execution.dry_run import describe_run
        from evalsuite.execution.planning import prepare

        console.print_plan(describe_run(prepare(suite, out=out_dir, options=options)))
        return
    from evalsuite.api import run

    try:
        with console.cell_progress() as progress:
            results = run(suite, out=out_dir, options=options, progress=progress)
    except (
        CellError
    ) as error:  # a parent that could not be made: an answer of the suite, and no mistake in it
        console.print_error(str(error))
        raise typer.Exit(FAILED) from error
    console.print_summary(results)
    console.print_time_spent(results.record)
    console.print_path("Report", results.path / "index.html")
    raise typer.Exit(FAILED if results.failures["status"].isin(["invalid", "error"]).any() else 0)


@app.command("status")
def status_command(
    run: RunFolder,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all finished weights and cells again: are they as written?")
    ] = False,
) -> None:
    """Print how far a run has come, also while it goes on; nothing is written."""
    from evalsuite.runs.status import status
    from evalsuite.runs.verification import verify as verify_run

    console.print_status(status(run))
    if not verify:
        return
    with console.count_progress("reading again") as progress:
        verification = verify_run(run, progress=progress)
    console.print_verification(verification)
    raise typer.Exit(FAILED if verification.damaged else 0)


@app.command("check")
def check_command(
    parent: Annotated[
        str, typer.Option(help="Weights of the dense network. [default: the suite's checkpoint]")
    ] = "",
    candidate: Annotated[
        list[str] | None, typer.Option(help="Weights of a pruned one; may be repeated.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV or TOML that lists candidates: file, method, seed ...")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Architecture: resnet20, torchvision:resnet18, file.py:function ... [default: detected]"
        ),
    ] = "",
    weights: Weights = "",
    entry: Entry = "",
    data: Annotated[
        str,
        typer.Option(
            help="Data set: a name, a folder (class folders, .npy files, Hugging Face datasets), either with settings "
            "(photos:side=64). [default: the suite's, else cifar10]"
        ),
    ] = "",
    data_root: DataRoot = None,
    suite: Annotated[
        str, typer.Option(help="Take tests, tolerances, data, model, plug-ins and limits from this suite.")
    ] = "",
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
    undecided: Annotated[
        str,
        typer.Option(
            help="What the images leave undecided: its measured drop decides (measured), pass, or fail. "
            "[default: measured]"
        ),
    ] = "",
    proof: Annotated[
        bool, typer.Option("--proof", help="Pass only what is shown to be non-inferior: --undecided fail.")
    ] = False,
    control: Annotated[
        list[str] | None,
        typer.Option(help="A dense network retrained or trained independently; may be repeated."),
    ] = None,
    parent_accuracy: Annotated[
        float | None, typer.Option(help="The parent's published accuracy on these images, as a share: 0.7613")
    ] = None,
    ignore_recorded_accuracy: Annotated[
        bool,
        typer.Option(
            "--ignore-recorded-accuracy",
            help="Go on where a guessed architecture is far from the accuracy in the parent's file.",
        ),
    ] = False,
    skip_unreadable: SkipUnreadable = False,
    verify: Verify = False,
    out_dir: Annotated[Path, typer.Option("--out", parser=_written_path, help="Run folder.")] = Path(
        "reports/check"
    ),
    device: Device = "cpu",
    workers: Workers = "",
    trust_program: Annotated[
        bool, typer.Option("--trust-program", help="Load .pt2 and TorchScript files, which may run code.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(parser=_written_path, help="Write the verdicts there as JUnit XML.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(parser=_written_path, help="Write a summary there as Markdown: $GITHUB_STEP_SUMMARY."),
    ] = None,
    as_json: AsJson = False,
    limit: Limit = None,
    batch_size: BatchSize = None,
    dry_run: DryRun = False,
) -> None:
    """Check finished models against their parent: exit code 0 if none fails, 1 if one does."""
    from evalsuite.api import check, check_dry_run
    from evalsuite.atomic_files import write_atomically
    from evalsuite.config.manifest import candidates_of_paths, read_manifest
    from evalsuite.config.options import Options
    from evalsuite.config.settings import settings
    from evalsuite.execution.check import CheckRequest, controls_of_paths, write_junit
    from evalsuite.results.check_summary import markdown_summary
    from evalsuite.results.check_verdicts import candidate_verdicts, check_document, exit_reason
    from evalsuite.tolerances import parse_tolerances

    written = {"--json": as_json, "--junit": junit is not None, "--markdown": markdown is not None}
    if dry_run and any(written.values()):
        without = next(name for name, is_given in written.items() if is_given)
        raise UserError(f"{without} has no effect with --dry-run; leave one of them out")
    preprocessing = [f"{key}={text}" for key, text in (("mean", mean), ("std", std)) if text]
    request = CheckRequest(
        parent=parent,
        candidates=candidates_of_paths(candidate or []) + (read_manifest(manifest) if manifest else ()),
        model=model,
        weights=_weight_set(weights),
        entry=entry,
        settings=settings([*(setting or []), *preprocessing]),
        data=data,
        suite=suite,
        tolerances=parse_tolerances(tolerance or []),
        metrics=tuple(metric or ()),
        undecided=_undecided_rule(undecided, proof=proof),
        parent_accuracy=parent_accuracy,
        ignore_recorded_accuracy=ignore_recorded_accuracy,
        controls=controls_of_paths(control or []),
    )
    options = Options(
        device=device,
        data_root=data_root,
        skip_unreadable=skip_unreadable,
        verify=verify,
        workers=_worker_count(workers),
        limit=limit,
        batch_size=batch_size,
        trust_program=trust_program,
        command=shlex.join(["python", "-m", "evalsuite", *sys.argv[1:]]),
    )
    if dry_run:
        console.print_plan(check_dry_run(request, out=out_dir, options=options))
        return
    with console.cell_progress() as progress:
        verdicts, results = check(request, out=out_dir, options=options, progress=progress)
    code, reason = exit_reason(candidate_verdicts(verdicts), request.undecided)
    if junit is not None:  # before it is printed: the reader of that may be gone
        write_junit(verdicts, junit, run=results.path)
    if markdown is not None:
        write_atomically(markdown, markdown_summary(verdicts, request.undecided).encode())
    if as_json:
        console.print_json(json.dumps(check_document(results, verdicts, request.undecided)))
    else:
        console.print_verdicts(verdicts)
        console.print_exit(code, reason)
        console.print_path("Report", results.path / "index.html")
    raise typer.Exit(code)


@app.command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A file of weights, or a whole program.")],
    parent: Annotated[Path | None, typer.Option(help="The dense network, to measure ratios.")] = None,
    masks: Annotated[Path | None, typer.Option(help="A separate file of masks.")] = None,
    weights: Weights = "",
    entry: Entry = "",
    image: Annotated[
        str, typer.Option(help="Count MACs for such images: 3x32x32; else the architecture's usual.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Print what is in a checkpoint or a program, without running anything that is in it."""
    from evalsuite.models.checkpoints.architecture_detection import match_architecture, parse_image_shape
    from evalsuite.models.checkpoints.inspection import inspect_checkpoint
    from evalsuite.models.checkpoints.reading import read_weights
    from evalsuite.models.exported.inspection import inspect_program, is_program

    shape = parse_image_shape(image) if image else None
    if is_program(file):
        if entry or weights:
            raise UserError(
                f"{file} is a whole program, of which --weights and --entry choose nothing; leave them out"
            )
        program = inspect_program(file, parent=parent, masks=masks)
        if as_json:
            console.print_json(json.dumps(dataclasses.asdict(program)))
        else:
            console.print_program(program)
        return
    choice = _weight_set(weights)
    inspection = inspect_checkpoint(file, parent=parent, masks=masks, choice=choice, entry=entry)
    tensors = read_weights(file, masks=masks, choice=choice, entry=entry)
    match = match_architecture(tensors, image_shape=shape, file=file)
    if as_json:
        console.print_json(json.dumps({**dataclasses.asdict(inspection), **dataclasses.asdict(match)}))
    else:
        console.print_inspection(inspection, match)


@app.command("report")
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
    page = publish(results)
    console.print_path("Report", page)
    if figures:
        from evalsuite.report.figures import figures as write_figures

        folder, names = page.parent / "figures", [name.strip() for name in only.split(",") if name.strip()]
        with console.count_progress("drawing figures") as progress:
            written = write_figures(
                report_data(results), folder, figures, only=names, width=width, progress=progress
            )
        console.print_path("Figures", folder, count=len(written))


@app.command("compare")
def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    out_dir: Annotated[Path, typer.Option("--out", parser=_written_path, help="Folder of the page.")] = Path(
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


@app.command("threshold")
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
        console.print_thresholds(rows)


@app.command("factorial")
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
        console.print_factorial(rows)


@app.command("export")
def export_command(
    run: RunFolder,
    form: Annotated[str, typer.Option("--format", help="csv, parquet, latex or mlflow.")] = "csv",
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", parser=_written_path, help="Folder to write to. [default: RUN/export]"),
    ] = None,
    axis: Axis = "",
) -> None:
    """Write the tables of a run for other programs."""
    from evalsuite.report.export import export
    from evalsuite.results.run import Run

    console.print_path("Tables", export(Run(run, axis=axis), form, out_dir or run / "export"))


@app.command("sample-size")
def sample_size_command(
    tolerance: Annotated[float, typer.Option(help="Largest drop that is commensurate, e.g. 0.005.")] = 0.005,
    discordance: Annotated[
        float, typer.Option(help="Share of images that exactly one of parent and candidate gets right.")
    ] = 0.06,
    drop: Annotated[float, typer.Option(help="True drop that is expected.")] = 0.0,
    power: Annotated[float, typer.Option(help="Probability that the ratio is then certified.")] = 0.8,
    spread: Annotated[
        float, typer.Option(help="Standard deviation of the drop over seeds, to plan seeds as well.")
    ] = 0.0,
) -> None:
    """Print how many images (and seeds) a tolerance needs to be certified."""
    from evalsuite.statistics.sample_size import required_images, required_seeds

    images = required_images(tolerance, discordance, drop=drop, power=power)
    assumed = f"(--discordance {discordance:g}, --drop {drop:g})"
    console.out.print(
        f"{images:,} images certify a drop of at most {tolerance:g} in {power:.0%} of the tests {assumed}"
    )
    if spread:
        seeds = required_seeds(tolerance, spread, drop=drop, power=power)
        console.out.print(f"{seeds} seeds do so for the method, as if the number of images were unlimited")


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS) + ".")],
    name: Annotated[
        str, typer.Argument(help="One of them: print its settings with type, default and meaning.")
    ] = "",
    prunable: Annotated[
        bool,
        typer.Option(
            "--prunable",
            help="models: which units structured methods can remove of small versions of the libraries' networks, or "
            "of the model that is named (timm:..., file.py:function).",
        ),
    ] = False,
    side: Annotated[int, typer.Option(help="Pixels of the images of a named model, with --prunable.")] = 32,
) -> None:
    """List what can be named in a suite: name, one line, where it is defined; or all settings of one of them."""
    if kind not in KINDS:
        raise UserError(unknown_name("listing", kind, KINDS))
    if prunable:
        if kind != "models":
            raise UserError(f"found list {kind} --prunable, expected list models --prunable")
        _print_prunable(name, side)
        return
    if not name:
        console.print_listing(_entries(kind))
        return
    from evalsuite.cli.plugin_settings import settings_of

    registries = _registries()
    if kind not in registries:
        raise UserError(
            f"list {kind} {name}: {kind} have no settings; expected one of {', '.join(registries)}"
        )
    plugin = registries[kind].get(name)
    (entry,) = [entry for entry in registries[kind].entries() if entry.name == name]
    console.print_settings(entry, settings_of(plugin))


def _print_prunable(name: str, side: int) -> None:
    """Prints which units can be removed: of small networks of the libraries, or of one model with its layers."""
    from evalsuite.models.architectures.base import build_model
    from evalsuite.models.architectures.small_networks import SMALL_NETWORKS
    from evalsuite.models.architectures.uris import architecture_from_uri
    from evalsuite.producers.structured.fit import prunable_row, prunable_units_of

    if name:
        architecture = architecture_from_uri(name)
        shape = (len(architecture.mean), side, side)
        units = prunable_units_of(build_model(architecture).eval(), shape)
        console.print_facts({**prunable_row(name, units), "methods": ""} | units.methods)
        console.print_facts({layer.name: layer.reason for layer in units.left_out})
        return
    for label, small in SMALL_NETWORKS.items():
        model = build_model(small.architecture()).eval()
        console.print_facts(prunable_row(label, prunable_units_of(model, (3, small.side, small.side))))


def _renamed(old: str, new: str, command: Callable[..., None]) -> None:
    """Keeps the old name of a command, hidden and with a warning."""

    @wraps(command)
    def call(*arguments: Any, **options: Any) -> None:
        console.print_warning(
            f"the command {old} is now called {new}; the old name stops working with the next release"
        )
        command(*arguments, **options)

    app.command(old, hidden=True)(call)


_renamed("recipe-cross", "factorial", factorial_command)
_renamed("plan", "sample-size", sample_size_command)


def main() -> None:
    """Runs the command line; a mistake of the user is one sentence and exit code 2."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a suite has a number of threads
    warnings.filterwarnings(
        "default", category=DeprecationWarning, module="evalsuite"
    )  # and users' plug-in files
    endings.open_standard_streams()
    if logging.lastResort is not None:  # prints warnings where the caller has set up no logging
        logging.lastResort.setFormatter(endings.PlainMessages())
    with endings.signals_as_interrupts() as received:
        code = _exit_code(received)
    sys.exit(_written(code))


def _exit_code(received: endings.Received) -> int:
    """Runs a command, prints why it ended if it did not end well, and returns its exit code."""
    try:
        app(prog_name="evalsuite")  # also by python -m: completions are installed under this name
    except EvalsuiteError as error:
        console.print_error(str(error))
        return WRONG
    except KeyboardInterrupt:
        return _interrupted(received)
    except OSError as error:
        console.print_error(f"{error}; make room, or correct the path or its permissions")
        return WRONG
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of an interrupt
            return _interrupted(received)
        if isinstance(end.__context__, BrokenPipeError):  # met while it printed a help text
            return endings.CLOSED_PIPE
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        console.print_error(
            "this is a fault of evalsuite or of a plug-in and no answer: report it with the lines above"
        )
        return CRASHED
    return 0


def _interrupted(received: endings.Received) -> int:
    console.err.print("Stopped. What is finished is kept: the same command goes on from here.")
    return received.exit_code


def _written(code: int) -> int:
    """The exit code of a command, if all that it printed was written."""
    error = endings.output_failure()
    if error is None:
        return code
    endings.discard_output()
    if isinstance(error, BrokenPipeError):
        return endings.CLOSED_PIPE
    console.print_error(str(endings.OutputError(error)))
    return WRONG


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


def _weight_set(text: str) -> WeightSet:
    """Which set of weights a file with two is read as."""
    for choice in get_args(WeightSet):
        if text == choice:
            return choice  # type: ignore[no-any-return]  # what it is compared with has the type
    raise UserError(f"found --weights {text}, expected ema or raw")


def _undecided_rule(undecided: str, *, proof: bool) -> UndecidedRule:
    """What becomes of undecided checks; ``--proof`` is an earlier spelling of one choice."""
    if proof and undecided not in ("", "fail"):
        raise UserError(
            f"--proof means --undecided fail, but found --undecided {undecided}; leave one of them out"
        )
    from evalsuite.results.check_verdicts import UNDECIDED_RULES

    chosen = "fail" if proof else undecided or "measured"
    for rule in UNDECIDED_RULES:
        if rule == chosen:
            return rule
    raise UserError(f"--undecided: {unknown_name('rule', undecided, UNDECIDED_RULES)}")


def _worker_count(workers: str) -> int | None:
    """How many workers, as in `evalsuite.config.options.Options`."""
    if not workers:
        return None
    if workers != "auto" and not (workers.isdecimal() and int(workers)):
        raise UserError(f"found --workers {workers}, expected a number from 1 on, or auto")
    return 0 if workers == "auto" else int(workers)


def _entries(kind: str) -> list[RegistryEntry]:
    if kind == "suites":
        from evalsuite.config.suite import shipped_suites

        return [RegistryEntry(name, _description(path), str(path)) for name, path in shipped_suites().items()]
    if kind == "recipes":
        from evalsuite.training.published_recipes import RECIPES

        return [
            RegistryEntry(name, recipe.text, "evalsuite.training.published_recipes")
            for name, recipe in sorted(RECIPES.items())
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
