"""``cache``: what is kept, where, how much of it; and a folder that is empty afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evalsuite.cli import main as cli
from evalsuite.execution.parent_cache import CacheSettings, ParentCache

Command = Callable[..., int]


@pytest.fixture(name="command")
def _command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls ``cache`` beside a folder with two entries of outputs and one of pictures, and returns its exit code."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path))
    monkeypatch.setenv("EVALSUITE_OUTPUTS_GB", "2")
    for name in ("a", "b"):
        cache = ParentCache(None, CacheSettings(tmp_path / "outputs", 1e9, "here"))
        cache.arrays(name, lambda: ({"logits": np.zeros(1000)}, True))
    (tmp_path / "c.pixels").write_bytes(b"1234")
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "vega-1.js").write_text("a script that reports share")

    def code(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["evalsuite", "cache", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return code


def test_it_shows_path_size_and_entries(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--json") == 0
    pictures, outputs = json.loads(capsys.readouterr().out)
    assert (pictures["entries"], pictures["bytes"], pictures["most"]) == (1, 6, 64e9)
    assert (outputs["entries"], outputs["most"]) == (2, 2e9)
    assert 16_000 < outputs["bytes"] < 18_000
    assert outputs["path"] == str(tmp_path / "outputs")
    assert command("outputs") == 0
    text = capsys.readouterr().out
    assert "EVALSUITE_OUTPUTS_GB" in text
    assert "decoded pictures" not in text
    assert str(tmp_path / "outputs") in text.replace("\n", "")


def test_it_clears_one_kind_or_all(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("outputs", "--clear") == 0
    assert not list((tmp_path / "outputs").iterdir())
    assert (tmp_path / "c.pixels").exists()
    assert command("--clear") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "vega-1.js"}
    capsys.readouterr()
    assert command("--json") == 0
    assert [row["entries"] for row in json.loads(capsys.readouterr().out)] == [0, 0]


def test_a_kind_that_there_is_not_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("output") == 2
    assert "unknown kind 'output': did you mean 'outputs'?" in capsys.readouterr().err
