"""The contract of an executor."""

from __future__ import annotations

from abc import ABC, abstractmethod

from evalsuite.execution.tasks import Event, Task


class Executor(ABC):
    """Has tasks done, and reports their events in the order in which they happen."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many tasks it takes at once."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Takes a task; no more than `slots` are under way at once."""

    @abstractmethod
    def event(self, timeout: float) -> tuple[Task, Event] | None:
        """Returns the next event and the task that it is about; ``None`` if there is none within `timeout` seconds.

        The last event of a task is `TaskFinished`, `WorkerDied`, `WeightsLost` or `RunAborted`.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends all tasks that are under way; files on disk stay."""
