"""Passes grow with candidates and nothing else: a network passes each image set once, its parent no second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from evalsuite import Options
from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench, Outputs
from evalsuite.execution import scheduler

SuiteFile = Callable[..., Path]


@pytest.mark.extensive
@pytest.mark.parametrize("ratios", [[0.5], [0.2, 0.4, 0.5, 0.6, 0.7, 0.8]], ids=len)
@pytest.mark.parametrize("images", [40, 160])
def test_passes_are_the_product_of_networks_and_images(
    suite_file: SuiteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratios: list[float], images: int
) -> None:
    passed: Counter[bool] = Counter()
    original = Bench._forward

    def forward(bench: Bench, view: View) -> Outputs:
        outputs = original(bench, view)
        passed[bench.parent is bench] += len(outputs.logits)
        return outputs

    monkeypatch.setattr(Bench, "_forward", forward)
    suite = suite_file({"ratios = [0.5, 0.8]": f"ratios = {ratios}"})
    only = ("accuracy", "corruptions", "noise", "magnitude")
    scheduler.run(suite, out=tmp_path / "run", options=Options(only=only, limit=images))
    sets = 1 + 2 + 1  # clean; brightness and contrast; noise
    assert passed[True] == sets * images
    assert passed[False] == sets * images * len(ratios)
