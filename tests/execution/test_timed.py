"""A test that reads a clock in a run: measured once, again on another machine, counted in plans, an axis of curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evalsuite import Run, api
from evalsuite.execution import dry_run, planning
from evalsuite.report.build import report_data
from evalsuite.report.chart_data import curves

LATENCY = 'name = "latency"\nrepeats = 7\nwarm_up = 1\nbatch_size = 8'


@pytest.fixture
def timed(small_suite: Callable[..., str], suite_file: Callable[..., Path]) -> Path:
    """Three networks, their accuracy and their times."""
    text = small_suite(
        top="control = false",
        ratios=(0.8,),
        recipe="epochs = 1\nlearning_rate = 0.1",
        producers=('name = "magnitude"', 'name = "filter-l1"'),
        evaluators=('name = "accuracy"', LATENCY),
    )
    return suite_file(text=text)


def cells(path: Path) -> dict[str, bytes]:
    return {str(cell): cell.read_bytes() for cell in sorted((path / "cells").rglob("latency.cell"))}


def test_times_are_measured_once_and_again_on_another_machine(
    timed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {line.what: line for line in dry_run.dry_run(timed, out=tmp_path / "run")}
    assert lines["latency"].left == 3
    assert (
        lines["latency"].images == 3 * 2 * 8 * 8
    )  # the gates look at the test images, which the first test passed
    run = api.run(timed, out=tmp_path / "run")
    before = cells(run.path)
    assert len(before) == 3
    api.run(timed, out=tmp_path / "run")
    assert cells(run.path) == before
    monkeypatch.setattr(planning, "hardware", lambda _: {"processor": "another"})
    left = {line.what: line.left for line in dry_run.dry_run(timed, out=tmp_path / "run")}
    assert {what: count for what, count in left.items() if count} == {"latency": 3}
    _draws(run)


def _draws(found: Run) -> None:
    """Both times are axes of the page's curves, for each candidate what was measured."""
    told = curves(report_data(found))
    table = found.measurements[found.measurements["evaluator"] == "latency"]
    names = ["latency batch of 8", "latency_ratio batch of 8"]
    assert list(told["axes"])[-2:] == names
    assert told["axes"][names[0]] == "Measured milliseconds per image, batch of 8"
    for name in names:
        rows = table[table["metric"] == name.partition(" ")[0]]
        shown = {one["method"]: one[name] for one in told["candidates"]}
        assert shown == dict(zip(rows["method"], rows["value"], strict=True))
        curve = next(one for one in told["curves"] if one["metric"] == name.partition(" ")[0])
        for index, value, low, high in curve["points"]:
            mine = table[table["method"] == told["candidates"][index]["method"]].set_index("metric")["value"]
            metric = curve["metric"]
            assert value == mine[metric]
            assert [low, high] == pytest.approx([mine[f"{metric}_lower"], mine[f"{metric}_upper"]], rel=1e-5)
    assert "latency" not in set(found.thresholds()["metric"])  # times describe until a suite sets a tolerance
