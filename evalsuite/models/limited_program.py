"""Programs of evalsuite that look at untrusted files in a process of their own, with limits of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def answer_of(
    program: str | None, question: Mapping[str, Any], *, seconds: float, options: tuple[str, ...] = ()
) -> bytes | None:
    """Returns what a program answers to a question, or ``None`` if it ended at one of its limits.

    Args:
        program: Its file, which the running interpreter runs, isolated from the environment and the user's folders.
        question: It reads this as JSON from its standard input.
        seconds: Of the clock after which it is ended; its limits of memory and computing time are its own.
        options: Further options of the interpreter.
    """
    try:
        done = subprocess.run(  # noqa: S603  # this package's own file, by the running interpreter
            [sys.executable, "-I", *options, str(program)],
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else done.stdout


class LimitedServer:
    """A program of evalsuite that answers one question after another, each in a process with limits of its own.

    It starts with the first question; where it has ended for want of questions, the next one starts it again.

    Args:
        program: Its file, which the running interpreter runs, isolated from the environment and the user's folders.
        module: Where the function is that answers a question.
        function: Its name.
    """

    def __init__(self, program: str, module: str, function: str) -> None:
        self._program = program
        self._target = {"module": module, "function": function}
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a copy of this process must not talk in between
        self._lock = threading.Lock()

    def accepts(self, question: Mapping[str, Any]) -> bool:
        """Returns whether the process that a question is asked of ends well."""
        with self._lock:
            answer = self._ask(question) if self._owner == os.getpid() else b""
            if not answer:  # it had ended
                self._start()
                answer = self._ask(question)
        return answer == b"ok\n"

    def _ask(self, question: Mapping[str, Any]) -> bytes:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return b""
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        return process.stdout.readline()

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        for pipe in filter(None, (process.stdin, process.stdout)):
            with suppress(OSError):  # the process has ended, and what was left to say with it
                pipe.close()
        if self._owner == os.getpid():
            process.kill()
            process.wait()

    def _start(self) -> None:
        self._stop()
        self._owner = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603  # this package's own file, by the running interpreter
            [sys.executable, "-I", self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self._process.stdin is not None:
            start = {"search": sys.path, **self._target}
            self._process.stdin.write(json.dumps(start).encode() + b"\n")
