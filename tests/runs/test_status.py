"""Status, plans, parts of runs, damage and costs: what a run says about itself and repairs by itself."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalsuite.config.options import Options
from evalsuite.config.suite_file import load_suite
from evalsuite.errors import SkippedError, StoreError, UserError
from evalsuite.evaluators.corruptions import Corruptions
from evalsuite.execution import dry_run, scheduler
from evalsuite.execution.production import Production
from evalsuite.execution.tasks import CellProgress
from evalsuite.runs import status
from evalsuite.runs.lock import locked
from evalsuite.runs.serialization import FORMAT
from evalsuite.runs.store import Key, Store
from evalsuite.runs.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evalsuite import Run
    from evalsuite.types import Score

TESTS = ["accuracy", "corruptions", "ood", "noise", "attack", "calibration"]


def copied(done: Run, folder: Path) -> Path:
    path = folder / "run"
    shutil.copytree(done.path, path)
    return path


def snapshot(path: Path) -> dict[Path, tuple[int, int]]:
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.rglob("*")}


def test_a_finished_run_has_nothing_left(done: Run) -> None:
    before = snapshot(done.path)
    found = status.status(done.path)
    assert list(found.counts) == ["production", *TESTS]
    assert all((count.done, count.left) == (5, 0) for count in found.counts.values())
    assert (found.holder, found.alive, found.running, found.failures) == ("", False, (), ())
    assert found.seconds_left == 0
    assert snapshot(done.path) == before  # looking writes nothing


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def test_verify_reads_all_that_a_finished_run_does_not(done: Run, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    before = snapshot(path)
    found = verify(path)
    assert (found.weights, found.cells, found.damaged) == (5, 5 * len(TESTS), ())
    assert snapshot(path) == before
    store = Store(path)
    weights, cell = store.weights_path(Key("magnitude", 0, 0.8)), store.cell_path(Key("dense", 0, 0.0), "ood")
    flipped(weights)
    flipped(cell)
    assert status.status(path).counts["production"].done == 5  # a look at the headers shows nothing
    damaged = dict(verify(path).damaged)
    assert set(damaged) == {weights, cell}
    assert damaged[weights] == "its weights are not those of its record"
    weights.unlink()
    assert dict(verify(path).damaged)[weights] == "it is gone"


def test_what_is_missing_failed_or_of_other_settings_is_told_apart(done: Run, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    (path / "cells/magnitude/seed-0/0.5/ood.cell").unlink()
    store, key = Store(path), Key("filter-l1", 0, 0.8)
    cell = store.cell(key, "noise")
    assert cell is not None
    from dataclasses import replace

    store.write_cell(key, "noise", replace(cell, status="error", reason="it broke"))
    store.write_cell(key, "attack", replace(cell, digest="of other settings"))
    (path / "candidates/filter-l1/seed-0/0.5.json").unlink()
    counts = status.status(path).counts
    assert (counts["ood"].done, counts["ood"].missing, counts["ood"].stale) == (3, 1, 1)
    assert (counts["noise"].done, counts["noise"].failed) == (3, 1)
    assert (counts["attack"].done, counts["attack"].stale) == (3, 2)
    assert (counts["production"].done, counts["production"].stale) == (4, 1)
    assert status.status(path).failures == ((key, "noise", "it broke"),)


def test_time_left_is_what_finished_cells_took(done: Run, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    record = json.loads((path / "run.json").read_text())
    record["spent"] = {name: {"cells": 5, "seconds": 10.0} for name in ["production", *TESTS]}
    (path / "run.json").write_text(json.dumps(record))
    for ratio in (0.5, 0.8):
        (path / f"cells/magnitude/seed-0/{ratio}/ood.cell").unlink()
    assert status.status(path).seconds_left == 4.0
    del record["spent"]["ood"]
    (path / "run.json").write_text(json.dumps(record))
    assert status.status(path).seconds_left is None


@pytest.mark.extensive
def test_status_while_a_run_goes_on(
    suite_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalsuite.runs.timings.PAUSE", 0.0)
    seen: list[status.RunStatus] = []
    path = tmp_path / "run"

    def look(step: CellProgress) -> None:
        if step.done == 9:
            seen.append(status.status(path))

    scheduler.run(suite_file(), out=path, progress=look)
    (found,) = seen
    assert found.alive
    assert found.holder.startswith("process ")
    assert found.counts["production"].done == 2
    assert found.counts["accuracy"].done == 2
    (now,) = found.running
    assert (now["method"], now["target_ratio"]) == ("magnitude", 0.5)
    assert not status.status(path).alive


def test_a_run_is_there_while_its_first_parent_is_trained(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may take hours."""
    monkeypatch.setattr("evalsuite.runs.timings.PAUSE", 0.1)
    path, parent = tmp_path / "run", Production.parent
    seen: list[status.RunStatus] = []

    def looked(*_: object) -> object:
        until = time.monotonic() + 20
        while time.monotonic() < until and not (seen and seen[-1].running):
            seen.append(status.status(path))
        raise UserError("stop here")

    monkeypatch.setattr(Production, "parent", looked)
    with pytest.raises(UserError, match="stop here"):
        scheduler.run(tiny, out=path)
    found = seen[-1]
    assert found.alive
    assert (found.counts["production"].done, found.counts["production"].missing) == (0, 5)
    assert [(now["method"], now["what"]) for now in found.running] == [("dense", "production")]
    monkeypatch.setattr(Production, "parent", parent)
    assert scheduler.run(tiny, out=path).failures.empty


def test_status_knows_a_long_cell_that_began_right_after_a_short_one(
    suite_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process that computes has no time to write down what it does."""
    monkeypatch.setattr("evalsuite.runs.timings.PAUSE", 0.1)
    path = tmp_path / "run"
    seen: list[Any] = []

    def long(*_: object) -> Iterator[Score]:
        until = time.monotonic() + 20
        while time.monotonic() < until and not seen:
            seen.extend(now for now in status.status(path).running if now["what"] == "corruptions")
            time.sleep(0.02)
        raise SkippedError("seen")

    monkeypatch.setattr(Corruptions, "evaluate", long)
    scheduler.run(suite_file({"ratios = [0.5, 0.8]": "ratios = [0.5]"}), out=path)
    assert (seen[0]["method"], seen[0]["target_ratio"]) == ("dense", 0.0)
    assert not (path / "running.json").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evalsuite")]


def test_a_run_that_is_locked_is_not_run(done: Run, tiny: Path, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    with (
        locked(path),
        pytest.raises(StoreError, match=r"process \d+ on .* works in .*; wait until it has ended"),
    ):
        scheduler.run(tiny, out=path)


def test_a_plan_counts_what_a_run_would_do_and_writes_nothing(
    done: Run, tiny: Path, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = copied(done, tmp_path)
    before = snapshot(path)
    assert all(
        (line.done, line.left, line.seconds) == (5, 0, 0.0) for line in dry_run.dry_run(tiny, out=path)
    )
    lines = {
        line.what: line
        for line in dry_run.dry_run(suite_file({"epsilons = [16]": "epsilons = [20]"}), out=path)
    }
    assert {what: line.left for what, line in lines.items() if line.left} == {"noise": 5}
    images = 899
    assert lines["noise"].images == 5 * images
    assert lines["noise"].measured
    spent = done.record["spent"]["noise"]
    assert lines["noise"].seconds == pytest.approx(spent["seconds"], rel=1e-6)
    assert snapshot(path) == before
    fresh = dry_run.dry_run(tiny, out=tmp_path / "gone")
    assert [(line.what, line.left) for line in fresh] == [(name, 5) for name in ["production", *TESTS]]
    assert fresh[0].images == 5 * 3 * 2 * 718  # two epochs, three passes for a step
    assert not any(line.measured for line in fresh)
    assert all(line.seconds > 0 for line in fresh if line.images)
    passes = {view for choice in load_suite(tiny).evaluators for view in choice.plugin.needs}
    assert sum(line.images for line in fresh[1:]) >= 5 * images * (len(passes) - 2)  # some sets are smaller
    assert sum(line.images for line in fresh[1:]) <= 5 * images * (len(passes) + 2)  # each is passed once
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("only", "cells"),
    [
        (("noise",), {("dense", "noise"), ("magnitude", "noise"), ("filter-l1", "noise")}),
        (("magnitude", "noise"), {("dense", "noise"), ("magnitude", "noise")}),
    ],
)
def test_a_part_of_a_suite_can_be_run(
    only: tuple[str, ...], cells: set[tuple[str, str]], tiny: Path, done: Run, tmp_path: Path
) -> None:
    steps: list[CellProgress] = []
    run = scheduler.run(tiny, out=tmp_path / "run", options=Options(only=only), progress=steps.append)
    there = {(path.parts[-4], path.stem) for path in run.path.rglob("*.cell")}
    assert there == cells
    assert len(steps) == steps[0].total
    assert f"--only {only[0]}" in run.record["command"]
    whole = scheduler.run(tiny, out=tmp_path / "run")
    for path in whole.path.rglob("*.cell"):
        assert path.read_bytes() == (done.path / path.relative_to(whole.path)).read_bytes()


def test_a_part_that_nobody_knows_is_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--only nois: unknown test or method 'nois': did you mean 'noise'"):
        scheduler.run(tiny, out=tmp_path / "run", options=Options(only=("nois",)))
    assert not (tmp_path / "run").exists()


def test_a_damaged_cell_is_set_aside_and_computed_again(done: Run, tiny: Path, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    victim = path / "cells/magnitude/seed-0/0.5/ood.cell"
    data = victim.read_bytes()
    for number in (1, 2):
        broken = bytearray(data)
        at = data.index(b"value") + 10 * number
        broken[at] ^= 1  # inside what is said about the arrays, not inside them
        victim.write_bytes(bytes(broken))
        again = scheduler.run(tiny, out=path)
        assert again.record["computed"] == 1
        assert victim.read_bytes() == data
        assert victim.with_name(f"ood.cell.damaged-{number}").read_bytes() == bytes(broken)


@pytest.mark.parametrize("key", [Key("dense", 0, 0.0), Key("magnitude", 0, 0.5)])
def test_weights_that_changed_on_disk_are_made_again_and_never_measured(
    key: Key, done: Run, tiny: Path, tmp_path: Path
) -> None:
    path = copied(done, tmp_path)
    weights = Store(path).weights_path(key)
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    whole = weights.read_bytes()
    weights.write_bytes(bytes(data))
    cell = path / "cells/magnitude/seed-0/0.5/noise.cell"
    before = cell.read_bytes()
    cell.unlink()  # so that the weights are asked for
    run = scheduler.run(tiny, out=path)
    assert run.failures.empty
    assert weights.read_bytes() == whole
    assert weights.with_name(f"{weights.name}.damaged-1").is_file()
    assert cell.read_bytes() == before


def test_weights_that_were_cut_off_are_set_aside_and_made_again(
    done: Run, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied(done, tmp_path)
    victim = Store(path).weights_path(Key("filter-l1", 0, 0.8))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-40])
    scheduler.run(tiny, out=path)
    assert victim.read_bytes() == whole
    assert victim.with_name("0.8.safetensors.damaged-1").read_bytes() == whole[:-40]
    assert "0.8.safetensors is damaged: it was renamed to" in caplog.text


def test_nothing_is_made_of_weights_that_changed_on_disk(done: Run, tiny: Path, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    store = Store(path)
    first, second = (store.weights_path(Key("magnitude", 0, ratio)) for ratio in (0.5, 0.8))
    whole = first.read_bytes(), second.read_bytes()
    data = bytearray(whole[0])
    data[-7] ^= 1
    first.write_bytes(bytes(data))
    second.unlink()  # so that it is made of the first
    assert scheduler.run(tiny, out=path).failures.empty
    assert (first.read_bytes(), second.read_bytes()) == whole


def test_costs_are_summed_over_runs_and_stand_in_no_cell(done: Run, tiny: Path, tmp_path: Path) -> None:
    spent = done.record["spent"]
    assert {name: one["cells"] for name, one in spent.items()} == dict.fromkeys(["production", *TESTS], 5)
    assert all(one["seconds"] > 0 for one in spent.values())
    path = copied(done, tmp_path)
    assert scheduler.run(tiny, out=path).record["spent"] == spent  # nothing was computed
    (path / "cells/magnitude/seed-0/0.5/noise.cell").unlink()
    more = scheduler.run(tiny, out=path).record["spent"]
    assert more["noise"]["cells"] == 6
    assert more["noise"]["seconds"] > spent["noise"]["seconds"]
    assert more["ood"] == spent["ood"]


def test_a_folder_of_a_newer_evalsuite_is_refused(done: Run, tiny: Path, tmp_path: Path) -> None:
    path = copied(done, tmp_path)
    (path / "run.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match=rf"by a newer evalsuite \(format 99, this one writes {FORMAT}\)"):
        scheduler.run(tiny, out=path)
    assert (path / "run.json").read_text() == '{"format": 99}'
