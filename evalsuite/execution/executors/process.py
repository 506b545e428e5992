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
from evalsuite.registry import import_plugin_file
from evalsuite.runs.provenance import environment_fingerprint

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main(handle: int, parent: int) -> None:
    """Does the tasks that come in until there are no more."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # schedulers send them to every process of a job
        signal.signal(number, signal.SIG_IGN)  # the run ends its workers
    _die_with(parent)
    pipe = Connection(handle)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the run is over
        _work(pipe)


def unpacked(packed: bytes) -> RunContext:
    """Returns a context after importing the plug-ins that it needs.

    Raises:
        UserError: If this process has other code or versions than the run.
    """
    fingerprint, plugins, content = pickle.loads(packed)  # noqa: S301  # from our own parent
    _check_same(fingerprint)
    for path in plugins:
        import_plugin_file(Path(path))
    context: RunContext = pickle.loads(content)  # noqa: S301  # from our own parent
    return context


def _check_same(expected: Mapping[str, str]) -> None:
    """Checks that versions and code are those of the run."""
    fingerprint = environment_fingerprint() if expected else {}
    for name, value in expected.items():
        if fingerprint.get(name) == value:
            continue
        versions = "" if name == "code" else f" ({fingerprint.get(name)}, expected {value})"
        raise UserError(
            f"it has another {name} than the run{versions}; install the same everywhere and start the run again"
        )


def _work(pipe: Connection) -> None:
    try:
        context = unpacked(pipe.recv_bytes())
        runner = TaskRunner(context)
    except Exception as error:
        pipe.recv()
        pipe.send(sendable(RunAborted(UserError(f"a worker cannot start: {type(error).__name__}: {error}"))))
        return
    with threads(context.suite.threads):
        while True:
            task = pipe.recv()
            for event in all_events(runner.events(task)):
                pipe.send(sendable(event))


def all_events(events: Iterator[Event]) -> Iterator[Event]:
    """Yields the events of a task up to its last."""
    last: Event | None = None
    for last in events:
        yield last
    if not isinstance(last, WeightsLost | RunAborted):
        yield TaskFinished()


def sendable(event: Event) -> Event:
    """Returns the event with an error that can be pickled."""
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
