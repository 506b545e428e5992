"""The batch size of a suite: used by every forward pass, in the digest of a cell only where it may change a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalsuite import Options, api
from evalsuite.config.suite_file import load_suite
from evalsuite.errors import SuiteError, UserError
from evalsuite.execution.planning import prepare
from evalsuite.models import inference
from evalsuite.runs.provenance import command, described

SuiteFile = Callable[..., Path]
DATA = '[data]\nname = "digits"'


def inputs(suite: Path, **options: int) -> dict[str, str]:
    prepared = prepare(suite, out="nowhere", options=Options(**options))  # type: ignore[arg-type]  # batch sizes
    return {test.label: test.inputs for test in prepared.plan.tests}


def test_a_batch_size_is_in_the_digest_unless_it_is_the_usual_one(suite_file: SuiteFile) -> None:
    plain, usual, other = (
        suite_file({DATA: f"{table}{DATA}"})
        for table in ("", "[resources]\nbatch_size = 32\n", "[resources]\nbatch_size = 64\n")
    )
    assert inputs(plain) == inputs(usual) == inputs(other, batch_size=32)
    assert not inputs(plain).items() & inputs(other).items()
    assert inputs(other) == inputs(plain, batch_size=64)


def test_every_pass_of_a_run_has_the_batch_size(
    suite_file: SuiteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = set()

    def recorded(*arguments: Any, batch_size: int = 0, **options: Any) -> Any:
        sizes.add(batch_size)
        return inference.logits(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr("evalsuite.evaluation.logits", recorded)
    options = Options(batch_size=48, only=("accuracy", "magnitude"))
    run = api.run(suite_file(), out=tmp_path / "run", options=options)
    assert sizes == {48}
    assert run.record["suite"]["resources"]["batch_size"] == 48


def test_the_record_has_it_only_where_it_is_chosen(suite_file: SuiteFile) -> None:
    suite = load_suite(suite_file())
    assert not {"batch_size", "engine"} & described(suite)["resources"].keys()
    chosen = replace(suite, resources=replace(suite.resources, batch_size=64))
    assert described(chosen)["resources"]["batch_size"] == 64
    assert "--batch-size 64 --device" not in command(suite, Options(batch_size=64))
    assert "--batch-size 64" in command(suite, Options(batch_size=64))
    assert "--limit 7" in command(suite, Options(limit=7))


def test_a_batch_size_below_one_is_refused(suite_file: SuiteFile) -> None:
    with pytest.raises(UserError, match="found --batch-size 0, expected images per forward pass, from 1 on"):
        Options(batch_size=0).applied(load_suite(suite_file()))
    with pytest.raises(SuiteError, match="found batch_size = -1"):
        load_suite(suite_file({DATA: f"[resources]\nbatch_size = -1\n{DATA}"}))
