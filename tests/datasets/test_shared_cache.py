"""Shared arrays: computed once, mapped by all processes, and kept in memory where the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from evalsuite.datasets import shared_cache
from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import View
from evalsuite.types import Array


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "SMALL", 0)


def unused() -> Array:
    raise AssertionError("the array exists already")


def test_an_array_is_computed_once_and_mapped(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    first = SharedArrayCache(tmp_path / "cache").array("a", lambda: values)
    again = SharedArrayCache(tmp_path / "cache").array("a", unused)
    for array in (first, again):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, values)
    SharedArrayCache(tmp_path / "cache").clear()
    assert not (tmp_path / "cache").exists()


def test_a_small_array_is_not_worth_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "SMALL", 100)
    values = np.zeros(100, np.uint8)
    assert SharedArrayCache(tmp_path).array("a", lambda: values) is values
    assert not list(tmp_path.glob("*.npy"))


def test_others_wait_for_the_process_that_computes_an_array(tmp_path: Path) -> None:
    calls, started, gate = [], threading.Event(), threading.Event()

    def compute() -> Array:
        calls.append(1)
        started.set()
        gate.wait(10)
        return np.ones(5)

    arrays: list[Array] = []
    threads = [
        threading.Thread(target=lambda: arrays.append(SharedArrayCache(tmp_path).array("a", compute)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert calls == [1]
    assert [values.tolist() for values in arrays] == [[1.0] * 5] * 3


DYING = """
import os, sys
from pathlib import Path
from evalsuite.datasets.shared_cache import SharedArrayCache
SharedArrayCache(Path(sys.argv[1])).array("a", lambda: os._exit(9))
"""


def test_a_process_that_dies_does_not_block_the_others(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], env=environment, check=False)
    assert ended.returncode == 9
    assert SharedArrayCache(tmp_path).array("a", lambda: np.ones(3)).tolist() == [1.0] * 3


def test_a_truncated_file_is_computed_again(tmp_path: Path) -> None:
    SharedArrayCache(tmp_path).array("a", lambda: np.arange(1000.0))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    assert SharedArrayCache(tmp_path).array("a", lambda: np.arange(1000.0)).sum() == 499500


def test_a_full_disk_costs_memory_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    values = np.ones(3)
    assert SharedArrayCache(tmp_path).array("a", lambda: values) is values
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


def test_the_last_of_the_disk_is_left_for_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "RESERVE", shutil.disk_usage(tmp_path).total)
    free = shutil.disk_usage(tmp_path)._replace(total=1000, free=149)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert not isinstance(SharedArrayCache(tmp_path).array("a", lambda: np.zeros(49, np.uint8)), np.memmap)
    assert isinstance(SharedArrayCache(tmp_path).array("b", lambda: np.zeros(48, np.uint8)), np.memmap)


def test_an_image_source_gives_the_same_with_a_shared_cache(tmp_path: Path) -> None:
    view = View(transform=RandomNoise("uniform", 16))
    plain = ImageSource(Digits(), Place()).images(view)
    shared = ImageSource(Digits(), Place(), cache=SharedArrayCache(tmp_path)).images(view)
    assert isinstance(shared.images, np.memmap)
    np.testing.assert_array_equal(shared.images, plain.images)
    assert (shared.name, shared.classes) == (plain.name, plain.classes)
