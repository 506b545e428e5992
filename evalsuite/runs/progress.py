"""How far a run is at one moment, and how long the rest takes: from the plan's costs and the time of finished cells."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from evalsuite.runs.plan import CellId, RunPlan
from evalsuite.runs.timings import ActiveTask


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is at one moment.

    Attributes:
        done: Cells that are finished.
        total: Cells of the run.
        active: What the workers compute now, the longest first.
        elapsed: Seconds since the run began.
        seconds_left: Estimate for all workers together; ``None`` where nothing is finished that could be timed.
    """

    done: int
    total: int
    active: tuple[ActiveTask, ...]
    elapsed: float
    seconds_left: float | None


@runtime_checkable
class ProgressWatcher(Protocol):
    """A progress callback that also looks by itself at how far a run is, while a cell is computed."""

    def watching(self, progress: Callable[[], RunProgress]) -> AbstractContextManager[None]:
        """Returns the context of the run, in which `progress` may be called from any thread."""


@dataclass
class _Measured:
    """Finished cells of one component, with the images that they were expected to take."""

    cells: int = 0
    images: int = 0
    seconds: float = 0.0


class TimeEstimate:
    """Estimates the time that is left, cell by cell.

    A component (production, a test) costs per image what its finished cells cost; where the images of its cells are
    unknown before, as for attacks, it costs per cell. One that was never timed costs per image what all others did.

    Args:
        plan: All cells, with their expected cost in images.
        spent: Cells and seconds by component, of earlier runs in the folder.
    """

    def __init__(self, plan: RunPlan, spent: Mapping[str, Mapping[str, float]]) -> None:
        self._images = dict(plan.expected_images)
        self._left = dict(self._images)
        self._unresolved = {label: sum(plan.unresolved.values()) for label in plan.labels}
        self._earlier = spent
        self._measured: dict[str, _Measured] = defaultdict(_Measured)

    def resolved(self, plan: RunPlan) -> None:
        """Takes the external models of a seed into account, whose addresses were not known before."""
        new = {cell: images for cell, images in plan.expected_images.items() if cell not in self._images}
        self._images |= new
        self._left |= new
        self._unresolved = dict.fromkeys(self._unresolved, sum(plan.unresolved.values()))

    def measured(self, cell: CellId, seconds: float) -> None:
        """Takes the time of a cell that was computed."""
        total = self._measured[cell[1]]
        total.cells, total.seconds = total.cells + 1, total.seconds + seconds
        total.images += self._images.get(cell, 0)

    def finished(self, cell: CellId) -> None:
        """Takes a cell off what is left, whether it was computed or was there."""
        self._left.pop(cell, None)

    def seconds_left(self, active: tuple[ActiveTask, ...]) -> float | None:
        """Returns the seconds of one worker for what is left; ``None`` where nothing was timed.

        Args:
            active: What is computed now: the time that it has taken is not left.
        """
        measured = dict(self._measured)
        every = _Measured(
            sum(total.cells for total in measured.values()),
            sum(total.images for total in measured.values()),
            sum(total.seconds for total in measured.values()),
        )
        taken = {(task.key, task.what): time.monotonic() - task.started for task in active}
        rest = [
            (what, images, taken.get((key, what), 0.0)) for (key, what), images in list(self._left.items())
        ]
        rest += [(label, 0, 0.0) for label, count in self._unresolved.items() for _ in range(count)]
        costs = [
            (self._cost(measured.get(what, every), what, expected), seconds)
            for what, expected, seconds in rest
        ]
        if any(cost is None for cost, _ in costs):
            return None
        return sum(max(0.0, cost - seconds) for cost, seconds in costs if cost is not None)

    def _cost(self, measured: _Measured, what: str, images: int) -> float | None:
        """Seconds of a cell at the cost of others: of its component, else of an earlier run, else of all components."""
        earlier = self._earlier.get(what, {})
        if what not in self._measured and earlier.get("cells"):
            return earlier["seconds"] / earlier["cells"]
        if images and measured.images:
            return images * measured.seconds / measured.images
        return measured.seconds / measured.cells if measured.cells else None
