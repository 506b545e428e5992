"""Timings: how long the cells of a run took and what it computes now, written down while it goes on."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalsuite.errors import StoreError
from evalsuite.runs.serialization import FORMAT, to_json
from evalsuite.runs.store import Key, Store, write_atomically

NAME = "running.json"
PAUSE = 5.0
"""Seconds between two writings."""


@dataclass
class TimeSpent:
    """The time that one component of a run took.

    Attributes:
        cells: How many were computed.
        seconds: Of one worker, all cells together.
    """

    cells: int = 0
    seconds: float = 0.0


@dataclass
class ActiveTask:
    """The cell that a worker computes now."""

    key: Key
    what: str
    started: float = field(default_factory=time.monotonic)


class RunTimings:
    """Adds up how long the cells of each component took, over all runs in one folder; no cell holds a time.

    Args:
        store: The run folder.
        workers: How many work at once.
    """

    def __init__(self, store: Store, *, workers: int) -> None:
        self._path = store.root / NAME
        self._workers = workers
        self._started = time.monotonic()
        self._added: dict[str, TimeSpent] = {}
        self.active: dict[str, ActiveTask] = {}
        self._earlier = _read(store)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, whatever the date did meanwhile."""
        return time.monotonic() - self._started

    @property
    def spent(self) -> dict[str, dict[str, float]]:
        """Cells and seconds by component, over all runs in this folder."""
        total = {what: TimeSpent(**fields) for what, fields in self._earlier.items()}
        for what, added in list(self._added.items()):
            spent = total.setdefault(what, TimeSpent())
            spent.cells, spent.seconds = spent.cells + added.cells, spent.seconds + added.seconds
        return {
            what: {"cells": spent.cells, "seconds": round(spent.seconds, 3)} for what, spent in total.items()
        }

    def add(self, what: str, seconds: float) -> None:
        """Adds one computed cell."""
        spent = self._added.setdefault(what, TimeSpent())
        spent.cells, spent.seconds = spent.cells + 1, spent.seconds + seconds

    @contextlib.contextmanager
    def written(self, reached: Callable[[], tuple[int, int]]) -> Iterator[None]:
        """Writes down every few seconds how far the run is, also while a single process computes.

        Args:
            reached: Returns how many cells are finished, and how many there are.
        """
        stopped = threading.Event()
        writer = threading.Thread(
            target=self._keep, args=(reached, stopped), name="evalsuite-timings", daemon=True
        )
        self._write(*reached())
        writer.start()
        try:
            yield
        finally:
            stopped.set()
            writer.join()

    def close(self) -> None:
        """Removes the file: its content is in the record now."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _keep(self, reached: Callable[[], tuple[int, int]], stopped: threading.Event) -> None:
        while not stopped.wait(PAUSE):
            with contextlib.suppress(StoreError):  # a full disk is reported by the next necessary file
                self._write(*reached())

    def _write(self, done: int, total: int) -> None:
        now = time.monotonic()
        running = [
            {**_address(task.key), "what": task.what, "seconds": round(now - task.started, 1)}
            for task in list(self.active.values())  # the run goes on meanwhile
        ]
        content: dict[str, Any] = {"format": FORMAT, "done": done, "total": total}
        content |= {"workers": self._workers, "elapsed": round(self.elapsed, 1)}
        write_atomically(self._path, to_json({**content, "spent": self.spent, "running": running}))


def running(root: Path) -> dict[str, Any]:
    """Returns the file that a run writes while it goes on; empty where the run came to its end."""
    try:
        content = json.loads((root / NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read(store: Store) -> dict[str, dict[str, Any]]:
    """The time of earlier runs; a killed one left it in its file, which includes all runs before it."""
    left = running(store.root).get("spent")
    with contextlib.suppress(StoreError):
        left = left or store.record().get("spent")
    components = left if isinstance(left, Mapping) else {}
    return {
        str(what): {"cells": int(fields["cells"]), "seconds": float(fields["seconds"])}
        for what, fields in components.items()
    }


def _address(key: Key) -> dict[str, Any]:
    return {"method": key.method, "seed": key.seed, "target_ratio": key.target_ratio}
