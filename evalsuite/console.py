"""What the commands show: progress, tables, verdicts. Only the command line imports this."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalsuite.registry import Entry

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.models.inspection import Inspection
    from evalsuite.planned import Line
    from evalsuite.results import Run
    from evalsuite.runner import Progress, Step
    from evalsuite.status import Status

WIDE = 160  # columns of tables in pipes and files, where nobody has said how wide they are

UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))

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
    """Yields the lines of a listing: three columns, or, where they do not fit, the place below the text."""
    rows = [Entry("name", "what it is", "defined in"), *entries]
    names, texts, places = (
        max(len(getattr(row, field)) for row in rows) for field in ("name", "text", "defined")
    )
    if width is None or names + texts + places + 4 <= width:
        yield from (f"{row.name:<{names}}  {row.text:<{texts}}  {row.defined}" for row in rows)
        return
    for row in rows:
        lines = [*textwrap.wrap(row.text, max(width - names - 2, 20)), row.defined]
        yield from (f"{name:<{names}}  {line}" for name, line in zip_longest([row.name], lines, fillvalue=""))


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows a bar on a terminal, nothing elsewhere; failed cells are told in both."""
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
            bar.update(task, description=escaped(name), completed=step.done, total=step.total)
            if step.status != "ok":
                err.print(escaped(f"{name} (seed {step.key.seed}): {step.status}"), soft_wrap=True)

        yield tell


def print_summary(found: Run) -> None:
    """Prints, per method, the largest ratio up to which each headline metric is commensurate."""
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
        table.add_column(escaped(method), justify="right")
    for (metric, condition, aggregate), rows in chosen.groupby(
        ["metric", "condition", "aggregate"], sort=False
    ):
        potentials = dict(zip(rows["method"], rows["potential"], strict=True))
        name = f"{condition} (worst)" if aggregate == "minimum" else condition
        table.add_row(
            escaped(str(metric)), escaped(str(name)), *(f"{potentials[method]:.1%}" for method in methods)
        )
    out.print(table)
    failed = len(found.failures.drop_duplicates(["method", "seed", "target_ratio", "evaluator"]))
    if failed:
        out.print(f"{failed} cells have no numbers; the report says why.")


def print_verdicts(found: pd.DataFrame) -> None:
    """Prints one line per candidate and metric: the condition with the largest drop, and how many failed."""
    table = Table(box=None, pad_edge=False)
    for title in (
        "candidate",
        "ratio",
        "parameters",
        "MACs",
        "metric",
        "worst on",
        "value",
        "parent",
        "drop",
        "95 % interval",
    ):
        table.add_column(title, justify="left" if title in ("candidate", "metric", "worst on") else "right")
    table.add_column("tolerated", justify="right")
    table.add_column("verdict")
    for (candidate, metric), rows in found.groupby(["candidate", "metric"], sort=False):
        worst = rows.sort_values("drop", ascending=False, na_position="first", kind="stable").iloc[0]
        failed = int((~rows["passed"]).sum())
        verdict = "[green]pass[/]" if not failed else f"[bold red]FAIL[/] {failed} of {len(rows)}"
        numbers = (f"{worst[name]:.4f}" for name in ("value", "parent", "drop"))
        interval = f"{worst['drop_low']:+.4f} {worst['drop_high']:+.4f}"
        place = (
            escaped(str(candidate)),
            f"{worst['ratio']:.1%}",
            _count(float(worst["parameters"])),
            _count(float(rows["macs"].astype("float64").iloc[0])),
            escaped(str(metric)),
            escaped(worst["condition"]),
        )
        table.add_row(*place, *numbers, interval, f"{worst['tolerance']:g}", verdict)
    out.print(table)


def _count(number: Any) -> str:
    """A large count in three figures; a dash where nobody could count."""
    if not number >= 1:  # a missing number compares with nothing
        return "-"
    unit, divisor = next((unit, size) for unit, size in UNITS if number >= size)
    return f"{number / divisor:.3g}{unit}"


def print_inspection(found: Inspection, fits: str) -> None:
    """Prints what is in a file of weights: first the whole, then a line per layer."""
    facts = {
        "format": found.format + (f", under {found.wrapper}" if found.wrapper else ""),
        "parameters": f"{found.parameters:,}, of which {found.nonzero:,} are not zero",
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
        "fits": fits,
        "folded": ", ".join(found.folded),
        "also there": ", ".join(found.extras),
        "missing": ", ".join(found.missing),
    }
    for name, text in facts.items():
        if text:
            out.print(f"{name:<12}{text}", soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "shape", "weights", "zeros", "zero filters", "pattern"):
        table.add_column(title, justify="left" if title == "layer" else "right", no_wrap=True)
    for layer in found.layers:
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


def print_status(found: Status) -> None:
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
