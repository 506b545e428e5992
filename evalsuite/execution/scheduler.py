"""The scheduler: hands the tasks of a planned run to an executor, and writes down what their events report.

What is in the store already is not computed again, and nothing is lost if the process is killed.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from evalsuite.atomic_files import set_aside
from evalsuite.config.options import Options
from evalsuite.config.suite import Suite
from evalsuite.datasets.sampling import Sample
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.errors import CellError
from evalsuite.execution.devices import threads
from evalsuite.execution.executors import executor
from evalsuite.execution.executors.base import Executor
from evalsuite.execution.planning import SCRATCH, PreparedRun, prepare
from evalsuite.execution.tasks import (
    CandidatesReady,
    CellFinished,
    CellProgress,
    CellStarted,
    Event,
    LoadParent,
    MeasureCandidate,
    ParentReady,
    ProduceCandidate,
    ProductionResult,
    RunAborted,
    Task,
    TaskFinished,
    WeightsLost,
    WorkerDied,
)
from evalsuite.results.run import Run
from evalsuite.runs.lock import Lock, locked
from evalsuite.runs.plan import PlannedCandidate, RunPlan, independent
from evalsuite.runs.progress import ProgressWatcher, RunProgress, TimeEstimate
from evalsuite.runs.provenance import record
from evalsuite.runs.store import Cell, Key, Store
from evalsuite.runs.timings import ActiveTask, RunTimings
from evalsuite.types import DENSE, PRODUCTION, Candidate, CellStatus

log = logging.getLogger(__name__)

LOCK_CHECK_SECONDS = 2.0

ProgressCallback = Callable[[CellProgress], None]
Rank = tuple[int, ...]


def run(
    suite: Suite | str | Path,
    *,
    out: Path | str | None = None,
    options: Options | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Plans the run of a suite, computes its cells, and returns the results; no report is written.

    Args:
        suite: A suite, the path of one, or the name of one that ships with the package.
        out: Run folder; ``reports/<suite>`` under the current folder by default.
        options: Seed, device, data and workers, where they differ from the suite's.
        progress: Called after each cell; a `evalsuite.runs.progress.ProgressWatcher` may also look by itself.

    Raises:
        UserError: If the suite, its data or its checkpoint is not as it must be; nothing is computed then.
    """
    return execute(prepare(suite, out=out, options=options), progress=progress)


def execute(prepared: PreparedRun, *, progress: ProgressCallback | None = None) -> Run:
    """Computes every selected cell of a plan that is not in the store, and returns the results.

    Args:
        prepared: The run; see `evalsuite.execution.planning.prepare`.
        progress: Called after each cell.

    Raises:
        StoreError: If the folder cannot be written, or another process works in it.
        EvalsuiteError: If the run cannot go on.
    """
    context = dataclasses.replace(prepared.runner.context, plan=prepared.plan, verify=False)  # it is verified
    prepared.runner.context = context  # the serial executor's
    store = prepared.runner.store
    with (
        threads(prepared.suite.threads),
        locked(store.root) as lock,
        _cleared(SharedArrayCache(store.root / SCRATCH)),
        closing(
            executor(
                prepared.executor,
                context,
                prepared.runner,
                devices=prepared.devices,
                workers=prepared.workers,
            )
        ) as workers,
    ):
        store.remove_leftovers()
        schedule = Schedule(prepared.plan, store, external=_has_external(prepared))
        scheduler = _Scheduler(schedule, workers, lock)
        if sample := prepared.image_source.sample():
            scheduler.notes.append(
                {"method": DENSE, "seed": prepared.suite.seeds[0], "note": _sample_note(sample)}
            )
        stages = prepared.stages
        more = prepared.suite.notes if stages is None else (stages.text, *prepared.suite.notes)
        scheduler.notes += [{"method": DENSE, "seed": prepared.suite.seeds[0], "note": note} for note in more]
        about = record(prepared.suite, prepared.options) | prepared.data_record | _sampled(sample)
        if stages is not None:
            about["stages"] = list(stages.sizes)
        about["engine"] = dataclasses.asdict(prepared.engine)
        scheduler.run(about, progress or (lambda _: None))
    return Run(store.root)


def _has_external(prepared: PreparedRun) -> frozenset[int]:
    """Seeds whose parents or models come from files, which are read at every start; all where a claim is checked."""
    if prepared.suite.checkpoint or prepared.suite.parent_accuracy is not None:
        return frozenset(prepared.suite.seeds)
    return frozenset(model.seed for model in prepared.suite.candidates)


def _sampled(sample: Sample | None) -> dict[str, Any]:
    """What ``run.json`` says about a sample of the test images."""
    return {} if sample is None else {"sample": {**dataclasses.asdict(sample), "text": sample.text}}


def _sample_note(sample: Sample) -> str:
    return f"All models were tested on {sample.text}: intervals are wider than they are on all images."


@contextmanager
def _cleared(cache: SharedArrayCache) -> Iterator[None]:
    """Empties the cache before and after: what a killed run left there is not used."""
    cache.clear()
    try:
        yield
    finally:
        cache.clear()


class Schedule:
    """The tasks of one run: which are left to do, which follow from which, and which come first.

    Args:
        plan: All cells.
        store: The run folder.
        external: Seeds whose parents or models come from files, which are read at every start.
    """

    def __init__(self, plan: RunPlan, store: Store, *, external: frozenset[int] = frozenset()) -> None:
        self.plan, self.store = plan, store
        self._external = external
        self.made: dict[Key, Candidate] = {}
        self._held: list[Key] = []  # until their control is there
        self._order = {candidate.key: place for place, candidate in enumerate(plan.candidates)}

    def first(self) -> list[Task]:
        """Returns the tasks that wait for nothing."""
        return [
            LoadParent(candidate.key.seed, candidate.inputs)
            for candidate in self.plan.candidates
            if candidate.role == "parent"
        ]

    def settled(self, task: Task) -> tuple[tuple[Event, ...], Task | None]:
        """Returns the events of a task that follow from the store, and what is left to do of it."""
        if isinstance(task, LoadParent):
            return self._settled_parent(task)
        if isinstance(task, ProduceCandidate):
            stored = self._stored(task.key, self._digest(task.key, task.parent))
            result = ProductionResult(task.key, stored, computed=False)
            return ((CandidatesReady((result,)),), None) if stored is not None else ((), task)
        there = {label: self._status(task.key, label, digest) for label, digest in task.cells.items()}
        left = {label: digest for label, digest in task.cells.items() if there[label] is None}
        events = tuple(
            CellFinished(label, status, 0.0) for label, status in there.items() if status is not None
        )
        return events, dataclasses.replace(task, cells=left) if left else None

    def after(self, task: Task, event: Event) -> Iterator[Task]:
        """Yields the tasks for which the result of another was all that was missing."""
        if isinstance(event, ParentReady):
            yield from self._after_parent(task.key, event)
        if isinstance(event, CandidatesReady) and isinstance(task, ProduceCandidate):
            for result in event.results:
                if result.candidate is not None:
                    self.made[result.key] = result.candidate
                    yield from self._measures(result.key)
            if all(result.candidate is not None for result in event.results):
                yield from self._next_step(task.key, task.parent)

    def _after_parent(self, key: Key, event: ParentReady) -> Iterator[Task]:
        self.made[key] = event.parent
        if key.seed in self.plan.unresolved:
            rows = [result.planned for result in event.external if result.planned is not None]
            self.plan = self.plan.with_external(key.seed, rows)
            self._order = {candidate.key: place for place, candidate in enumerate(self.plan.candidates)}
        self.made |= {r.key: r.candidate for r in event.external if r.candidate is not None}
        held, self._held = self._held, []
        for waiting in (*held, key):
            yield from self._measures(waiting)
        for method in dict.fromkeys(c.key.method for c in self.plan.candidates if c.role == "produced"):
            yield from self._next_step(Key(method, key.seed, 0.0), event.parent)
        for result in event.external:
            if result.candidate is not None:
                yield from self._measures(result.key)

    def measure(self, key: Key) -> MeasureCandidate:
        """Returns the task to measure a candidate that is there."""
        parent = self.made[self.plan.by_key[key].parent]
        seed = self.plan.control_seed(key.seed)
        control = None if seed is None else independent(parent, self.made.get(Key(DENSE, seed, 0.0)))
        cells = {
            test.label: self.plan.cell_digest(key, test.label, self.made)
            for test in self.plan.tests
            if test.selected
        }
        return MeasureCandidate(key, self.made[key], parent, cells, control=control)

    def _measures(self, key: Key) -> Iterator[Task]:
        """The task to measure a candidate: none if it is not tested, or before the control of its parent is there."""
        planned = self.plan.by_key[key]
        seed = self.plan.control_seed(key.seed)
        if not (planned.selected and planned.tested):
            return
        if seed is None or Key(DENSE, seed, 0.0) in self.made:
            yield self.measure(key)
        else:
            self._held.append(key)

    def _digest(self, key: Key, parent: Candidate) -> str:
        """The digest of a candidate of a producer."""
        return self.plan.candidate_digest(key, {Key(DENSE, key.seed, 0.0): parent})

    def failed(self, task: ProduceCandidate, reason: str) -> CandidatesReady:
        """Returns the end of a chain whose step could not be done."""
        text = f"production failed at ratio {task.key.target_ratio:g}: {reason}"
        rest = [c.key for c in self._chain(task.key) if c.key.target_ratio >= task.key.target_ratio]
        return CandidatesReady(
            tuple(ProductionResult(key, None, text, digest=self._digest(key, task.parent)) for key in rest)
        )

    def remade(self, key: Key, parent: Candidate) -> Task | None:
        """Returns the task that makes a candidate again; ``None`` for models that were made elsewhere."""
        planned = self.plan.by_key[key]
        if planned.role == "parent":
            return LoadParent(key.seed, planned.inputs)
        return self._task_of(planned, parent) if planned.role == "produced" else None

    def rank(self, task: Task, *, serial: bool) -> Rank:
        """Returns what orders tasks: the smallest comes first.

        One worker measures a candidate before the next one is made. Several workers make chains first, since nothing
        else in a run has to wait for its turn, and measuring occupies the other workers.
        """
        place = self._order[task.key]
        if isinstance(task, LoadParent):
            others_wait = serial and self.plan.control_seed(task.seed) is not None
            return (-1, place) if others_wait or not serial else (place, -1)
        if isinstance(task, ProduceCandidate):
            return (place, 0) if serial else (1, task.step, place)
        return (place, 1) if serial else (2, place)

    def _chain(self, key: Key) -> tuple[PlannedCandidate, ...]:
        return self.plan.chain(key.method, key.seed)

    def _next_step(self, key: Key, parent: Candidate) -> Iterator[Task]:
        """The task that makes the candidate after `key` in its chain, if the run makes one."""
        later = [c for c in self._chain(key) if c.key.target_ratio > key.target_ratio]
        if later:
            yield self._task_of(later[0], parent)

    def _task_of(self, planned: PlannedCandidate, parent: Candidate) -> ProduceCandidate:
        return ProduceCandidate(planned.key, parent, len(planned.path) - 1, planned.inputs)

    def _settled_parent(self, task: LoadParent) -> tuple[tuple[Event, ...], Task | None]:
        """A parent that was trained and measured here and has no external models beside it needs no look at files."""
        stored = self._stored(task.key, task.digest)
        if stored is None or task.seed in self._external or not self._is_measured(task.key, stored):
            return (), task
        return (ParentReady(stored, computed=False),), None

    def _is_measured(self, key: Key, parent: Candidate) -> bool:
        """Whether a test of a parent is done, which none is before the parent is shown to classify."""
        digests = {label: self.plan.cell_digest(key, label, {key: parent}) for label in self.plan.by_label}
        return any(self.store.status(key, label, digest) for label, digest in digests.items() if digest)

    def _stored(self, key: Key, digest: str) -> Candidate | None:
        """The record of a candidate whose weights are there; what is left of damaged ones is set aside."""
        candidate = self.store.candidate(key, digest)
        if candidate is None or self.store.has_weights(key):
            return candidate
        if (path := self.store.weights_path(key)).exists():
            set_aside(path)
        return None

    def _status(self, key: Key, label: str, digest: str) -> CellStatus | None:
        """How a cell ended, if it need not be computed: an error may be gone, and is tried again."""
        cell = self.store.wanted_cell(key, label, digest)
        return None if cell is None or cell.status in self.plan.retried else cell.status


class _Scheduler:
    """One run: tasks to an executor, events back, and everything that they report written down."""

    def __init__(self, schedule: Schedule, workers: Executor, lock: Lock) -> None:
        self.schedule, self.workers, self.lock = schedule, workers, lock
        self.store = schedule.store
        self.timings = RunTimings(self.store, workers=workers.slots)
        self.estimate = TimeEstimate(schedule.plan, self.timings.spent)
        self.done = self.computed = 0
        self.notes: list[dict[str, Any]] = []  # about the models, for readers of the report
        self._ready: list[tuple[Rank, int, Task]] = []
        self._count = itertools.count()
        self._running: dict[str, Task] = {}
        self._waiting: dict[str, list[Task]] = {}  # for weights to be made again
        self._tries: Counter[tuple[Key, str]] = Counter()
        self._next_lock_check = 0.0

    def run(self, about: dict[str, Any], progress: ProgressCallback) -> None:
        """Does everything that is not in the store.

        Args:
            about: Content of ``run.json`` that is known before.
            progress: Called after each cell.
        """
        self.progress = progress
        earlier = self.store.seconds()
        self.about = about | {"started": time.time(), "notes": self.notes}
        for task in self.schedule.first():
            self._push(task)
        if earlier is None:  # training the first parent may take hours, in which the status may be asked for
            self._write_record(seconds=None)
        written = self.timings.written(lambda: (self.done, self.schedule.plan.total))
        with self._watched_by(progress), written:
            while self._ready or self._running:
                while self._ready and len(self._running) < self.workers.slots:
                    self._start(heapq.heappop(self._ready)[2])
                if self._running:
                    self._wait()
        self.lock.check()  # a record without its cells would be no run
        seconds = self.timings.elapsed if self.computed else earlier  # reading finished cells is not the run
        self._write_record(seconds=seconds, computed=self.computed)
        self.timings.close()

    def _watched_by(self, progress: ProgressCallback) -> AbstractContextManager[None]:
        """Lets a callback look at the run by itself, also while a single process computes."""
        return progress.watching(self.snapshot) if isinstance(progress, ProgressWatcher) else nullcontext()

    def snapshot(self) -> RunProgress:
        """Returns how far the run is; any thread may ask."""
        active = tuple(sorted(self.timings.active.values(), key=lambda task: task.started))
        left = self.estimate.seconds_left(active)
        return RunProgress(
            self.done,
            self.schedule.plan.total,
            active,
            self.timings.elapsed,
            None if left is None else left / self.workers.slots,
        )

    def _start(self, task: Task) -> None:
        """Takes the part of a task that is in the store, and has the rest done."""
        events, rest = self.schedule.settled(task)
        for event in events:
            self._handle(task, event, computed=False)
        if rest is not None:
            self._running[rest.name] = rest
            what = "" if isinstance(rest, MeasureCandidate) else PRODUCTION
            self.timings.active[rest.name] = ActiveTask(rest.key, what)
            self.workers.submit(rest)

    def _wait(self) -> None:
        answer = self.workers.event(LOCK_CHECK_SECONDS)
        if time.monotonic() > self._next_lock_check:
            self.lock.check()
            self._next_lock_check = time.monotonic() + LOCK_CHECK_SECONDS
        if answer is None:
            return
        task, event = answer
        task = self._running[task.name]  # less the cells that are done already
        if isinstance(event, TaskFinished | WorkerDied | WeightsLost | RunAborted):
            del self._running[task.name], self.timings.active[task.name]
        if isinstance(event, WorkerDied | WeightsLost | RunAborted):
            self.lock.check()  # a folder that was removed or taken over is the cause
        if isinstance(event, RunAborted):
            raise event.error
        if isinstance(event, CellStarted):
            self.timings.active[task.name] = ActiveTask(task.key, event.what)
        elif isinstance(event, WorkerDied):
            self._retry(task, event.reason)
        elif isinstance(event, WeightsLost):
            self._make_again(task, event)
        else:
            self._handle(task, event, computed=True)

    def _handle(self, task: Task, event: Event, *, computed: bool) -> None:
        """Writes down what an event reports, and has done what waited for it."""
        if isinstance(event, CellFinished):
            self._add_time(task.key, event.what, event.seconds, computed=computed)
            self._report(task.key, event.what, event.status, computed=computed)
            if computed and isinstance(task, MeasureCandidate):
                left = {label: digest for label, digest in task.cells.items() if label != event.what}
                self._running[task.name] = dataclasses.replace(task, cells=left)
            return
        waiting = self._waiting.pop(task.name, None)
        if waiting is not None:  # weights that were made again: everything else follows already
            for held in waiting:
                self._push(held)
            return
        if not isinstance(event, ParentReady | CandidatesReady):
            return
        following = list(self.schedule.after(task, event))
        if isinstance(event, ParentReady):
            self._handle_parent(task.key, event)
        else:
            self._handle_candidates(event, computed=computed)
        for new in following:
            self._push(new)

    def _handle_parent(self, key: Key, event: ParentReady) -> None:
        """Writes down which networks are compared before any of them is measured."""
        for of, note in event.notes:
            log.warning("%s: %s", of.method, note)
            self.notes.append({"method": of.method, "seed": of.seed, "note": note})
        self._add_time(key, PRODUCTION, event.seconds, computed=event.computed)
        self.estimate.resolved(self.schedule.plan)
        self._report(key, PRODUCTION, "ok", computed=event.computed)
        for result in event.external:
            if self.schedule.plan.by_key[result.key].selected:
                self._report(result.key, PRODUCTION, "ok", computed=result.computed)
        self._write_record(seconds=None)

    def _handle_candidates(self, event: CandidatesReady, *, computed: bool) -> None:
        self._add_time(event.results[0].key, PRODUCTION, event.seconds, computed=computed)
        for result in event.results:
            planned = self.schedule.plan.by_key[result.key]
            if result.candidate is not None:
                self._report(result.key, PRODUCTION, "ok", computed=result.computed)
                continue
            self.store.write_cell(result.key, PRODUCTION, Cell(result.digest, "error", result.reason))
            labels = self.schedule.plan.labels if planned.tested else (PRODUCTION,)
            for label in labels if planned.selected else ():
                self._report(result.key, label, "error", computed=True)

    def _retry(self, task: Task, reason: str) -> None:
        """Has a task whose worker died done once more; the second time, its cell has a reason and no number."""
        what = next(iter(task.cells), "") if isinstance(task, MeasureCandidate) else PRODUCTION
        self._tries[task.key, what] += 1
        if self._tries[task.key, what] == 1:
            place = (what, task.key.method, task.key.target_ratio)
            log.warning("%s of %s at %g: %s; it is tried again", *place, reason)
            self._push(task)
        elif isinstance(task, LoadParent):
            raise CellError(f"the parent of seed {task.seed} could not be made: {reason}")
        elif isinstance(task, ProduceCandidate):
            self._handle(task, self.schedule.failed(task, reason), computed=True)
        else:
            self._give_up(task, [what], reason)

    def _make_again(self, task: Task, event: WeightsLost) -> None:
        """Has weights made again that are not those of their record; once, then it is an error."""
        parent = None if isinstance(task, LoadParent) else task.parent
        maker = None if parent is None else self.schedule.remade(event.key, parent)
        if maker is not None and maker.name in self._waiting:  # another task met them first
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
            self._handle(task, self.schedule.failed(task, event.reason), computed=True)
        else:
            raise CellError(event.reason)

    def _give_up(self, task: MeasureCandidate, labels: list[str], reason: str) -> None:
        for label in labels:
            self.store.write_cell(task.key, label, Cell(task.cells[label], "error", reason))
            self._report(task.key, label, "error", computed=True)
        left = {label: digest for label, digest in task.cells.items() if label not in labels}
        if left:
            self._push(dataclasses.replace(task, cells=left))

    def _push(self, task: Task) -> None:
        rank = self.schedule.rank(task, serial=self.workers.slots == 1)
        heapq.heappush(self._ready, (rank, next(self._count), task))

    def _add_time(self, key: Key, what: str, seconds: float, *, computed: bool) -> None:
        if computed:
            self.timings.add(what, seconds)
            self.estimate.measured((key, what), seconds)

    def _report(self, key: Key, what: str, status: CellStatus, *, computed: bool) -> None:
        self.done += 1
        self.computed += computed
        self.estimate.finished((key, what))
        total = self.schedule.plan.total
        self.progress(CellProgress(key, what, status, self.done, total, computed))

    def _write_record(self, *, seconds: float | None, **more: Any) -> None:
        plan = self.schedule.plan.to_record()
        spent = self.timings.spent
        self.store.write_record({**self.about, "plan": plan, "seconds": seconds, "spent": spent, **more})
