"""A server of questions that ends between two of them."""

from __future__ import annotations

import gc
from pathlib import Path

from evalsuite.models.limited_program import LimitedServer

ONE_ANSWER = """
import sys
sys.stdin.readline()  # where modules are
sys.stdin.readline()
print("ok", flush=True)
"""


def test_a_server_that_has_ended_starts_again_and_leaves_no_pipe_open(tmp_path: Path) -> None:
    """An open pipe is a ResourceWarning, which is an error here."""
    program = tmp_path / "server.py"
    program.write_text(ONE_ANSWER)
    server = LimitedServer(str(program), "json", "loads")
    for _ in range(3):
        assert server.accepts({"path": "a"})
        process = server._process
        assert process is not None
        process.wait()
        del process
        gc.collect()
    server._stop()
