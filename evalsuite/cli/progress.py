"""Progress of a run: a bar on a terminal; elsewhere a line of a log every half minute, also during one long cell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.markup import escape

from evalsuite.cli import console
from evalsuite.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from evalsuite.execution.scheduler import ProgressCallback
    from evalsuite.execution.tasks import CellProgress
    from evalsuite.runs.progress import RunProgress
    from evalsuite.runs.timings import ActiveTask

INTERVAL = 30.0
"""Most seconds between two lines."""
BEFORE, AFTER = "reading the suite and its data", "writing the tables and the page"
"""What a command does before and after its run."""


@contextmanager
def cell_progress(*, interval: float | None = None) -> Iterator[ProgressCallback]:
    """Shows a bar of cells on a terminal, elsewhere a line at most every `interval` seconds.

    Cells that fail are printed in both.

    Args:
        interval: Seconds between two lines; `INTERVAL` by default.
    """
    if not console.err.is_terminal:
        log = _LogWithFailures(_print_line, INTERVAL if interval is None else interval)
        with log.lines():
            yield log
        return
    with _bar() as bar:
        task = bar.add_task("reading the suite", total=None)

        def update(step: CellProgress) -> None:
            bar.update(task, description=escape(_step(step)), completed=step.done, total=step.total)
            _print_failure(step)

        yield update


@contextmanager
def count_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal, nothing elsewhere, and yields a function of the number done and the total."""
    if not console.err.is_terminal:  # Rich before 15 prints an empty line for a bar that is disabled
        yield lambda done, total: None  # noqa: ARG005
        return
    with _bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console.err,
        transient=True,
    )


class ProgressLog:
    """Prints where a run is: when it starts, every `interval` seconds, and when it ends; see `ProgressWatcher`.

    A mistake in the question, which ends a command before its run starts, stays the only line.

    Args:
        write: Prints one line and flushes it.
        interval: Most seconds between two lines.
    """

    def __init__(self, write: Callable[[str], None], interval: float) -> None:
        self._write, self._interval = write, interval
        self._phase, self._since = BEFORE, time.monotonic()
        self._snapshot: Callable[[], RunProgress] | None = None

    def __call__(self, step: CellProgress) -> None:
        """Prints nothing about a cell that is finished: the next line counts it."""

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Prints lines as long as the context lasts."""
        stopped = threading.Event()
        printer = threading.Thread(target=self._keep, args=(stopped,), name="evalsuite-progress", daemon=True)
        printer.start()
        try:
            yield
        finally:
            stopped.set()
            printer.join()

    @contextmanager
    def watching(self, progress: Callable[[], RunProgress]) -> Iterator[None]:
        """Prints the progress of a run, until it ends."""
        self._snapshot = progress
        self._write(sentence(progress()))
        try:
            yield
        finally:
            self._snapshot, self._phase, self._since = None, AFTER, time.monotonic()
            end = progress()
            self._write(f"{end.done} of {end.total} cells done in {duration(end.elapsed)}")

    def _keep(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._interval):
            snapshot = self._snapshot
            if snapshot is not None:
                self._write(sentence(snapshot()))
            else:
                self._write(f"{self._phase}, for {duration(time.monotonic() - self._since)} so far")


class _LogWithFailures(ProgressLog):
    """Progress lines, and a line for each cell that fails."""

    def __call__(self, step: CellProgress) -> None:
        """Prints a cell that failed."""
        _print_failure(step)


def _print_line(text: str) -> None:
    with suppress(OSError):  # a log that its reader has closed does not end a run
        console.err.print(f"evalsuite: {text}", soft_wrap=True, markup=False)
        console.err.file.flush()


def _print_failure(step: CellProgress) -> None:
    if step.status != "ok":
        console.err.print(
            f"{_step(step)} (seed {step.key.seed}): {step.status}", soft_wrap=True, markup=False
        )


def _step(step: CellProgress) -> str:
    return printable(f"{step.key.method} {step.key.target_ratio:g} {step.what}")


def sentence(progress: RunProgress) -> str:
    """Returns one line: cells done and in total, what is computed now, and the time left."""
    share = f" ({progress.done / progress.total:.0%})" if progress.total else ""
    parts = [f"{progress.done} of {progress.total} cells done{share}"]
    if progress.active:
        more = f" and {len(progress.active) - 1} more" if len(progress.active) > 1 else ""
        parts.append(f"now {_cell(progress.active[0])}{more}")
    left = progress.seconds_left
    if progress.active and left == 0:  # what is computed takes longer than estimated
        parts.append("time left not known")
    else:
        parts.append("time left not known yet" if left is None else f"about {duration(left)} left")
    return "; ".join(parts)


def _cell(task: ActiveTask) -> str:
    key = task.key
    what = task.what or "loading"
    return f"{key.method} {key.target_ratio:g} {what} (seed {key.seed}) for {duration(time.monotonic() - task.started)}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(4.2), duration(240), duration(9000)
    ('4.2 s', '4.0 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
