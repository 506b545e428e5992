"""What a run has cost and what it is doing, written down while it goes on so that others can look."""

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
"""Seconds between two writings of what is going on."""


@dataclass
class TimeSpent:
    """Is what one component of a run took.

    Attributes:
        cells: How many were computed.
        seconds: Of one worker, all cells together.
    """

    cells: int = 0
    seconds: float = 0.0


@dataclass
class ActiveTask:
    """Is what a worker does now."""

    key: Key
    what: str
    begun: float = field(default_factory=time.monotonic)


class RunTimings:
    """Adds up what components cost, over all runs in one folder; no cell holds a time.

    Args:
        store: The run folder.
        workers: How many work at once.
    """

    def __init__(self, store: Store, *, workers: int) -> None:
        self._path = store.root / NAME
        self._workers = workers
        self._begun = time.monotonic()
        self._own: dict[str, TimeSpent] = {}
        self.doing: dict[str, ActiveTask] = {}
        self._before = _read(store)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, whatever the date did meanwhile."""
        return time.monotonic() - self._begun

    @property
    def spent(self) -> dict[str, dict[str, float]]:
        """Cells and seconds by component, over all runs in this folder."""
        total = {what: TimeSpent(**one) for what, one in self._before.items()}
        for what, one in list(self._own.items()):
            known = total.setdefault(what, TimeSpent())
            known.cells, known.seconds = known.cells + one.cells, known.seconds + one.seconds
        return {what: {"cells": one.cells, "seconds": round(one.seconds, 3)} for what, one in total.items()}

    def add(self, what: str, seconds: float) -> None:
        """Books one computed cell."""
        one = self._own.setdefault(what, TimeSpent())
        one.cells, one.seconds = one.cells + 1, one.seconds + seconds

    @contextlib.contextmanager
    def kept(self, reached: Callable[[], tuple[int, int]]) -> Iterator[None]:
        """Writes down every few seconds where the run is, also while a single process has its hands full.

        Args:
            reached: Returns how many cells are finished, and how many there are.
        """
        stopped = threading.Event()
        writer = threading.Thread(
            target=self._keep, args=(reached, stopped), name="evalsuite-ledger", daemon=True
        )
        self._write(*reached())
        writer.start()
        try:
            yield
        finally:
            stopped.set()
            writer.join()

    def close(self) -> None:
        """Removes what was written down: what it said is in the record now."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _keep(self, reached: Callable[[], tuple[int, int]], stopped: threading.Event) -> None:
        while not stopped.wait(PAUSE):
            with contextlib.suppress(StoreError):  # a full disk is told by what must be written
                self._write(*reached())

    def _write(self, done: int, total: int) -> None:
        now = time.monotonic()
        running = [
            {**_address(one.key), "what": one.what, "seconds": round(now - one.begun, 1)}
            for one in list(self.doing.values())  # the run goes on meanwhile
        ]
        content: dict[str, Any] = {"format": FORMAT, "done": done, "total": total}
        content |= {"workers": self._workers, "elapsed": round(self.elapsed, 1)}
        write_atomically(self._path, to_json({**content, "spent": self.spent, "running": running}))


def running(root: Path) -> dict[str, Any]:
    """Returns what the last run wrote down while it went on; empty where it came to its end."""
    try:
        found = json.loads((root / NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(store: Store) -> dict[str, dict[str, Any]]:
    """What earlier runs spent; a killed one left it in its notes, which hold what came before as well."""
    left = running(store.root).get("spent")
    with contextlib.suppress(StoreError):
        left = left or store.record().get("spent")
    known = left if isinstance(left, Mapping) else {}
    return {
        str(what): {"cells": int(one["cells"]), "seconds": float(one["seconds"])}
        for what, one in known.items()
    }


def _address(key: Key) -> dict[str, Any]:
    return {"method": key.method, "seed": key.seed, "target_ratio": key.target_ratio}
