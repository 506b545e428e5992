"""How a command ends when something outside it fails: signals, readers that leave, devices that are full."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from evalsuite.errors import UserError, printable

FAILED, WRONG, CRASHED, INTERRUPTED = 1, 2, 70, 130
"""Exit codes: a cell or a check failed; the user's mistake; a fault of a program (as in sysexits.h); Ctrl-C."""
CLOSED_PIPE = 128 + 13
"""Exit code when the reader of the output is gone (``| head -1``): that of a program that SIGPIPE ends."""
ENDING = ("SIGTERM", "SIGHUP")
"""Signals by which schedulers and closing terminals end a job."""


class EndedBySignalError(KeyboardInterrupt):
    """A signal that ends the process, raised where Ctrl-C would be."""


class Received:
    """Which signal ended the process.

    Attributes:
        number: Of the signal; that of Ctrl-C where there was none.
    """

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """The code by which shells tell which signal it was: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


@contextmanager
def signals_as_interrupts() -> Iterator[Received]:
    """Inside the block the first SIGTERM or SIGHUP is an interrupt; further ones do not disturb the cleaning up.

    Signals that are ignored (``nohup``) or handled elsewhere stay as they are.
    """
    received = Received()
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        received.number = number
        for other in ours:
            signal.signal(other, signal.SIG_IGN)
        raise EndedBySignalError(signal.Signals(number).name)

    here = threading.current_thread() is threading.main_thread()  # only there Python handles signals
    ours = [number for number in numbers if here and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


class PlainConsole(Console):
    """A console on which names from files do nothing but stand there."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a text, or a cell of a table, with control characters as escapes."""
        return super().render_str(printable(text), **options)


class PlainMessages(logging.Formatter):
    """Log messages in which names from files do nothing but stand there."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the message with control characters as escapes."""
        return printable(super().format(record))


class OutputError(UserError):
    """Standard output that cannot be written."""

    def __init__(self, error: OSError) -> None:
        reason = error.strerror or error
        super().__init__(
            f"standard output cannot be written: {reason}; make room, or send it to another file"
        )


class OutputConsole(PlainConsole):
    """The console of results: without a reader the command ends."""

    def on_broken_pipe(self) -> None:
        """Ends the command without a word."""
        discard_output()
        raise SystemExit(CLOSED_PIPE)

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints.

        Raises:
            OutputError: If it cannot: the device is full.
        """
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputError(error) from error


class SideConsole(PlainConsole):
    """The console of progress and warnings: without a reader the command goes on."""

    def on_broken_pipe(self) -> None:
        """Prints nothing more."""
        self.quiet = True

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints, if it can."""
        with suppress(OSError):  # a log on a full disk does not end a run
            super().print(*objects, **options)


def open_standard_streams() -> None:
    """Opens those standard streams on nothing that the caller has closed: else the next file would be one of them."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  # for the whole process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


def output_failure() -> OSError | None:
    """Returns why what was printed cannot be written; ``None`` if it has been."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def discard_output() -> None:
    """Sends what is left to print to nowhere: Python would complain about it at its end."""
    with suppress(OSError, ValueError):  # an output that is no file of the system
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
