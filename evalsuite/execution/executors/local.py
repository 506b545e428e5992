"""Processes on this machine: each does one task at a time with its own copy of what is loaded."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from evalsuite.errors import UserError
from evalsuite.execution.executors.base import Executor
from evalsuite.execution.limits import GRACE
from evalsuite.execution.tasks import (
    CellStarted,
    Event,
    ProduceCandidate,
    RunAborted,
    RunContext,
    Task,
    TaskFinished,
    WeightsLost,
    WorkerDied,
)

WORKER = "evalsuite.execution.executors.process"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerProcess:
    """A worker process and the task that it does."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.task: Task | None = None
        self.chain: tuple[str, int] | None = None
        self.deadline = float("inf")
        content = packed(context)
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-P", "-m", WORKER, str(theirs.fileno()), str(os.getpid())],  # not from here
                env=_environment(context.suite.threads),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                process_group=0,  # an interrupt from the terminal is for the run, which ends its workers
            )
        self.pipe = Connection(ours.detach())
        with contextlib.suppress(OSError):  # a worker that is gone is noticed when it is asked for events
            self.pipe.send_bytes(content)

    def submit(self, task: Task) -> None:
        """Sends a task; a worker that is gone is noticed when it is asked for events."""
        self.task = task
        self.chain = task.chain if isinstance(task, ProduceCandidate) else self.chain
        self._set_deadline(
            self.context.suite.resources.production_limit if isinstance(task, ProduceCandidate) else None
        )
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def event(self) -> Event:
        """Returns the next event of the worker."""
        try:
            event: Event = self.pipe.recv()
        except (EOFError, OSError):
            return WorkerDied(_ending(self.process.wait()))
        if isinstance(event, CellStarted):
            self._set_deadline(self.context.suite.resources.time_limit)
        return event

    def kill(self) -> None:
        """Ends the process at once, with what it may have started."""
        self.pipe.close()
        self.signal_end()
        self.process.wait()

    def signal_end(self) -> None:
        """Has the system end the process and its group, without waiting until it has."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _set_deadline(self, seconds: float | None) -> None:
        """Sets when to kill it: both tries of a cell may take the limit, and a grace period to stop by themselves."""
        self.deadline = float("inf") if seconds is None else time.monotonic() + 2 * seconds + GRACE


class LocalExecutor(Executor):
    """Has tasks done by processes that live as long as the run; one that dies is replaced.

    Args:
        contexts: One for each worker, with its device.
    """

    def __init__(self, contexts: Sequence[RunContext]) -> None:
        self._contexts = list(contexts)
        self._workers: list[WorkerProcess] = []

    @property
    def slots(self) -> int:
        """One task for each worker."""
        return len(self._contexts)

    def submit(self, task: Task) -> None:
        """Gives a task to an idle worker: one whose producer is at this chain, or any, or a new one.

        The first task starts all workers: those without one import what they need meanwhile, which takes seconds.
        """
        self._workers = self._workers or [WorkerProcess(context) for context in self._contexts]
        idle = [worker for worker in self._workers if worker.task is None]
        near = [
            worker for worker in idle if isinstance(task, ProduceCandidate) and worker.chain == task.chain
        ]
        chosen = next(iter(near or idle), None)
        if chosen is None:
            used = [worker.context for worker in self._workers]
            chosen = WorkerProcess(
                next(context for context in self._contexts if not any(context is taken for taken in used))
            )
            self._workers.append(chosen)
        chosen.submit(task)

    def event(self, timeout: float) -> tuple[Task, Event] | None:
        """Waits for an event of any worker, and kills those that are over their limit."""
        busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        now = time.monotonic()
        for worker in busy.values():
            if now > worker.deadline:
                return self._ended(
                    worker, WorkerDied("it did not come back within its time limit, and was killed")
                )
        soonest = min((worker.deadline for worker in busy.values()), default=float("inf"))
        ready = wait(list(busy), min(timeout, max(0.0, soonest - now) + 0.01))
        if not ready:
            return None
        worker = busy[ready[0]]  # type: ignore[index]  # only pipes are waited for
        return self._ended(worker, worker.event())

    def close(self) -> None:
        """Kills the workers: files on disk are complete, and nothing else is of use."""
        for worker in self._workers:
            worker.signal_end()
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _ended(self, worker: WorkerProcess, event: Event) -> tuple[Task, Event]:
        task = worker.task
        if task is None:
            raise RuntimeError("an idle worker sent an event")
        if isinstance(event, TaskFinished | WeightsLost | RunAborted):
            worker.task, worker.deadline = None, float("inf")
        if isinstance(event, WorkerDied):
            worker.kill()
            self._workers.remove(worker)
        return task, event


def _environment(threads: int) -> dict[str, str]:
    """The environment of a worker: the import path of this process, and no more threads than the suite has."""
    package = str(Path(__file__).resolve().parents[3])
    places = [os.path.realpath(path) for path in sys.path if path]
    path = places if package in places else [package, *places]
    return {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": os.pathsep.join(path)}


def packed(context: RunContext) -> bytes:
    """Returns a context for another process: its fingerprint, the files of its plug-ins, then the context itself.

    Raises:
        UserError: If the suite holds an object that cannot be sent.
    """
    suite = context.suite
    try:
        plugins = [suite.source.parent / name for name in suite.plugins]
        return pickle.dumps((dict(context.fingerprint), plugins, pickle.dumps(context)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"the suite cannot be sent to another process ({error}); define its plug-ins in a file that "
            "the suite names in its key plugins, or use --executor serial"
        ) from error


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    why = "; the system kills processes that take too much memory" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{why}"
