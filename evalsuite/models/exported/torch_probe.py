"""First runs of programs of torch, in processes with limits: a graph may loop for ever or fill the memory.

``python -I torch_probe.py`` imports torch, which takes seconds, and then reads a question (JSON) in each line of its
input. It is asked of a copy of the process, with limits of its own from before the file is opened; a line answers
whether the copy ended well. The process ends with its input, or after `IDLE_SECONDS` without a question.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IDLE_SECONDS = 60
"""Of the clock, after which a process without a question frees its memory."""
CLOCK = 4
"""Seconds of the clock for each of computing, after which a copy is ended."""


def limits(size: int) -> dict[str, int]:
    """Returns the limits for a file of `size` bytes: bytes of memory, and seconds of computing, beside torch's own.

    >>> limits(0)
    {'memory': 4294967296, 'seconds': 60}
    """
    return {"memory": 2**32 + 8 * size, "seconds": 60 + size // 2**22}


def limit(memory: int, seconds: int) -> None:
    """Limits what this process may take from here on."""
    import resource
    import signal

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    mapped = pages * resource.getpagesize()  # libraries of torch are gigabytes of addresses
    for kind, value in ((resource.RLIMIT_AS, mapped + memory), (resource.RLIMIT_CPU, seconds)):
        highest = resource.getrlimit(kind)[1]
        if highest == resource.RLIM_INFINITY or value < highest:
            resource.setrlimit(kind, (value, highest))
    signal.alarm(CLOCK * seconds)


def ends_well(question: dict[str, Any]) -> bool:
    """Runs the program of a question in a copy of this process, and returns whether it kept within its limits."""
    from evalsuite.models.exported.loading import run_first

    copy = os.fork()
    if copy:
        return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 0
    try:
        limit(question["memory"], question["seconds"])
        run_first(Path(question["path"]), question["kind"], question["shape"])
    except (
        BaseException
    ) as error:  # other failures are met again, without limits, and have their sentence there
        text = str(error).lower()
        os._exit(isinstance(error, MemoryError) or "alloc" in text or "memory" in text)
    os._exit(0)


def main() -> None:
    """Answers questions until there are no more."""
    sys.path[:] = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[attr-defined]  # unbuffered: see `select`
    import torch

    from evalsuite.models.exported import loading  # noqa: F401  # once, and not in each copy

    with contextlib.suppress(ImportError):
        import torch._export.serde.serialize  # what loading a .pt2 imports, seconds as well
    torch.set_num_threads(1)  # copies have no other threads
    answers = os.dup(1)
    os.dup2(2, 1)  # what programs print is no answer
    while select.select([0], [], [], IDLE_SECONDS)[0] and (
        line := sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]  # as above
    ):
        os.write(answers, b"ok\n" if ends_well(json.loads(line)) else b"no\n")


if __name__ == "__main__":
    main()
