"""What parents computed serves all workers and later runs: found by digest, bounded, safe against damage and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from evalsuite import Options
from evalsuite.cache_folder import OUTPUTS
from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import UserError
from evalsuite.evaluation import Bench, Outputs
from evalsuite.execution import scheduler
from evalsuite.execution.parent_cache import (
    Arrays,
    CacheSettings,
    ParentCache,
    from_arrays,
    is_arrays,
    to_arrays,
)
from evalsuite.execution.planning import prepare
from evalsuite.execution.run_bench import RunBench
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.results.run import Run

SuiteFile = Callable[..., Path]
VALUES = np.arange(1000, dtype=np.float32)


def settings(folder: Path, *, most: float = 1e9, environment: str = "here") -> CacheSettings:
    return CacheSettings(folder, most, environment)


def counted(calls: list[str], name: str, values: np.ndarray = VALUES) -> Callable[[], tuple[Arrays, bool]]:
    def compute() -> tuple[Arrays, bool]:
        calls.append(name)
        return {"values": values}, True

    return compute


def test_outputs_serve_a_later_run_of_the_same_environment(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(from_settings({"name": "small-cnn", "widths": [4, 4, 8, 8]}))
    source, view = ImageSource(Digits(), Place()), View(first=50)
    caches = [
        ParentCache(tmp_path / str(run), settings(tmp_path / "kept", environment=environment))
        for run, environment in enumerate(["here", "here", "another precision"])
    ]
    benches = [RunBench(model, source, cache=cache, weights="w") for cache in caches]
    logits = [bench.outputs(view).logits for bench in benches]
    assert [bench.passes.total() for bench in benches] == [1, 0, 1]
    assert all(np.array_equal(values, logits[0]) for values in logits)


@pytest.mark.parametrize("result", [torch.arange(6.0).view(2, 3), np.eye(3), "outputs"], ids=type)
def test_what_evaluators_remember_of_a_parent_is_kept(tmp_path: Path, result: object) -> None:
    source, model = ImageSource(Digits(), Place()), build_model(from_settings({"name": "small-cnn"}))
    if isinstance(result, str):
        result = Outputs(np.eye(3, dtype=np.float32), np.arange(3))
    calls: list[str] = []
    for test, expected in (("attack", 1), ("attack", 1), ("attack, other images", 2)):
        cache = ParentCache(None, settings(tmp_path))
        bench = RunBench(model, source, cache=cache, weights="w")
        bench.test = test
        again = bench.memoise(("pgd", 0.1), lambda: (calls.append("computed"), result)[1])  # type: ignore[func-returns-value]
        assert len(calls) == expected
        assert type(again) is type(result)
        for left, right in zip(to_arrays(again).values(), to_arrays(result).values(), strict=True):
            assert np.array_equal(left, right)
            assert left.dtype == right.dtype


def test_what_is_no_array_stays_in_memory(tmp_path: Path) -> None:
    cache = ParentCache(None, settings(tmp_path))
    source, model = ImageSource(Digits(), Place()), build_model(from_settings({"name": "small-cnn"}))
    bench = RunBench(model, source, cache=cache, weights="w")
    bench.test = "plug-in"
    assert bench.memoise("words", lambda: {"a": 1}) == {"a": 1}
    assert bench.memoise("words", lambda: {"a": 2}) == {"a": 1}
    assert not [*tmp_path.glob("*.npz")]
    assert not is_arrays(np.array([object()]))
    assert isinstance(from_arrays({"tensor": np.zeros(2)}), torch.Tensor)


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75, "short", "empty"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, place: float | str) -> None:
    calls: list[str] = []
    first = ParentCache(None, settings(tmp_path)).arrays("name", counted(calls, "first"))
    (file,) = tmp_path.glob("*.npz")
    data = bytearray(file.read_bytes())
    if isinstance(place, str):
        data = data[: len(data) // 2] if place == "short" else bytearray()
    else:
        data[int(place * len(data))] ^= 0xFF
    file.write_bytes(data)
    again = ParentCache(None, settings(tmp_path)).arrays("name", counted(calls, "again"))
    assert np.array_equal(first["values"], again["values"])
    third = ParentCache(None, settings(tmp_path)).arrays("name", counted(calls, "third"))
    assert np.array_equal(first["values"], third["values"])
    assert calls == ["first", "again"]


def test_whatever_byte_is_damaged_values_are_right(tmp_path: Path) -> None:
    """Some bytes mean nothing, such as times in the archive's table: then the values are read."""
    ParentCache(None, settings(tmp_path)).arrays("name", counted([], "first"))
    (file,) = tmp_path.glob("*.npz")
    data = file.read_bytes()
    for place in (*range(0, len(data), 97), *range(len(data) - 200, len(data))):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        file.write_bytes(changed)
        again = ParentCache(None, settings(tmp_path)).arrays("name", counted([], "again"))
        assert np.array_equal(again["values"], VALUES)


def test_the_least_recently_used_go_first_and_what_this_run_uses_stays(tmp_path: Path) -> None:
    calls: list[str] = []
    kept, size = tmp_path / "kept", VALUES.nbytes + 300
    cache = ParentCache(tmp_path / "scratch", settings(kept, most=3 * size))
    for age, name in ((300, "b"), (900, "a"), (600, "c")):
        cache.arrays(name, counted(calls, name))
        then = time.time() - age
        os.utime(kept / f"{name}.npz", (then, then))
    later = ParentCache(tmp_path / "scratch", settings(kept, most=3 * size))
    for name in ("c", "d", "e", "f", "g"):
        later.arrays(name, counted(calls, name))
    assert {path.stem for path in kept.glob("*.npz")} == {"c", "d", "e"}
    assert {path.stem for path in (tmp_path / "scratch").glob("*.npz")} == {
        "f",
        "g",
    }  # the workers share them
    for name in ("c", "d", "e", "f", "g"):
        later.arrays(name, counted(calls, f"{name} again"))
    assert calls == ["b", "a", "c", "d", "e", "f", "g"]


PROCESS = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from evalsuite.execution.parent_cache import CacheSettings, ParentCache

    folder, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

    def compute():
        (folder / f"computed-{name}").touch()
        time.sleep(seconds)
        return {"values": np.arange(5)}, True

    cache = ParentCache(None, CacheSettings(folder / "kept", 1e9, "here"))
    print(cache.arrays("entry", compute)["values"].tolist())
"""


def process(folder: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", dedent(PROCESS), str(folder), name, str(seconds)]
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.extensive
def test_two_processes_compute_once_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    with process(tmp_path, "dead", 600) as dead:
        wait_for(tmp_path / "computed-dead")
        dead.send_signal(signal.SIGKILL)
    with process(tmp_path, "first", 1.0) as first:
        wait_for(tmp_path / "computed-first")
        with process(tmp_path, "second", 600) as second:
            both = [each.communicate(timeout=120)[0].strip() for each in (first, second)]
    assert both == ["[0, 1, 2, 3, 4]"] * 2
    assert not (tmp_path / "computed-second").exists()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [
        "entry.npz"
    ]  # no lock, nothing half-written


@pytest.fixture(name="passes")
def _passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Forward passes that benches really do, by whether the network is a parent."""
    counts: Counter[str] = Counter()
    original = Bench._forward

    def forward(bench: Bench, view: View) -> Outputs:
        if isinstance(bench, RunBench):  # and not one of the report, for its pictures
            counts["parent" if bench.parent is bench else "candidate"] += 1
        return original(bench, view)

    monkeypatch.setattr(Bench, "_forward", forward)
    return counts


def cells(run: Run) -> dict[str, bytes]:
    root = run.path / "cells"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.cell")}


@pytest.mark.parametrize(
    "only",
    [("accuracy", "noise", "magnitude"), pytest.param((), marks=pytest.mark.extensive)],
    ids=["few", "all"],
)
def test_a_second_run_of_the_same_parent_passes_its_candidates_only(
    suite_file: SuiteFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: Counter[str],
    only: tuple[str, ...],
) -> None:
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(OUTPUTS.variable, "1")
    suite = suite_file()
    options = Options(only=only)
    first = scheduler.run(suite, out=tmp_path / "first", options=options)
    counted = dict(passes)
    assert counted["parent"] > 0
    second = scheduler.run(suite, out=tmp_path / "second", options=options)
    assert passes["parent"] == counted["parent"]
    assert passes["candidate"] == 2 * counted["candidate"]
    assert cells(second) == cells(first)
    if only:  # a third run takes its time
        return
    without = Options(only=only, cache=False)
    uncached = scheduler.run(suite, out=tmp_path / "third", options=without)
    assert passes["parent"] == 2 * counted["parent"]
    assert cells(uncached) == cells(first)


def test_a_size_that_is_no_number_is_refused_before_anything_is_computed(
    suite_file: SuiteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTPUTS.variable, "lots")
    sentence = f"found {OUTPUTS.variable} = lots, expected gigabytes from 0 on"
    with pytest.raises(UserError, match=sentence):
        prepare(suite_file(), out=tmp_path / "run")
    monkeypatch.setenv(OUTPUTS.variable, "0")
    cache = prepare(suite_file(), out=tmp_path / "run").runner.context.cache
    assert cache is not None
    assert cache.folder is None
