"""Trainings that leave their precision to the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evalsuite import Options, api
from evalsuite.execution.planning import prepare
from evalsuite.training import precision
from evalsuite.training.precision import computes_bfloat16, with_precision
from evalsuite.training.recipe import Precision, Recipe

CPU = torch.device("cpu")
FLAGS = {
    "none": "avx avx2 avx512f",
    "x86": "avx2 avx512_bf16",
    "tiles": "amx_bf16",
    "arm": "fp asimd bf16 i8mm",
}


def flagged(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.setattr(precision, "_processor_flags", lambda: frozenset(flags.split()))


@pytest.mark.parametrize("flags", FLAGS)
def test_the_processor_decides_what_a_recipe_leaves_open(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    flagged(monkeypatch, FLAGS[flags])
    chosen: Precision = "float32" if flags == "none" else "bfloat16"
    assert with_precision(Recipe(precision="auto"), CPU) == Recipe(precision=chosen)
    assert with_precision(Recipe(), CPU) == Recipe()
    assert with_precision(Recipe(precision="bfloat16"), CPU) == Recipe(precision="bfloat16")


def test_flags_are_read_where_linux_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("flags\t\t: fpu amx_bf16 avx", "Features\t: fp asimd bf16"):
        monkeypatch.setattr(Path, "read_text", lambda *_, line=line: f"processor : 0\n{line}\nflags: x\n")
        assert computes_bfloat16(CPU)
    monkeypatch.setattr(Path, "read_text", lambda *_: "processor : 0\n")
    assert not computes_bfloat16(CPU)
    assert not computes_bfloat16(torch.device("meta"))


def test_a_run_says_its_precision_and_keeps_it_on_another_machine(
    suite_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = suite_file({"[recipe]\n": '[recipe]\nprecision = "auto"\n'}), tmp_path / "run"
    flagged(monkeypatch, FLAGS["none"])
    stated = prepare(suite_file({"[recipe]\n": '[recipe]\nprecision = "float32"\n'}), out="nowhere")
    run = api.run(suite, out=out, options=Options(only=("accuracy", "magnitude")))
    assert run.record["suite"]["recipe"]["precision"] == "float32"
    assert "Training: precision = 'auto' is float32 here." in [note["note"] for note in run.record["notes"]]
    flagged(monkeypatch, FLAGS["x86"])
    again, elsewhere = (prepare(suite, out=folder) for folder in (out, "nowhere"))
    assert again.suite.recipe == again.suite.retraining == stated.suite.recipe
    assert {made.inputs for made in again.plan.candidates} == {made.inputs for made in stated.plan.candidates}
    assert elsewhere.suite.retraining.precision == "bfloat16"
    assert not {made.inputs for made in elsewhere.plan.candidates} & {
        made.inputs for made in again.plan.candidates
    }
