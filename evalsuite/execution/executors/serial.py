"""One task after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator

from evalsuite.execution.executors.base import Executor
from evalsuite.execution.tasks import Event, RunAborted, Task, TaskFinished, WeightsLost
from evalsuite.execution.worker import TaskRunner


class SerialExecutor(Executor):
    """Does tasks in this process."""

    slots = 1

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner
        self._task: Task | None = None
        self._events: Iterator[Event] = iter(())

    def submit(self, task: Task) -> None:
        """Starts a task; nothing is computed before its events are asked for."""
        self._task, self._events = task, self._runner.events(task)

    def event(self, timeout: float) -> tuple[Task, Event] | None:  # noqa: ARG002  # it computes until it knows
        """Computes until the next event."""
        if self._task is None:
            return None
        task, event = self._task, next(self._events, TaskFinished())
        if isinstance(event, TaskFinished | WeightsLost | RunAborted):
            self._task = None
        return task, event

    def close(self) -> None:
        """Has nothing to end."""
