"""The process of a local worker: ``python -m evalsuite.execution.executors.process <file descriptor> <parent>``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from evalsuite.errors import UserError
from evalsuite.execution.devices import threads
from evalsuite.execution.tasks import Event, RunAborted, RunContext, TaskFinished, WeightsLost
from evalsuite.execution.worker import TaskRunner
from evalsuite.registry import import_file
from evalsuite.runs.provenance import environment_fingerprint

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main(handle: int, parent: int) -> None:
    """Does the tasks that come in until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of whoever sends it to every process there is
    _die_with(parent)
    pipe = Connection(handle)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the run is over
        _work(pipe)


def unpacked(packed: bytes) -> RunContext:
    """Returns an order after importing the plug-ins that it needs.

    Raises:
        UserError: If this process would not compute as the run does, since it has other code.
    """
    wanted, plugins, order = pickle.loads(packed)  # noqa: S301  # from our own parent
    _check_same(wanted)
    for path in plugins:
        import_file(Path(path))
    found: RunContext = pickle.loads(order)  # noqa: S301  # from our own parent
    return found


def _check_same(wanted: Mapping[str, str]) -> None:
    """Checks that versions and code are those of the run, whose digests this process fills with numbers."""
    own = environment_fingerprint() if wanted else {}
    for name, value in wanted.items():
        if own.get(name) == value:
            continue
        found = "" if name == "code" else f" ({own.get(name)}, expected {value})"
        raise UserError(
            f"it has another {name} than the run{found}; install the same everywhere and start the run again"
        )


def _work(pipe: Connection) -> None:
    try:
        order = unpacked(pipe.recv_bytes())
        shop = TaskRunner(order)
    except Exception as error:
        pipe.recv()
        pipe.send(sendable(RunAborted(UserError(f"a worker cannot start: {type(error).__name__}: {error}"))))
        return
    with threads(order.suite.threads):
        while True:
            task = pipe.recv()
            for event in all_events(shop.events(task)):
                pipe.send(sendable(event))


def all_events(events: Iterator[Event]) -> Iterator[Event]:
    """Yields the events of a task up to its last."""
    last: Event | None = None
    for last in events:
        yield last
    if not isinstance(last, WeightsLost | RunAborted):
        yield TaskFinished()


def sendable(event: Event) -> Event:
    """Returns the event, whose error may be of a class that does not survive the way."""
    if not isinstance(event, RunAborted):
        return event
    try:
        pickle.loads(pickle.dumps(event))  # noqa: S301  # our own
    except Exception:
        return RunAborted(RuntimeError(f"{type(event.error).__name__}: {event.error}"))
    return event


def _die_with(parent: int) -> None:
    """Has the system kill this process when its parent dies, so that two runs never write one folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
