"""A suite to tasks to results: what is in the store already is not computed again, and nothing is lost."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from evalsuite.atomic_files import set_aside
from evalsuite.config.suite import PRODUCTION, Suite, load_suite
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.errors import CellError
from evalsuite.execution.devices import device as device
from evalsuite.execution.devices import devices
from evalsuite.execution.devices import threads as threads
from evalsuite.execution.executors import check, count, executor
from evalsuite.execution.executors.base import Executor
from evalsuite.execution.schedule import Rank, Schedule, scope
from evalsuite.execution.tasks import (
    CandidatesReady,
    CellFinished,
    CellStarted,
    Event,
    LoadParent,
    MeasureCandidate,
    ParentReady,
    ProduceCandidate,
    RunAborted,
    RunContext,
    Task,
    TaskFinished,
    WeightsLost,
    WorkerDied,
)
from evalsuite.execution.tasks import CellProgress as CellProgress
from evalsuite.execution.worker import TaskRunner
from evalsuite.results.run import Run
from evalsuite.runs.lock import Lock, locked
from evalsuite.runs.provenance import Options, data_root, record
from evalsuite.runs.store import Cell, Key, Store
from evalsuite.runs.timings import ActiveTask, RunTimings
from evalsuite.types import CellStatus

log = logging.getLogger(__name__)

SCRATCH = "scratch"
"""Folder for what workers share while a run goes on."""
LOOK = 2.0
"""Seconds after which the lock is looked at again."""

ProgressCallback = Callable[[CellProgress], None]


def run(
    suite: Suite | str | Path,
    *,
    out: Path | str | None = None,
    options: Options | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Runs a suite and returns its results; what an earlier run finished is not computed again.

    Args:
        suite: A suite, the path of one, or the name of one that ships with the package.
        out: Run folder; ``reports/<suite>`` under the current folder by default.
        options: Seed, device, data and workers, where they differ from the suite's.
        progress: Called after each cell.

    Raises:
        UserError: If the suite, its data or its checkpoint is not as it must be; nothing is computed then.
    """
    options = options or Options()
    chosen = options.applied(suite if isinstance(suite, Suite) else load_suite(suite))
    root = Path(out) if out is not None else Path("reports") / chosen.name
    places = devices(options.device)
    order = RunContext(
        suite=chosen,
        root=root.absolute(),
        data=data_root(chosen, options),
        device=places[0],
        download=options.download,
        trust=options.trust_program,
        scratch=root.absolute() / SCRATCH,
    )
    with threads(chosen.threads):
        here = TaskRunner(order)
        schedule = Schedule(here.production, here.image_source, scope(chosen, options))
        workers = count(options, chosen, places)
        name = options.executor or ("serial" if workers == 1 else "local")
        check(name, workers=workers)
        store = Store(root)
        store.refuse_newer()
        with (
            locked(root) as lock,
            _cleared(SharedArrayCache(root / SCRATCH)),
            closing(executor(name, order, here, devices=places, workers=workers)) as hands,
        ):
            store.sweep()
            _Work(schedule, hands, lock).run(record(chosen, options), progress or (lambda _: None))
    return Run(root)


@contextmanager
def _cleared(shelf: SharedArrayCache) -> Iterator[None]:
    """Leaves nothing on the shelf, and believes nothing that a killed run left there."""
    shelf.clear()
    try:
        yield
    finally:
        shelf.clear()


class _Work:
    """One run: tasks to an executor, events back, and everything that they say written down."""

    def __init__(self, schedule: Schedule, hands: Executor, lock: Lock) -> None:
        self.schedule, self.hands, self.lock = schedule, hands, lock
        self.store = schedule.store
        self.ledger = RunTimings(self.store, workers=hands.slots)
        self.done = self.computed = 0
        self.notes: list[dict[str, Any]] = []  # what readers of the report should know about the models
        self._ready: list[tuple[Rank, int, Task]] = []
        self._count = itertools.count()
        self._running: dict[str, Task] = {}
        self._waiting: dict[str, list[Task]] = {}  # for something to be made again
        self._tries: Counter[tuple[Key, str]] = Counter()
        self._look = 0.0

    def run(self, kept: dict[str, Any], progress: ProgressCallback) -> None:
        """Does everything that is not in the store."""
        self.progress = progress
        earlier = self.store.seconds()
        self.kept = kept | {"started": time.time(), "inputs": self.schedule.inputs, "notes": self.notes}
        for task in self.schedule.first():
            self._push(task)
        if earlier is None:  # making the first parent may take hours, and somebody may ask for the status
            self._record(seconds=None)
        with self.ledger.kept(lambda: (self.done, self.schedule.total)):
            while self._ready or self._running:
                while self._ready and len(self._running) < self.hands.slots:
                    self._begin(heapq.heappop(self._ready)[2])
                if self._running:
                    self._wait()
        spent = self.ledger.elapsed if self.computed else earlier  # looking at finished cells is not the run
        self._record(seconds=spent, computed=self.computed)
        self.ledger.close()

    def _begin(self, task: Task) -> None:
        """Takes what the store knows of a task, and has the rest done."""
        known, rest = self.schedule.settled(task)
        for event in known:
            self._heard(task, event, computed=False)
        if rest is not None:
            self._running[rest.name] = rest
            self.ledger.doing[rest.name] = ActiveTask(
                rest.key, "" if isinstance(rest, MeasureCandidate) else PRODUCTION
            )
            self.hands.submit(rest)

    def _wait(self) -> None:
        found = self.hands.event(LOOK)
        if time.monotonic() > self._look:
            self.lock.check()
            self._look = time.monotonic() + LOOK
        if found is None:
            return
        task, event = found
        task = self._running[task.name]  # less what it has done already
        if isinstance(event, TaskFinished | WorkerDied | WeightsLost | RunAborted):
            del self._running[task.name], self.ledger.doing[task.name]
        if isinstance(event, RunAborted):
            raise event.error
        if isinstance(event, CellStarted):
            self.ledger.doing[task.name] = ActiveTask(task.key, event.what)
        elif isinstance(event, WorkerDied):
            self._again(task, event.reason)
        elif isinstance(event, WeightsLost):
            self._make_again(task, event)
        else:
            self._heard(task, event, computed=True)

    def _heard(self, task: Task, event: Event, *, computed: bool) -> None:
        """Writes down what an event says, and has done what waited for it."""
        if isinstance(event, CellFinished):
            self._book(event.what, event.seconds, computed=computed)
            self._tell(task.key, event.what, event.status, computed=computed)
            if computed and isinstance(task, MeasureCandidate):
                left = {label: digest for label, digest in task.cells.items() if label != event.what}
                self._running[task.name] = dataclasses.replace(task, cells=left)
            return
        waiting = self._waiting.pop(task.name, None)
        if waiting is not None:  # made again: everybody else has heard of it
            for one in waiting:
                self._push(one)
            return
        if isinstance(event, ParentReady):
            self._opened(task.key, event)
        elif isinstance(event, CandidatesReady):
            self._produced(event, computed=computed)
        else:
            return
        for one in self.schedule.after(task, event):
            self._push(one)

    def _opened(self, key: Key, event: ParentReady) -> None:
        """Writes down who is compared before anything of it is measured."""
        listed = self.schedule.inputs["given"]
        listed += [{**dataclasses.asdict(made.key), "digest": made.digest} for made in event.given]
        listed.sort(key=lambda one: self.schedule.suite.seeds.index(one["seed"]))  # not by who came first
        for of, note in event.notes:
            log.warning("%s: %s", of.method, note)
            self.notes.append({"method": of.method, "seed": of.seed, "note": note})
        self._book(PRODUCTION, event.seconds, computed=event.fresh)
        self._tell(key, PRODUCTION, "ok", computed=event.fresh)
        for made in event.given:
            if made.key.method in self.schedule.scope.methods:
                self._tell(made.key, PRODUCTION, "ok", computed=made.computed)
        self._record(seconds=None)

    def _produced(self, event: CandidatesReady, *, computed: bool) -> None:
        self._book(PRODUCTION, event.seconds, computed=computed)
        for made in event.made:
            if made.candidate is not None:
                self._tell(made.key, PRODUCTION, "ok", computed=made.computed)
                continue
            self.store.write_cell(made.key, PRODUCTION, Cell(made.digest, "error", made.reason))
            for what in (PRODUCTION, *(choice.label for choice in self.schedule.scope.evaluators)):
                self._tell(made.key, what, "error", computed=True)

    def _again(self, task: Task, reason: str) -> None:
        """Has a task whose worker died done once more; the second time, its cell has a reason and no number."""
        what = next(iter(task.cells), "") if isinstance(task, MeasureCandidate) else PRODUCTION
        self._tries[task.key, what] += 1
        if self._tries[task.key, what] == 1:
            log.warning(
                "%s of %s at %g: %s; it is tried again", what, task.key.method, task.key.target_ratio, reason
            )
            self._push(task)
        elif isinstance(task, LoadParent):
            raise CellError(f"the parent of seed {task.seed} could not be made: {reason}")
        elif isinstance(task, ProduceCandidate):
            self._heard(task, self.schedule.failed(task, reason), computed=True)
        else:
            self._give_up(task, [what], reason)

    def _make_again(self, task: Task, event: WeightsLost) -> None:
        """Has weights made again that are not those of their record; once, then it is an error."""
        parent = None if isinstance(task, LoadParent) else task.parent
        maker = None if parent is None else self.schedule.remade(event.key, parent)
        if maker is not None and maker.name in self._waiting:  # for another task that met them first
            self._waiting[maker.name].append(task)
            return
        self._tries[event.key, "weights"] += 1
        if maker is not None and self._tries[event.key, "weights"] == 1:
            set_aside(self.store.weights_path(event.key))
            self._waiting[maker.name] = [task]
            self._push(maker)
        elif isinstance(task, MeasureCandidate):
            self._give_up(task, list(task.cells), event.reason)
        elif isinstance(task, ProduceCandidate):
            self._heard(task, self.schedule.failed(task, event.reason), computed=True)
        else:
            raise CellError(event.reason)

    def _give_up(self, task: MeasureCandidate, labels: list[str], reason: str) -> None:
        for label in labels:
            self.store.write_cell(task.key, label, Cell(task.cells[label], "error", reason))
            self._tell(task.key, label, "error", computed=True)
        left = {label: digest for label, digest in task.cells.items() if label not in labels}
        if left:
            self._push(dataclasses.replace(task, cells=left))

    def _push(self, task: Task) -> None:
        rank = self.schedule.rank(task, alone=self.hands.slots == 1)
        heapq.heappush(self._ready, (rank, next(self._count), task))

    def _book(self, what: str, seconds: float, *, computed: bool) -> None:
        if computed:
            self.ledger.add(what, seconds)

    def _tell(self, key: Key, what: str, status: CellStatus, *, computed: bool) -> None:
        self.done += 1
        self.computed += computed
        self.progress(CellProgress(key, what, status, self.done, self.schedule.total, computed))

    def _record(self, *, seconds: float | None, **more: Any) -> None:
        self.store.write_record({**self.kept, "seconds": seconds, "spent": self.ledger.spent, **more})
