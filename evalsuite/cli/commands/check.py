"""``check``: checks finished models against their parent and prints the verdicts."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from evalsuite.cli import console
from evalsuite.cli.dry_run import print_plan
from evalsuite.cli.options import (
    AsJson,
    BatchSize,
    DataRoot,
    Device,
    DryRun,
    Entry,
    Limit,
    NoCache,
    Precision,
    SkipUnreadable,
    Verify,
    Weights,
    Workers,
    weight_set,
    worker_count,
    written_path,
)
from evalsuite.cli.progress import cell_progress
from evalsuite.errors import UserError
from evalsuite.registry import unknown_name
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from evalsuite.results.check_verdicts import UndecidedRule
    from evalsuite.tolerances import Tolerance

UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


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
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Measure in stages of doubling size, and stop each check of a share of images when its verdict is "
            "decided.",
        ),
    ] = False,
    skip_unreadable: SkipUnreadable = False,
    verify: Verify = False,
    out_dir: Annotated[Path, typer.Option("--out", parser=written_path, help="Run folder.")] = Path(
        "reports/check"
    ),
    device: Device = "cpu",
    workers: Workers = "",
    trust_program: Annotated[
        bool, typer.Option("--trust-program", help="Load .pt2 and TorchScript files, which may run code.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(parser=written_path, help="Write the verdicts there as JUnit XML.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(parser=written_path, help="Write a summary there as Markdown: $GITHUB_STEP_SUMMARY."),
    ] = None,
    as_json: AsJson = False,
    limit: Limit = None,
    batch_size: BatchSize = None,
    precision: Precision = "",
    no_cache: NoCache = False,
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

    written = {"--json": as_json, "--junit": junit is not None, "--markdown": markdown is not None}
    if dry_run and any(written.values()):
        without = next(name for name, is_given in written.items() if is_given)
        raise UserError(f"{without} has no effect with --dry-run; leave one of them out")
    preprocessing = [f"{key}={text}" for key, text in (("mean", mean), ("std", std)) if text]
    request = CheckRequest(
        parent=parent,
        candidates=candidates_of_paths(candidate or []) + (read_manifest(manifest) if manifest else ()),
        model=model,
        weights=weight_set(weights),
        entry=entry,
        settings=settings([*(setting or []), *preprocessing]),
        data=data,
        suite=suite,
        tolerances=_tolerances(tolerance or []),
        metrics=tuple(metric or ()),
        undecided=_undecided_rule(undecided, proof=proof),
        parent_accuracy=parent_accuracy,
        ignore_recorded_accuracy=ignore_recorded_accuracy,
        controls=controls_of_paths(control or []),
        sequential=sequential,
    )
    options = Options(
        device=device,
        data_root=data_root,
        skip_unreadable=skip_unreadable,
        verify=verify,
        workers=worker_count(workers),
        limit=limit,
        batch_size=batch_size,
        precision=precision,
        cache=not no_cache,
        trust_program=trust_program,
        command=shlex.join(["python", "-m", "evalsuite", *sys.argv[1:]]),
    )
    if dry_run:
        print_plan(check_dry_run(request, out=out_dir, options=options))
        return
    with cell_progress() as progress:
        verdicts, results = check(request, out=out_dir, options=options, progress=progress)
    code, reason = exit_reason(candidate_verdicts(verdicts), request.undecided)
    if junit is not None:  # before it is printed: the reader of that may be gone
        write_junit(verdicts, junit, run=results.path)
    if markdown is not None:
        write_atomically(markdown, markdown_summary(verdicts, request.undecided).encode())
    if as_json:
        console.print_json(json.dumps(check_document(results, verdicts, request.undecided)))
    else:
        print_verdicts(verdicts)
        print_notes_on_parent(results.record["notes"])
        print_exit(code, reason)
        console.print_path("Report", results.path / "index.html")
    raise typer.Exit(code)


def _tolerances(texts: list[str]) -> dict[str, Tolerance]:
    """The tolerances of the option, whose name stands before a mistake in them."""
    from evalsuite.tolerances import parse_tolerances

    try:
        return parse_tolerances(texts)
    except UserError as error:
        raise UserError(
            str(error) if str(error).startswith("the tolerance") else f"--tolerance {error}"
        ) from error


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


def print_verdicts(verdicts: pd.DataFrame) -> None:
    """Prints one line per candidate and metric: the condition with the largest drop, and how many failed.

    Beside the verdict on what was measured stands how much of it the images show at 95 %.
    """
    # pandas takes a while to import
    from evalsuite.results.check_verdicts import candidate_verdicts, sample_of, stages_sentence

    skipped = verdicts["passed"] & verdicts["value"].isna()
    console.out.print(_verdict_table(verdicts[~skipped]))
    for verdict in candidate_verdicts(verdicts):
        style = {"SHIP": "bold green", "DO NOT SHIP": "bold red", "UNDECIDED": "bold yellow"}[verdict.outcome]
        console.out.print(
            f"[{style}]{verdict.outcome}[/] {escape(verdict.candidate)}: {verdict.reason}.", soft_wrap=True
        )
    console.print_sample(sample_of(verdicts))
    if text := stages_sentence(verdicts):
        console.out.print(text, soft_wrap=True, markup=False)
    for reason in verdicts.loc[skipped, "reason"].unique():
        console.out.print(f"Not compared: {reason}.", soft_wrap=True, markup=False)
    _print_warnings(verdicts)


def _verdict_table(verdicts: pd.DataFrame) -> Table:
    """A line per candidate and metric."""
    table = Table(box=None, pad_edge=False)
    left = ("candidate", "metric", "worst on", "verdict")
    for title in (
        *("candidate", "ratio", "parameters", "MACs", "packed", "metric", "worst on"),
        *("value", "parent", "drop", "95 % interval", "tolerated", "verdict"),
    ):
        table.add_column(title, justify="left" if title in left else "right")
    for (candidate, metric), rows in verdicts.groupby(["candidate", "metric"], sort=False):
        worst = rows.sort_values("drop", ascending=False, na_position="first", kind="stable").iloc[0]
        costs = [worst["parameters"], *(rows[name].astype("float64").iloc[0] for name in ("macs", "packed"))]
        table.add_row(
            escape(str(candidate)),
            f"{worst['ratio']:.1%}",
            *(_count(float(cost)) for cost in costs),
            escape(str(metric)),
            escape(worst["condition"]),
            *(f"{worst[name]:.4f}" for name in ("value", "parent", "drop")),
            f"{worst['drop_low']:+.4f} {worst['drop_high']:+.4f}",
            f"{worst['tolerance']:g}",
            _verdict(rows),
        )
    return table


def _verdict(rows: pd.DataFrame) -> str:
    """How many checks failed, and how many of them are shown to fail; of those that passed, how many to hold."""
    from evalsuite.results.check_verdicts import failing_counts

    failing, count = rows[~rows["passed"]], len(rows)
    if len(failing):
        controls = int(rows["controls"].max())
        alike = int((~rows["passed"] & (rows["controls_failed"] > 0)).sum())
        beside = f"; {alike} fail in a control too" if controls else ""
        return f"[bold red]FAIL[/] {len(failing)} of {count} ({failing_counts(failing)}{beside})"
    noninferior = int((rows["verdict"] == "non-inferior").sum())
    return f"[green]pass[/] ({noninferior} of {count} shown to hold)"


def _count(number: float) -> str:
    """A large count in three figures; a dash where it is unknown.

    >>> _count(1234567), _count(float("nan"))
    ('1.23M', '-')
    """
    if not number >= 1:  # NaN compares with nothing
        return "-"
    unit, divisor = next((unit, size) for unit, size in UNITS if number >= size)
    return f"{number / divisor:.3g}{unit}"


def _print_warnings(verdicts: pd.DataFrame) -> None:
    """Prints each warning once, with what it is about; those that differ in numbers alone are one."""
    flagged = verdicts[verdicts["flags"].fillna("") != ""]
    alike = flagged["flags"].str.replace(r"\d+", "0", regex=True)
    for _, rows in flagged.groupby(alike, sort=False):
        first = rows.iloc[0]
        place = "{candidate}, {metric} on {condition}".format_map(first)
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        console.out.print(
            f"[yellow]Warning:[/] {escape(place)}{more}: {escape(str(first['flags']))}", soft_wrap=True
        )


def print_notes_on_parent(notes: Iterable[Mapping[str, Any]]) -> None:
    """Prints what makes one doubt the parent's labels or preprocessing: no verdict beside such a note means much."""
    for note in notes:
        if note["method"] == DENSE and note["note"].startswith("the parent is right on"):
            console.out.print(f"[yellow]Warning:[/] {escape(note['note'])}", soft_wrap=True)


def print_exit(code: int, reason: str) -> None:
    """Prints the exit code of a check and why it is that."""
    console.out.print(f"Exit code {code}: {reason}.", soft_wrap=True, markup=False)
