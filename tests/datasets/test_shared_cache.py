"""Shared arrays: computed once, mapped by all processes, and kept in memory where the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
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


def unused() -> Iterator[Array]:
    raise AssertionError("the array exists already")


def kept(folder: Path, values: Array, *, name: str = "a", rows: int = 1000) -> Array:
    """The array of a cache, computed a few rows at a time."""
    parts = (values[start : start + rows] for start in range(0, len(values), rows))
    return SharedArrayCache(folder).array(name, values.shape, lambda: parts)


def test_an_array_is_computed_once_and_mapped(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    first = kept(tmp_path / "cache", values, rows=2)
    again = SharedArrayCache(tmp_path / "cache").array("a", values.shape, unused)
    for array in (first, again):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, values)
    SharedArrayCache(tmp_path / "cache").clear()
    assert not (tmp_path / "cache").exists()


def test_a_small_array_is_not_worth_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "SMALL", 100)
    values = np.zeros(100, np.uint8)
    np.testing.assert_array_equal(kept(tmp_path, values, rows=7), values)
    assert not list(tmp_path.glob("*.npy"))


def test_others_wait_for_the_process_that_computes_an_array(tmp_path: Path) -> None:
    calls, started, gate = [], threading.Event(), threading.Event()

    def compute() -> Iterator[Array]:
        calls.append(1)
        started.set()
        gate.wait(10)
        yield np.ones(5)

    arrays: list[Array] = []
    threads = [
        threading.Thread(target=lambda: arrays.append(SharedArrayCache(tmp_path).array("a", (5,), compute)))
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
SharedArrayCache(Path(sys.argv[1])).array("a", (3,), lambda: os._exit(9))
"""


def test_a_process_that_dies_does_not_block_the_others(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], env=environment, check=False)
    assert ended.returncode == 9
    assert kept(tmp_path, np.ones(3)).tolist() == [1.0] * 3


def test_a_truncated_file_is_computed_again(tmp_path: Path) -> None:
    kept(tmp_path, np.arange(1000.0))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    assert kept(tmp_path, np.arange(1000.0)).sum() == 499500


def test_a_full_disk_costs_memory_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    array = SharedArrayCache(tmp_path).array("a", (3,), lambda: iter([np.ones(2), np.ones(1)]))
    assert array.tolist() == [1.0] * 3
    assert [*tmp_path.iterdir()] == []


def test_the_last_of_the_disk_is_left_for_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "RESERVE", shutil.disk_usage(tmp_path).total)
    free = shutil.disk_usage(tmp_path)._replace(total=1000, free=149)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert not isinstance(kept(tmp_path, np.zeros(49, np.uint8)), np.memmap)
    assert isinstance(kept(tmp_path, np.zeros(48, np.uint8), name="b"), np.memmap)


def test_an_image_source_gives_the_same_with_a_shared_cache(tmp_path: Path) -> None:
    view = View(transform=RandomNoise("uniform", 16))
    plain = ImageSource(Digits(), Place()).images(view)
    shared = ImageSource(Digits(), Place(), cache=SharedArrayCache(tmp_path)).images(view)
    assert isinstance(shared.images, np.memmap)
    np.testing.assert_array_equal(shared.images, plain.images)
    assert (shared.name, shared.classes) == (plain.name, plain.classes)
