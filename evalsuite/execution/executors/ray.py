"""Ray: tasks go to any machine of a cluster that has room; Ray starts tasks of lost machines again."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalsuite.atomic_files import wait_for_file, write_atomically
from evalsuite.errors import UserError
from evalsuite.execution.devices import devices, threads
from evalsuite.execution.executors.base import Executor
from evalsuite.execution.executors.local import packed
from evalsuite.execution.executors.process import all_events, sendable, unpacked
from evalsuite.execution.limits import GRACE
from evalsuite.execution.tasks import (
    Event,
    LoadParent,
    MeasureCandidate,
    ProduceCandidate,
    RunAborted,
    RunContext,
    Task,
    WorkerDied,
)
from evalsuite.execution.worker import TaskRunner
from evalsuite.runs.lock import holder
from evalsuite.runs.store import Key, Store
from evalsuite.types import DENSE

log = logging.getLogger(__name__)

RETRIES = 3
"""How often Ray starts a task again whose machine or process was lost."""
AHEAD = 2
"""Tasks that wait for each processor of the cluster, so that none is idle."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class TaskMessage:
    """All that a machine of the cluster needs for a task, and a token that shows whether it sees the run folder.

    Attributes:
        context: The packed context.
        token: Of the run's lock: a machine that reads the same one sees the same folder.
        files: Relative path to Ray's reference of the content, for machines that do not see it.
    """

    context: bytes
    token: str
    files: Mapping[str, Any]


@dataclass(frozen=True)
class EventMessage:
    """The events of a task, and its files.

    Attributes:
        events: In order.
        files: Relative path to content of the files that a machine wrote that does not see the run folder.
    """

    events: tuple[Event, ...]
    files: Mapping[str, bytes]


class RayExecutor(Executor):
    """Has tasks done by Ray.

    Args:
        context: What is run.
        address: ``host:port`` of a cluster's client server; empty for the cluster that this process belongs to,
            or, if it belongs to none, one on this machine alone.

    Raises:
        UserError: If Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, context: RunContext, address: str = "") -> None:
        self._ray = _ray()
        self._context, self._packed = context, packed(context)
        self._store = Store(context.root)
        self._references: dict[str, Any] = {}
        self._tasks: dict[Any, Task] = {}
        self._events: list[tuple[Task, Event]] = []
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._join(address)
        resources = context.suite.resources
        cpus = resources.cpus or context.suite.threads
        self._function = self._ray.remote(num_cpus=cpus, num_gpus=resources.gpus, max_retries=RETRIES)(
            perform
        )
        self._cpus = cpus

    @property
    def slots(self) -> int:
        """As many tasks as the cluster has room for, and some that wait."""
        return max(2, int(AHEAD * self._ray.cluster_resources().get("CPU", 1) / self._cpus))

    def submit(self, task: Task) -> None:
        """Gives a task to Ray."""
        process = holder(self._context.root)
        message = TaskMessage(self._packed, process.token if process else "", self._referenced(task))
        self._tasks[self._function.remote(pickle.dumps(task), message)] = task

    def event(self, timeout: float) -> tuple[Task, Event] | None:
        """Waits for the next task that has come to its end, and returns its events one by one."""
        if not self._events:
            ready, _ = self._ray.wait(list(self._tasks), timeout=timeout)
            for reference in ready:
                task = self._tasks.pop(reference)
                self._events += [(task, event) for event in self._received(reference)]
        return self._events.pop(0) if self._events else None

    def close(self) -> None:
        """Cancels what is under way, and leaves the cluster if it was joined here."""
        for reference in self._tasks:
            self._ray.cancel(reference, force=True)
        self._tasks.clear()
        if self._ours:
            self._ray.shutdown()

    def _join(self, address: str) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        cluster = f"ray://{address}" if address else os.environ.get("RAY_ADDRESS")
        alone: dict[str, Any] = {} if cluster else {"include_dashboard": False}
        try:
            self._ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR, **alone)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray cluster answers at {cluster or 'this machine'} ({error}); start one with 'ray start --head', "
                "or use --executor local"
            ) from error

    def _received(self, reference: Any) -> Sequence[Event]:
        """The events of a task; files of a machine without the run folder are written first."""
        try:
            reply: EventMessage = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return (WorkerDied(f"Ray gave it up: {str(error).strip().splitlines()[0]}"),)
        for name in sorted(
            reply.files, key=lambda name: name.endswith(".json")
        ):  # a record comes after its weights
            write_atomically(self._context.root / name, reply.files[name])
        return reply.events

    def _referenced(self, task: Task) -> dict[str, Any]:
        """Files that a task reads, each put into Ray's memory once; machines with the run folder do not fetch them."""
        return {name: self._reference(name) for name in needed(task, self._store)}

    def _reference(self, name: str) -> Any:
        if name not in self._references:
            self._references[name] = self._ray.put((self._context.root / name).read_bytes())
        return [self._references[name]]  # in a list, so that Ray does not fetch it before it is asked for


def needed(task: Task, store: Store) -> list[str]:
    """Returns the files of the run folder that a task reads, as relative paths."""
    if isinstance(task, LoadParent):
        return []
    keys = [Key(DENSE, task.key.seed, 0.0)]
    if isinstance(task, MeasureCandidate):
        keys.append(task.key)
    if isinstance(task, ProduceCandidate):
        ratios = sorted(
            float(path.stem)
            for path in store.weights_path(task.key).parent.glob("*.json")
            if _is_number(path.stem)
        )
        keys += [
            Key(task.key.method, task.key.seed, ratio) for ratio in ratios if ratio < task.key.target_ratio
        ]
    paths = [path for key in keys for path in (store.weights_path(key), store.candidate_path(key))]
    return [path.relative_to(store.root).as_posix() for path in paths if path.is_file()]


def perform(task: bytes, message: TaskMessage) -> EventMessage:
    """Does one task on a machine of the cluster."""
    unpickled: Task = pickle.loads(task)  # noqa: S301  # from our own driver
    try:
        runner, before = _runner_of(message.context, message.token)
    except Exception as error:
        reason = f"a machine of the cluster cannot start: {type(error).__name__}: {error}"
        return EventMessage((sendable(RunAborted(UserError(reason))),), {})
    if before is not None:
        _unpack(runner.store.root, message.files)
        before = _seen(runner.store.root)
    _guard(runner, unpickled)
    try:
        with threads(runner.suite.threads):
            events = tuple(sendable(event) for event in all_events(runner.events(unpickled)))
    finally:
        faulthandler.cancel_dump_traceback_later()
    return EventMessage(events, {} if before is None else _written(runner.store.root, before))


@lru_cache(maxsize=1)
def _runner_of(context: bytes, token: str) -> tuple[TaskRunner, dict[str, float] | None]:
    """What a process of Ray keeps from task to task; with a folder of its own where the run's is not seen."""
    opened = unpacked(context)
    if opened.device.startswith("cuda"):
        opened = replace(
            opened, device=devices("cuda")[0]
        )  # Ray shows a process only the cards that it may use
    seen = holder(opened.root)
    if not wait_for_file(opened.root / "run.lock", 5.0) or seen is None or seen.token != token:
        opened = replace(opened, root=Path(tempfile.mkdtemp(prefix="evalsuite-")))
        return TaskRunner(opened), {}
    return TaskRunner(opened), None


def _unpack(root: Path, files: Mapping[str, Any]) -> None:
    ray = _ray()
    for name, (reference,) in files.items():
        if not (root / name).exists():
            write_atomically(root / name, ray.get(reference))


def _seen(root: Path) -> dict[str, float]:
    """Finished files and when they were written."""
    finished = (path for path in root.rglob("*") if path.suffix in (".cell", ".safetensors", ".json"))
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in finished}


def _written(root: Path, before: Mapping[str, float]) -> dict[str, bytes]:
    changed = [name for name, when in _seen(root).items() if before.get(name) != when]
    return {name: (root / name).read_bytes() for name in changed}


def _guard(runner: TaskRunner, task: Task) -> None:
    """Ends this process if the task never comes back: Ray starts it again, and gives it up in the end."""
    resources = runner.suite.resources
    limit = resources.production_limit if isinstance(task, ProduceCandidate) else resources.time_limit
    limit = None if isinstance(task, LoadParent) else limit  # without the parent there is no run
    if limit is not None:
        count = len(task.cells) if isinstance(task, MeasureCandidate) else 1
        faulthandler.dump_traceback_later(2 * limit * count + GRACE, exit=True, file=_nowhere())


def _nowhere() -> Any:
    """A file for a trace that is not read; the process ends after it."""
    return Path(os.devnull).open("w")  # must stay open until then


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"Ray cannot be imported ({error}); install it with pip install 'evalsuite[ray]'"
        ) from error
    return ray
