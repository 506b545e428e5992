"""Files are complete or absent after errors, interrupts and kills."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evalsuite.atomic_files import (
    HOUR,
    atomic_path,
    remove_leftovers,
    set_aside,
    wait_for_file,
    write_atomically,
)
from evalsuite.errors import StoreError
from evalsuite.runs.lock import locked

ROOT = Path(__file__).parents[1]
Write = Callable[[Path, bytes], None]


def _write_data(path: Path, data: bytes) -> None:
    write_atomically(path, data)


def _write_pieces(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for byte in data:
            file.write(bytes([byte]))


@pytest.fixture(params=[_write_data, _write_pieces], ids=["data", "pieces"])
def write(request: pytest.FixtureRequest) -> Write:
    """Each way to write a file."""
    write: Write = request.param
    return write


def test_a_file_is_replaced_and_readable_by_all(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x"
    for data in (b"old", b"new", b""):
        write(path, data)
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o644
        assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stays_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".x.npy.")  # hidden, and no glob for *.npy lists it
        assert temporary.suffix != ".npy"
        with temporary.open("wb") as file:
            np.save(file, np.arange(3))
        assert path.read_bytes() == b"old"
    assert np.load(path).tolist() == [0, 1, 2]


def test_file_name_and_folder_reach_the_disk_in_order(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        calls.append("folder" if Path(f"/proc/self/fd/{handle}").readlink() == tmp_path else "file")
        sync(handle)

    def rename(source: Path, target: Path) -> Path:
        calls.append("rename")
        assert source.read_bytes() == b"data"
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    write(path, b"data")
    assert calls == ["file", "rename", "folder"]


def test_a_file_that_need_not_be_durable_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("fsync"))
    with atomic_path(tmp_path / "x", durable=False) as temporary:
        temporary.write_bytes(b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_block_passes_through_and_leaves_the_old_file(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_error_of_the_disk_leaves_the_old_file(
    error: BaseException, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = tmp_path / "x"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    expected = StoreError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_full_disk_in_the_block_is_a_store_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"x cannot be written: .*No space left.*--out"),
        atomic_path(tmp_path / "x"),
    ):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_store_error(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"x\.json cannot be written: .*--out"):
        write(tmp_path / "file" / "x.json", b"")


KILLED = """
import os, signal, sys
from pathlib import Path
from evalsuite.atomic_files import atomic_path
moment, path = sys.argv[1], Path(sys.argv[2])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if moment != "block":
    setattr(*{"sync": (os, "fsync"), "rename": (Path, "replace")}[moment], die)
with atomic_path(path) as temporary:
    temporary.write_bytes(b"new")
    if moment == "block":
        die()
"""


@pytest.mark.parametrize("moment", ["block", "sync", "rename"])
def test_a_kill_leaves_the_old_file_and_a_leftover_that_is_removed_later(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, moment, str(path)], env=environment, check=False)
    assert killed.returncode == -9
    assert path.read_bytes() == b"old"
    (leftover,) = set(tmp_path.iterdir()) - {path}
    remove_leftovers(tmp_path)
    assert leftover.exists()  # its writer may be at work
    before = time.time() - HOUR - 1
    os.utime(leftover, (before, before))
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        (".run.json.abcd12_9", True),
        (".model.safetensors.4711.tmp", True),
        (".index.html.4711", True),
        (".gitignore", False),
        (".run.json", False),
        ("run.json.abcd1234", False),
    ],
)
def test_only_temporary_names_are_removed(name: str, removed: bool, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "cells"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("")
        os.utime(folder / name, (0, 0))
    remove_leftovers(tmp_path)
    assert (tmp_path / name).exists() is not removed
    assert (tmp_path / "cells" / name).exists() is not removed


def test_a_leftover_from_the_future_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".x.abcd1234"
    leftover.write_text("")
    later = time.time() + 2 * HOUR
    os.utime(leftover, (later, later))
    remove_leftovers(tmp_path)
    assert not leftover.exists()


def test_damaged_files_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for number in (1, 2):
        path.write_text(str(number))
        aside = set_aside(path)
        assert aside.name == f"x.damaged-{number}"
        assert aside.read_text() == str(number)
        assert not path.exists()


def test_a_damaged_file_may_be_set_aside_by_another_process(tmp_path: Path) -> None:
    assert not set_aside(tmp_path / "x").exists()


def test_a_damaged_file_that_cannot_be_renamed_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StoreError, match=r"x cannot be written: .*Permission denied"):
        set_aside(tmp_path / "x")


def test_waiting_ends_when_the_file_appears_or_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert not wait_for_file(path, 0.0)
    assert not wait_for_file(path, 0.1)
    timer = threading.Timer(0.2, path.touch)
    timer.start()
    assert wait_for_file(path, 30.0)
    timer.join()
    assert wait_for_file(path, 0.0)


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_who_may_read_a_result_is_for_the_umask_to_say(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "result", b"1")
        with locked(tmp_path / "run"):
            assert (tmp_path / "run" / "run.lock").stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert (tmp_path / "result").stat().st_mode & 0o777 == mode
