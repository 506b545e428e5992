"""Death at every moment: hundreds of kills inside file operations, real ones, and a disk that fills up."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest

from evalsuite.errors import StoreError
from evalsuite.execution import scheduler as runner

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
KILLS = 200
MOUNT, UMOUNT = which("mount") or "mount", which("umount") or "umount"


DEATH = """
import json, os, random, sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from evalsuite.execution import scheduler as runner, worker
from evalsuite.runs import provenance
from evalsuite.datasets.digits import Digits

versions = provenance.versions()
provenance.versions = lambda: versions  # the same for hundreds of runs
provenance.git_revision = lambda folder: ""  # another process for each
suite, out, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
draws = random.Random(7)
IMAGES, LAST = 64, 46  # a whole run has 86 file operations; a killed one with nothing left to do, 23
WRITING = os.O_WRONLY | os.O_RDWR
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime")
left, pipe, root = -1, -1, ""

def here(event, arguments):
    path = arguments[0]
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(root):
        return False
    return event in EVENTS or (event == "open" and arguments[2] & WRITING)

def count(event):
    global left
    left -= 1
    if left == 0:
        os.write(pipe, event.encode())
        os._exit(137)

def watch(event, arguments):
    if left > 0 and (event == "open" or event in EVENTS) and here(event, arguments):
        count(event)

sync = os.fsync
def fsync(handle):
    if left > 0:
        count("fsync")
    sync(handle)
os.fsync = fsync
sys.addaudithook(watch)

def contents(path):
    files = [*path.rglob("*.cell"), *path.rglob("candidates/*/*/*.*")]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if not file.name.startswith(".")}

def attempt(path, after):
    'Runs in a child that dies in its file operation number `after`; returns which that was, or "".'
    global left, pipe, root
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        left, pipe, root = after, writing, str(path)
        try:
            runner.run(suite, out=path)
        except BaseException as error:
            os.write(writing, f"failed: {error!r}".encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.read(reading, 1000).decode()
    os.close(reading)
    return said

def same(load):
    'The same few images for all children: neither reading them nor computing is what is tested.'
    kept = {}

    def few(self, split, place):
        if split not in kept:
            found = load(self, split, place)
            kept[split] = replace(found, images=found.images[:IMAGES], labels=found.labels[:IMAGES])
        return kept[split]

    return few

Digits.load = same(Digits.load)
worker.check_parent = lambda *_, **__: ()  # trained on 64 images it is at chance, which is not what is tested
runner.run(suite, out=out / "whole")
whole = contents(out / "whole")
died, finished, kept = Counter(), 0, 0
while sum(died.values()) < kills or finished < 3:
    path, before = out / f"run-{finished}", {}
    while True:
        said = attempt(path, draws.randint(1, LAST))
        assert not said.startswith("failed"), said
        now = contents(path) if path.exists() else {}
        done = {name: data for name, data in before.items() if name.endswith((".cell", ".json"))}
        assert done.items() <= now.items(), "something finished was lost"
        before = now
        if not said:
            break
        died[said] += 1
    assert now == whole, sorted(set(now) ^ set(whole))
    finished += 1
print(json.dumps({"kills": sum(died.values()), "finished": finished, "died": died, "files": len(whole)}))
"""


@pytest.fixture(name="small_text")
def _small_text(small_suite: Callable[..., str]) -> Callable[..., str]:
    """The text of a suite of few weights and two tests; `ratios` are its keyword."""
    return partial(
        small_suite,
        top="control = false\nseeds = [0]",
        widths=(4, 4, 4, 4),
        recipe="epochs = 2\nbatch_size = 32",
        evaluators=('name = "accuracy"', 'name = "noise"\nepsilons = [16]'),
        tolerances="",
    )


@pytest.fixture(name="small")
def _small(small_text: Callable[..., str], suite_file: Callable[..., Path]) -> Path:
    return suite_file(text=small_text(ratios=(0.5, 0.8)))


@pytest.mark.extensive
def test_every_run_that_was_killed_hundreds_of_times_ends_with_the_same_bytes(
    small_text: Callable[..., str], suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Each kill is inside a file operation of the run folder, and ends the process without any cleaning up."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    small = suite_file(text=small_text(ratios=(0.5,)))
    words = [sys.executable, "-W", "ignore", "-c", DEATH, str(small), str(tmp_path / "runs"), str(KILLS)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=550)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout)
    assert found["kills"] >= KILLS
    assert found["finished"] >= 3
    assert {"fsync", "open", "os.rename", "os.remove", "os.mkdir"} <= set(found["died"])  # all kinds were hit
    assert found["files"] == 2 * 4  # the parent and one candidate: weights, record, two cells


def contents(path: Path) -> dict[str, bytes]:
    files = [*path.rglob("*.cell"), *path.rglob("candidates/*/*/*.*")]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@pytest.mark.extensive
@pytest.mark.parametrize("at", [1, 4, 7, 12, 16])
def test_a_disk_that_is_full_stops_the_run_with_a_sentence(
    at: int, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.run(small, out=tmp_path / "whole")
    sync, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"cannot be written.*No space left on device"):
            runner.run(small, out=tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*"))  # nothing half is left behind
    again = runner.run(small, out=tmp_path / "run")
    assert again.failures.empty
    assert contents(again.path) == contents(whole.path)


@pytest.fixture(name="narrow")
def _narrow(tmp_path: Path) -> object:
    """A file system of 256 KiB; skipped where none may be mounted."""
    path = tmp_path / "narrow"
    path.mkdir()
    mounted = subprocess.run(
        [MOUNT, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run([UMOUNT, str(path)], check=True)


def test_a_run_on_a_disk_that_is_really_full_goes_on_when_there_is_room(
    small: Path, tmp_path: Path, narrow: Path
) -> None:
    whole = runner.run(small, out=tmp_path / "whole")
    filler = narrow / "filler"
    filler.write_bytes(b"x" * 180_000)
    with pytest.raises(StoreError, match=r"cannot be written.*No space left on device"):
        runner.run(small, out=narrow / "run")
    filler.unlink()
    again = runner.run(small, out=narrow / "run")
    assert contents(again.path) == contents(whole.path)
