"""How far a run is, read from its folder while it goes on or after; nothing is written and no model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.runs.lock import alive, holder
from evalsuite.runs.plan import PlannedCell, ResolvedPlan, RunPlan, plan_of_record
from evalsuite.runs.store import Key, Store
from evalsuite.runs.timings import running
from evalsuite.types import PRODUCTION


@dataclass
class Count:
    """How far one component is: the production of candidates, or one test.

    Attributes:
        done: Cells that are finished, with numbers or for good without.
        failed: Cells that ended in an error; the next run tries them again.
        stale: Cells that were computed with other settings, images or code; they count as missing.
        missing: Cells that are not there.
    """

    done: int = 0
    failed: int = 0
    stale: int = 0
    missing: int = 0

    @property
    def left(self) -> int:
        """Cells that the next run computes."""
        return self.failed + self.stale + self.missing


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        path: The run folder.
        counts: By component, in the order of the suite.
        holder: The process that works there, or died there; empty if there is none.
        alive: Whether that process lives.
        running: What it does: method, seed, target_ratio, what, seconds.
        failures: Cells that ended in an error, with the reason.
        seconds_left: Estimate from the time of finished cells; ``None`` where too little is finished.
    """

    path: Path
    counts: Mapping[str, Count]
    holder: str
    alive: bool
    running: tuple[Mapping[str, Any], ...]
    failures: tuple[tuple[Key, str, str], ...]
    seconds_left: float | None


def status(path: Path | str) -> RunStatus:
    """Returns how far a run is.

    Args:
        path: The run folder.

    Raises:
        StoreError: If it is none.
    """
    root = Path(path)
    store = Store(root)
    record = store.record()
    plan = plan_of_record(record, path=str(root / "run.json"))
    cells = [cell for cell in ResolvedPlan(plan, store).cells if cell.selected]
    process = holder(root)
    lives = process is not None and alive(root, process)
    now = running(root)
    counts = _counts(plan, cells)
    spent = now.get("spent") or record.get("spent") or {}
    return RunStatus(
        root,
        counts,
        str(process or ""),
        lives,
        tuple(now.get("running", ())) if lives else (),
        _failures(cells),
        _seconds_left(counts, spent, now.get("workers", 1) if lives else 1),
    )


def _counts(plan: RunPlan, cells: list[PlannedCell]) -> dict[str, Count]:
    unresolved = sum(plan.unresolved.values())
    counts = {label: Count(missing=unresolved) for label in plan.labels}
    for cell in cells:
        count = counts[cell.what]
        setattr(count, cell.state, getattr(count, cell.state) + 1)
    return counts


def _failures(cells: list[PlannedCell]) -> tuple[tuple[Key, str, str], ...]:
    """Every cell that failed by itself: tests of a candidate that could not be made repeat its reason."""
    failed = [cell for cell in cells if cell.state == "failed"]
    unmade = {cell.key for cell in failed if cell.what == PRODUCTION}
    return tuple(
        (cell.key, cell.what, cell.reason)
        for cell in failed
        if cell.what == PRODUCTION or cell.key not in unmade
    )


def _seconds_left(counts: Mapping[str, Count], spent: Mapping[str, Any], workers: int) -> float | None:
    """Seconds for what is left, at the mean cost of what is done; ``None`` if a component was never timed."""
    total = 0.0
    for label, count in counts.items():
        finished = spent.get(label, {})
        if count.left and not finished.get("cells"):
            return None
        if count.left:
            total += count.left * finished["seconds"] / finished["cells"]
    return total / max(1, workers)
