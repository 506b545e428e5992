"""``status``: prints how far a run has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from evalsuite.cli import console, endings
from evalsuite.cli.options import RunFolder
from evalsuite.cli.progress import count_progress, duration

if TYPE_CHECKING:
    from evalsuite.runs.status import RunStatus
    from evalsuite.runs.verification import Verification


def status_command(
    run: RunFolder,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all finished weights and cells again: are they as written?")
    ] = False,
) -> None:
    """Print how far a run has come, also while it goes on; nothing is written."""
    from evalsuite.runs.status import status
    from evalsuite.runs.verification import verify as verify_run

    print_status(status(run))
    if not verify:
        return
    with count_progress("reading again") as progress:
        verification = verify_run(run, progress=progress)
    print_verification(verification)
    raise typer.Exit(endings.FAILED if verification.damaged else 0)


def print_status(status: RunStatus) -> None:
    """Prints how far a run has come."""
    table = Table(box=None, pad_edge=False)
    for title in ("component", "done", "failed", "stale", "missing"):
        table.add_column(title, justify="left" if title == "component" else "right")
    for label, count in status.counts.items():
        table.add_row(escape(label), *map(str, (count.done, count.failed, count.stale, count.missing)))
    console.out.print(table)
    for key, test, reason in status.failures:
        cell = f"{key.method} {key.target_ratio:g} {test} (seed {key.seed})"
        console.out.print(f"failed: {cell}: {reason}", soft_wrap=True, markup=False)
    for task in status.running:
        cell = f"{task['method']} {task['target_ratio']:g} {task['what']} (seed {task['seed']})"
        console.out.print(f"running: {cell} for {duration(task['seconds'])}", soft_wrap=True, markup=False)
    console.out.print(_outlook(status), soft_wrap=True, markup=False)


def _outlook(status: RunStatus) -> str:
    """What is left to do, and whether a process works on it."""
    left = sum(count.left for count in status.counts.values())
    if not left:
        return "Everything is done."
    time_left = "unknown" if status.seconds_left is None else f"about {duration(status.seconds_left)}"
    if not status.holder:
        holder = "no process works on them"
    else:
        holder = f"{status.holder} " + ("works on them" if status.alive else "died while it worked on them")
    return f"{left} cells are left, {holder}; time left: {time_left}."


def print_verification(verification: Verification) -> None:
    """Prints which files are no longer what was written."""
    for file, problem in verification.damaged:
        console.out.print(f"damaged: {file}: {problem}", soft_wrap=True, markup=False)
    result = (
        f"{len(verification.damaged)} are damaged: remove them, and the same run makes them again"
        if verification.damaged
        else "all are what was written"
    )
    console.out.print(
        f"Read again: the weights of {verification.weights} models and {verification.cells} cells; {result}.",
        soft_wrap=True,
    )
