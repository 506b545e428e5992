"""Limits of time and memory: exceeding them is an error of its own kind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from evalsuite.errors import CellError

GRACE = 10.0
"""Seconds after a limit in which a computation may stop by itself before its worker is killed."""


class TimeLimitError(CellError):
    """A computation took longer than its limit."""


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Interrupts the block after `seconds`; ``None`` is no limit.

    An alarm of the system does it: the block ends when the interpreter next runs, so a single call that never
    returns is not ended. Outside the main thread there is no alarm, and no limit. The clock is that of the
    system's timers, which no change of the date moves.

    Raises:
        TimeLimitError: If the block took longer.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expired(_: int, __: FrameType | None) -> None:
        raise TimeLimitError(
            f"it took longer than its limit of {seconds:g} s; raise the limit or make it smaller"
        )

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether `error` is that of Python, torch or a graphics card out of memory.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("memory"))
    (True, False)
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
