"""What the commands show: progress, tables, verdicts. Only the command line imports this."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalsuite.registry import Entry

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from evalsuite.execution.dry_run import Line
    from evalsuite.execution.scheduler import CellProgress, ProgressCallback
    from evalsuite.models.checkpoints.architecture_detection import ArchitectureMatch
    from evalsuite.models.checkpoints.inspection import Inspection, LayerContent
    from evalsuite.models.exported.contents import ProgramContent
    from evalsuite.runs.status import RunStatus

LEGIBLE = 40  # columns below which a text beside its name is a ribbon
WIDE = 160  # columns of tables in pipes and files, where nobody has said how wide they are

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False)


def escaped(text: str) -> str:
    """Returns `text` as it is, whatever brackets it has."""
    return escape(text)


def print_listing(entries: Sequence[Entry]) -> None:
    """Prints the lines of a listing."""
    for line in listing(entries, width=out.width if out.is_terminal else None):
        out.print(line, soft_wrap=True, markup=False)


def print_json(text: str) -> None:
    """Prints JSON, for other programs to read."""
    out.print_json(text)


def listing(entries: Sequence[Entry], *, width: int | None) -> Iterator[str]:
    """Yields the lines of a listing: three columns; where they do not fit, the place, or both, stand below."""
    rows = [Entry("name", "what it is", "defined in"), *entries]
    names, texts, places = (
        max(len(getattr(row, field)) for row in rows) for field in ("name", "text", "defined")
    )
    if width is None or names + texts + places + 4 <= width:
        yield from (f"{row.name:<{names}}  {row.text:<{texts}}  {row.defined}" for row in rows)
        return
    beside = width - names - 2
    for row in rows:
        if beside < LEGIBLE:
            yield row.name
            yield from (f"  {line}" for line in [*textwrap.wrap(row.text, width - 2), row.defined])
            continue
        lines = [*textwrap.wrap(row.text, beside), row.defined]
        yield from (f"{name:<{names}}  {line}" for name, line in zip_longest([row.name], lines, fillvalue=""))


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Shows a bar on a terminal, nothing elsewhere; failed cells are told in both."""
    with _bar() as bar:
        task = bar.add_task("reading the suite", total=None)

        def tell(step: CellProgress) -> None:
            name = f"{step.key.method} {step.key.target_ratio:g} {step.what}"
            bar.update(task, description=escaped(name), completed=step.done, total=step.total)
            if step.status != "ok":
                err.print(escaped(f"{name} (seed {step.key.seed}): {step.status}"), soft_wrap=True)

        yield tell


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal, nothing elsewhere, and yields what tells it how far things are, and of how many."""
    with _bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar() -> Bar:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bar(*columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal, transient=True)


def print_inspection(found: Inspection, known: ArchitectureMatch) -> None:
    """Prints what is in a file of weights: first the whole, then a line per layer."""
    _print_facts(
        {
            "format": found.format + (f", under {found.wrapper}" if found.wrapper else ""),
            "parameters": f"{found.parameters:,}, of which {found.nonzero:,} are not zero",
            "MACs": _macs(known),
            "bytes": f"{found.bytes:,} on disk, {found.packed:,} losslessly packed",
            "ratio": "" if found.ratio is None else f"{found.ratio:.2%} of the parent's parameters are gone",
            "prunable": ""
            if found.prunable_ratio is None
            else f"{found.prunable_ratio:.2%} of its prunable weights",
            "structure": "whole channels"
            if found.structured
            else "single weights"
            if _has_zeros(found)
            else "dense",
            "pattern": found.pattern,
            "fits": known.fits,
            "folded": ", ".join(found.folded),
            "also there": ", ".join(found.extras),
            "missing": ", ".join(found.missing),
        }
    )
    _print_layers(found.layers)


def print_program(found: ProgramContent) -> None:
    """Prints what a whole program shows: first the whole, then a line per layer."""
    operators = sorted(found.operators.items(), key=lambda pair: (-pair[1], pair[0]))
    _print_facts(
        {
            "format": f"{found.format}, a whole program",
            "opset": found.opset,
            "inputs": "; ".join(found.inputs),
            "outputs": "; ".join(found.outputs),
            "operators": ", ".join(f"{count} {name}" for name, count in operators),
            "parameters": "unknown"
            if found.parameters is None
            else f"{found.parameters:,}, of which {found.nonzero:,} are not zero",
            "ratio": "" if found.ratio is None else f"{found.ratio:.2%} of the parent's parameters are gone",
            "note": " ".join(found.notes),
        }
    )
    if found.layers:
        _print_layers(found.layers)


def _macs(known: ArchitectureMatch) -> str:
    if known.macs is None or known.image is None:
        return f"not counted: {known.uncounted}"
    image = "x".join(map(str, known.image))
    return f"{known.macs:,} for an image of {image}, of which {known.macs_nonzero:,} are not by a zero weight"


def _print_facts(facts: Mapping[str, str]) -> None:
    for name, text in facts.items():
        if text:
            out.print(f"{name:<12}{text}", soft_wrap=True, markup=False)


def _print_layers(layers: Sequence[LayerContent]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "shape", "weights", "zeros", "zero filters", "pattern"):
        table.add_column(title, justify="left" if title == "layer" else "right", no_wrap=True)
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        counts = (f"{layer.weights:,}", f"{layer.sparsity:.1%}", str(layer.zero_filters), layer.pattern)
        table.add_row(escaped(layer.name), shape, *counts)
    out.print(table)


def _has_zeros(found: Inspection) -> bool:
    return found.prunable_nonzero < found.prunable


def print_report(page: Path) -> None:
    """Prints where the report is."""
    out.print(f"Report: {page.resolve()}", soft_wrap=True, markup=False)


def print_spent(record: Mapping[str, Any]) -> None:
    """Prints what the components of a run took, over all runs in its folder."""
    spent = record.get("spent") or {}
    if not record.get("computed") or not spent:
        return
    text = ", ".join(f"{what} {_duration(one['seconds'])}" for what, one in spent.items())
    out.print(f"Spent: {text}", soft_wrap=True, markup=False)


def print_plan(lines: Sequence[Line]) -> None:
    """Prints what a run would do."""
    table = Table(box=None, pad_edge=False)
    for title in ("component", "done", "to do", "images", "one worker", "estimated from"):
        table.add_column(title, justify="left" if title in ("component", "estimated from") else "right")
    for line in lines:
        origin = ("finished cells" if line.measured else "a probe of the network") if line.left else ""
        cells = (str(line.done), str(line.left), f"{line.images:,}", _duration(line.seconds))
        table.add_row(escaped(line.what), *cells, origin)
    out.print(table)
    out.print(
        f"Together {sum(line.left for line in lines)} cells, about {_duration(sum(line.seconds for line in lines))} "
        "for one worker; what attacks compute beside one pass is counted only after they have run.",
        soft_wrap=True,
    )


def print_status(found: RunStatus) -> None:
    """Prints how far a run has come."""
    table = Table(box=None, pad_edge=False)
    for title in ("component", "done", "failed", "stale", "missing"):
        table.add_column(title, justify="left" if title == "component" else "right")
    for label, count in found.counts.items():
        table.add_row(escaped(label), *map(str, (count.done, count.failed, count.stale, count.missing)))
    out.print(table)
    for key, what, reason in found.failures:
        place = f"{key.method} {key.target_ratio:g} {what} (seed {key.seed})"
        out.print(f"failed: {place}: {reason}", soft_wrap=True, markup=False)
    for one in found.running:
        place = f"{one['method']} {one['target_ratio']:g} {one['what']} (seed {one['seed']})"
        out.print(f"running: {place} for {_duration(one['seconds'])}", soft_wrap=True, markup=False)
    left = sum(count.left for count in found.counts.values())
    time_left = "unknown" if found.seconds_left is None else f"about {_duration(found.seconds_left)}"
    who = f"{found.holder} works on it" if found.alive else "nobody works on it"
    if found.holder and not found.alive:
        who = f"{found.holder} died while it worked on it"
    out.print(
        "Everything is done." if not left else f"{left} cells are left, {who}; time left: {time_left}.",
        soft_wrap=True,
        markup=False,
    )


def _duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> _duration(4.2), _duration(240), _duration(9000)
    ('4.2 s', '4.0 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
