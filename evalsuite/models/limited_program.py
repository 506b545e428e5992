"""Programs of evalsuite that look at untrusted files in a process of their own, with limits of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
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
