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
    """Is one process and the task that it does."""

    def __init__(self, order: RunContext) -> None:
        self.order = order
        self.task: Task | None = None
        self.chain: tuple[str, int] | None = None
        self.deadline = float("inf")
        content = packed(order)
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-P", "-m", WORKER, str(theirs.fileno()), str(os.getpid())],  # not from here
                env=_environment(order.suite.threads),
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
        self._allow(
            self.order.suite.resources.production_limit if isinstance(task, ProduceCandidate) else None
        )
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def event(self) -> Event:
        """Returns what the worker said."""
        try:
            event: Event = self.pipe.recv()
        except (EOFError, OSError):
            return WorkerDied(_ending(self.process.wait()))
        if isinstance(event, CellStarted):
            self._allow(self.order.suite.resources.time_limit)
        return event

    def kill(self) -> None:
        """Ends the process at once."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()

    def _allow(self, seconds: float | None) -> None:
        """Sets when to kill it: both tries of a cell may take their time, and some more to stop by themselves."""
        self.deadline = float("inf") if seconds is None else time.monotonic() + 2 * seconds + GRACE


class LocalExecutor(Executor):
    """Has tasks done by processes that live as long as the run; one that dies is replaced.

    Args:
        orders: One for each worker, with its device.
    """

    def __init__(self, orders: Sequence[RunContext]) -> None:
        self._orders = list(orders)
        self._workers: list[WorkerProcess] = []

    @property
    def slots(self) -> int:
        """One task for each worker."""
        return len(self._orders)

    def submit(self, task: Task) -> None:
        """Gives a task to an idle worker: one whose producer is at this chain, or any, or a new one."""
        idle = [worker for worker in self._workers if worker.task is None]
        near = [
            worker for worker in idle if isinstance(task, ProduceCandidate) and worker.chain == task.chain
        ]
        chosen = next(iter(near or idle), None)
        if chosen is None:
            used = [worker.order for worker in self._workers]
            chosen = WorkerProcess(
                next(order for order in self._orders if not any(order is one for one in used))
            )
            self._workers.append(chosen)
        chosen.submit(task)

    def event(self, timeout: float) -> tuple[Task, Event] | None:
        """Waits for what any worker says, and kills those that are over their limit."""
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
        worker = busy[ready[0]]  # type: ignore[index]  # only what we wait for
        return self._ended(worker, worker.event())

    def close(self) -> None:
        """Kills the workers: what is on disk is whole, and nothing else is of use."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _ended(self, worker: WorkerProcess, event: Event) -> tuple[Task, Event]:
        task = worker.task
        if task is None:
            raise RuntimeError("an idle worker spoke")
        if isinstance(event, TaskFinished | WeightsLost | RunAborted):
            worker.task, worker.deadline = None, float("inf")
        if isinstance(event, WorkerDied):
            worker.kill()
            self._workers.remove(worker)
        return task, event


def _environment(threads: int) -> dict[str, str]:
    """That of a worker: it imports what we import, and its libraries start no more threads than the suite says."""
    package = str(Path(__file__).resolve().parents[3])
    found = [os.path.realpath(path) for path in sys.path if path]
    path = found if package in found else [package, *found]  # from where we are, if that is where it is
    return {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": os.pathsep.join(path)}


def packed(order: RunContext) -> bytes:
    """Returns an order that another process can open: what it must be, the files of its plug-ins, then itself.

    Raises:
        UserError: If the suite holds what cannot be sent.
    """
    suite = order.suite
    try:
        plugins = [suite.source.parent / name for name in suite.plugins]
        return pickle.dumps((dict(order.identity), plugins, pickle.dumps(order)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"the suite cannot be sent to another process ({error}); define its plug-ins in a file that "
            "the suite names in its key plugins, or use --executor serial"
        ) from error


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    why = "; the system kills what takes too much memory" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{why}"
