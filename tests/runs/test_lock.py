"""The lock of a run folder: one process at a time, dead holders replaced, and no belief in clocks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from evalsuite.errors import StoreError
from evalsuite.runs import lock
from evalsuite.runs.lock import alive, holder, locked, this_process

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from evalsuite.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)


def written(root: Path, other: lock.Holder) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.lock").write_text(json.dumps(asdict(other)))


def test_the_lock_is_there_inside_the_block_only(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "run"
    with locked(root) as own:
        found = holder(root)
        assert found == own.holder
        assert found is not None
        assert found.pid == os.getpid()
        assert alive(root, found)
        own.check()
    assert list(root.iterdir()) == []


def test_a_second_process_is_told_who_has_it_until_that_one_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with (
        pytest.raises(StoreError, match=rf"process {process.pid} on .* works in .*; wait until it has ended"),
        locked(tmp_path),
    ):
        pass
    process.kill()
    process.communicate()
    assert holder(tmp_path) is not None
    with locked(tmp_path) as own:
        assert holder(tmp_path) == own.holder


def test_a_process_with_the_number_of_a_dead_one_is_not_the_holder(tmp_path: Path) -> None:
    written(tmp_path, replace(this_process(), born="1"))
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": 1}'])
def test_a_lock_that_says_nothing_is_nobodys(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text(content)
    with locked(tmp_path):
        pass


def test_another_machine_is_alive_as_long_as_it_touches_the_lock(tmp_path: Path) -> None:
    other = replace(this_process(), host="far", place="elsewhere", pid=1)
    written(tmp_path, other)
    with pytest.raises(StoreError, match="process 1 on far works in"), locked(tmp_path):
        pass
    old = time.time() - 2 * lock.SILENCE
    os.utime(tmp_path / "run.lock", (old, old))
    assert not alive(tmp_path, other)
    with locked(tmp_path):
        pass


def test_an_old_date_is_no_death_if_the_lock_is_touched_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the file server may have jumped: then the next sign of life counts."""
    other = replace(this_process(), host="far", place="elsewhere")
    written(tmp_path, other)
    path = tmp_path / "run.lock"
    os.utime(path, (1, 1))
    monkeypatch.setattr(time, "sleep", lambda _: os.utime(path, (2, 2)))
    with pytest.raises(StoreError, match="on far works in"), locked(tmp_path):
        pass


def test_the_holder_gives_signs_of_life(tmp_path: Path) -> None:
    with locked(tmp_path):
        os.utime(tmp_path / "run.lock", (1, 1))
        until = time.monotonic() + 10
        while (tmp_path / "run.lock").stat().st_mtime < 100 and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / "run.lock").stat().st_mtime > 100


def test_a_lock_that_somebody_took_is_noticed_and_left_alone(tmp_path: Path) -> None:
    other = replace(this_process(), host="far")
    with locked(tmp_path) as own:
        written(tmp_path, other)
        with pytest.raises(StoreError, match=r"was taken over by process .* on far while this process slept"):
            own.check()
    assert holder(tmp_path) == other


@pytest.mark.parametrize("recreated", [False, True])
def test_a_run_folder_that_was_removed_is_said(recreated: bool, tmp_path: Path) -> None:
    root = tmp_path / "run"
    with locked(root) as own:
        shutil.rmtree(root)
        if recreated:
            root.mkdir()  # by the next cell that was written
        with pytest.raises(StoreError, match=r"run\.lock is gone: the run folder, or its lock, was removed"):
            own.check()
    assert root.exists() == recreated


def test_two_takers_do_not_both_take(tmp_path: Path) -> None:
    written(tmp_path, replace(this_process(), born="1"))
    with (
        lock._alone(tmp_path / "run.lock.takeover"),
        pytest.raises(StoreError, match=r"just taking .* over"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(StoreError, match=r"run\.lock cannot be written: .*Read-only file system"),
        locked(tmp_path),
    ):
        pass
