"""A limit on the test images: in the digests of cells where it leaves images out, in no digest of a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from evalsuite import Options, Run, api
from evalsuite.execution.dry_run import describe_run
from evalsuite.execution.planning import prepare
from evalsuite.runs.plan import RunPlan

SuiteFile = Callable[..., Path]


def plan(suite: Path, limit: int | None) -> RunPlan:
    return prepare(suite, out="nowhere", options=Options(limit=limit)).plan


def test_a_limit_makes_other_cells_of_the_same_networks(suite_file: SuiteFile) -> None:
    suite = suite_file()
    every, few, most = plan(suite, None), plan(suite, 50), plan(suite, 5000)
    assert most == every
    assert few.candidates == every.candidates
    assert all(one.inputs != other.inputs for one, other in zip(few.tests, every.tests, strict=True))
    by_label = few.by_label
    assert by_label["accuracy"].images == {"clean": 50}
    assert by_label["ood"].images == {"clean": 50, "letters": 50, "uniform-noise": 50}
    assert by_label["calibration"].images["clean (validation)"] > 50  # only test sets are sampled


def test_a_limited_run_says_so_and_a_dry_run_announces_it(suite_file: SuiteFile, tmp_path: Path) -> None:
    suite = suite_file()
    options = Options(limit=60, only=("accuracy", "magnitude"))
    announced = describe_run(prepare(suite, out=tmp_path / "run", options=options))
    assert (announced.images, announced.sample[:30]) == (60, "a seeded sample, stratified by")
    run = api.run(suite, out=tmp_path / "run", options=options)
    assert set(run.measurements.query("status == 'ok'")["n"]) == {60}
    record = json.loads((run.path / "run.json").read_text("utf-8"))
    assert record["suite"]["limit"] == 60
    assert record["sample"]["of"] == 899
    assert "--limit 60" in record["command"]
    page = (run.path / "index.html").read_text("utf-8")
    assert re.search(
        r"All models were tested on a seeded sample, stratified by class, of 60 of the 899", page
    )
    api.publish(Run(run.path))  # from the folder alone
    assert (run.path / "index.html").read_text("utf-8") == page
    every = api.run(suite, out=tmp_path / "run", options=Options(only=("accuracy", "magnitude")))
    assert "sample" not in every.record
    assert set(every.measurements.query("status == 'ok'")["n"]) == {899}
