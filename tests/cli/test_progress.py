"""Progress without a terminal: lines of a log, also while one cell is computed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from evalsuite.cli.progress import sentence
from evalsuite.runs.plan import PlannedCandidate, PlannedTest, RunPlan
from evalsuite.runs.progress import RunProgress, TimeEstimate
from evalsuite.runs.store import Key
from evalsuite.runs.timings import ActiveTask

PARENT, PRUNED = Key("dense", 0, 0.0), Key("magnitude", 0, 0.5)
PLUGIN = '''
import time
from dataclasses import dataclass
from pathlib import Path
from evalsuite.plugins import Evaluator, Metric, Score, View, register_evaluator

@register_evaluator("waiting")
@dataclass(frozen=True)
class Waiting(Evaluator):
    """Computes until a file is there."""

    flag: str = ""
    metrics = (Metric("patience", True, "fraction", "How long it waits."),)
    needs = (View(),)

    def evaluate(self, bench):
        while not Path(self.flag).exists():
            time.sleep(0.01)
        yield Score("patience", "clean", evidence={"test": bench.outputs(View()).correct})
'''
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
DRIVER = """
import sys
from evalsuite.cli import main, progress
progress.INTERVAL = 0.05
main.main()
"""


def plan() -> RunPlan:
    tests = (
        PlannedTest("accuracy", "a", images={"clean": 100}),
        PlannedTest("noise", "b", images={"clean": 100, "uniform/8": 300}),
    )
    rows = (
        PlannedCandidate(PARENT, "parent", "c", training=1000),
        PlannedCandidate(PRUNED, "produced", "d", path=(0.5,), training=1000),
    )
    return RunPlan((0,), rows, tests)


def test_the_time_left_counts_images_of_timed_cells_and_nothing_before_one_is_timed() -> None:
    estimate = TimeEstimate(plan(), {})
    assert estimate.seconds_left(()) is None
    estimate.measured((PARENT, "production"), 10.0)  # 100 images per second
    estimate.finished((PARENT, "production"))
    assert estimate.seconds_left(()) == pytest.approx(1 + 3 + 10 + 1 + 3)
    estimate.measured((PARENT, "noise"), 6.0)  # 50 images per second in this test
    for what in ("accuracy", "noise"):
        estimate.finished((PARENT, what))
    assert estimate.seconds_left(()) == pytest.approx(10 + 100 / (1300 / 16) + 6)


def test_the_time_that_a_running_cell_has_taken_is_not_left() -> None:
    estimate = TimeEstimate(
        plan(), {what: {"cells": 2, "seconds": 20.0} for what in ("production", "accuracy", "noise")}
    )
    assert estimate.seconds_left(()) == pytest.approx(60)
    active = (
        ActiveTask(PARENT, "noise", time.monotonic() - 4),
        ActiveTask(PRUNED, "noise", time.monotonic() - 400),
    )
    assert estimate.seconds_left(active) == pytest.approx(40 + 6, abs=0.5)


def test_a_line_names_done_total_cell_and_time_left() -> None:
    active = (ActiveTask(PRUNED, "noise", time.monotonic() - 120),)
    line = sentence(RunProgress(3, 6, active, 200.0, 240.0))
    assert line == "3 of 6 cells done (50%); now magnitude 0.5 noise (seed 0) for 2.0 min; about 4.0 min left"
    late = sentence(RunProgress(3, 6, active, 0.0, 0.0))  # the cell takes longer than all that was timed
    assert late.endswith("noise (seed 0) for 2.0 min; time left not known")
    assert sentence(RunProgress(0, 6, (), 0.0, None)) == "0 of 6 cells done (0%); time left not known yet"


@pytest.mark.extensive
def test_redirected_output_has_lines_while_a_cell_is_computed(
    small_suite: Callable[..., str], tmp_path: Path
) -> None:
    flag = tmp_path / "go on"
    (tmp_path / "waiting.py").write_text(PLUGIN)
    (tmp_path / "suite.toml").write_text(
        small_suite(
            top='plugins = ["waiting.py"]',
            recipe="epochs = 2\nlearning_rate = 0.1",
            evaluators=(f'name = "waiting"\nflag = "{flag}"',),
            tolerances="",
        )
    )
    command = [
        sys.executable,
        "-c",
        DRIVER,
        "run",
        str(tmp_path / "suite.toml"),
        "--out",
        str(tmp_path / "run"),
    ]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process,
    ):
        assert process.stderr is not None
        first = wait_for(process.stderr, "cells done")
        in_cell = wait_for(process.stderr, "now dense 0 waiting (seed 0) for")
        flag.touch()
        rest = process.stderr.read()
    assert process.returncode == 0
    assert first == "evalsuite: 0 of 6 cells done (0%); time left not known yet\n"
    assert re.search(r"[1-5] of 6 cells done \(\d+%\)", in_cell)
    assert re.search(r"evalsuite: 6 of 6 cells done in [\d.]+ s\n", rest)
    assert "\x1b" not in first + in_cell + rest
    assert "\r" not in first + in_cell + rest


def wait_for(stream: IO[str], words: str) -> str:
    """The next line with some words; the process writes one at least every 0.05 s."""
    for line in stream:
        if words in line:
            return line
    pytest.fail(f"no line with {words!r}")
