"""One task after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator

from evalsuite.execution.executors.base import Executor
from evalsuite.execution.tasks import Event, RunAborted, Task, TaskFinished, WeightsLost
from evalsuite.execution.worker import TaskRunner


class SerialExecutor(Executor):
    """Does tasks here."""

    slots = 1

    def __init__(self, workshop: TaskRunner) -> None:
        self._workshop = workshop
        self._task: Task | None = None
        self._events: Iterator[Event] = iter(())

    def submit(self, task: Task) -> None:
        """Begins with a task; nothing is computed before somebody asks for its events."""
        self._task, self._events = task, self._workshop.events(task)

    def event(self, timeout: float) -> tuple[Task, Event] | None:  # noqa: ARG002  # it computes until it knows
        """Computes until something happens."""
        if self._task is None:
            return None
        task, event = self._task, next(self._events, TaskFinished())
        if isinstance(event, TaskFinished | WeightsLost | RunAborted):
            self._task = None
        return task, event

    def close(self) -> None:
        """Has nothing to end."""
