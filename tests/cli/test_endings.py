"""How commands end when something outside them fails: readers leave, devices are full, streams are closed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table
from safetensors.torch import save_file

from evalsuite.cli import console
from evalsuite.cli.endings import PlainMessages

ROOT = Path(__file__).parents[2]


def ended(words: list[str], *, script: str) -> subprocess.CompletedProcess[str]:
    """A command in a script, which redirects its streams."""
    command = " ".join([sys.executable, "-m", "evalsuite", *words])
    return subprocess.run(
        ["/bin/bash", "-c", script.replace("COMMAND", command)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("words", [["sample-size"], ["--help"]], ids=" ".join)
def test_a_reader_that_is_gone_ends_the_command_quietly(words: list[str]) -> None:
    script = "set -o pipefail; (sleep 0.1; exec COMMAND) | true"
    ending = ended(words, script=script)
    assert (ending.returncode, ending.stdout, ending.stderr) == (141, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_device_is_one_sentence_and_full_logs_change_nothing() -> None:
    ending = ended(["sample-size"], script="COMMAND > /dev/full")
    assert ending.returncode == 2
    assert ending.stderr.splitlines() == [
        "evalsuite: standard output cannot be written: No space left on device; make room, or send it to another file"
    ]
    ending = ended(["list", "nothing"], script="COMMAND 2> /dev/full")
    assert (ending.returncode, ending.stdout, ending.stderr) == (2, "", "")


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(streams: str) -> None:
    ending = ended(["sample-size"], script=f"COMMAND {streams}")
    assert (ending.returncode, ending.stderr) == (0, "")


ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def test_names_in_files_are_no_commands_to_the_terminal(command: Any, tmp_path: Path) -> None:
    path = tmp_path / f"{ESCAPE}.safetensors"
    save_file({f"{ESCAPE}.weight": torch.ones(4, 4)}, path)
    code, out, err = command("inspect", path)
    assert (code, err) == (0, "")
    assert f"{SHOWN}.weight" in out.replace("\n", "") or SHOWN in out
    assert "\x1b" not in out
    files = ("--parent", tmp_path / f"{ESCAPE}.pt", "--candidate", path)
    code, out, err = command("check", "--data", "digits", *files)
    assert (code, out) == (2, "")
    assert SHOWN in err
    assert "\x1b" not in err


def test_messages_and_progress_are_plain_too(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_warning(ESCAPE)
    console.out.print(Table(ESCAPE), markup=False)
    record = logging.LogRecord("evalsuite", logging.WARNING, "", 0, "note: %s", (ESCAPE,), None)
    assert PlainMessages().format(record) == f"note: {SHOWN}"
    printed = "".join(capsys.readouterr())
    assert SHOWN in printed
    assert "\x1b" not in printed
