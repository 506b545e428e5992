"""Tests that are evaluated image by image: on some conditions, or some images, the numbers are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.stages import StageSource, is_staged_view
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.evaluators.base import Evaluator
from evalsuite.evaluators.corruptions import Corruptions
from evalsuite.evaluators.noise import Noise
from evalsuite.execution.measuring import scored
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.types import Score

KINDS = ("fog", "contrast", "jpeg_compression")
TESTS: list[tuple[Evaluator, tuple[str, ...]]] = [
    (Accuracy(), ("clean",)),
    (Corruptions(severities=(1, 3), kinds=KINDS), ("fog/1",)),
    (Corruptions(severities=(1, 3), kinds=KINDS), ("contrast/1", "fog/3")),
    (Corruptions(severities=(3,), kinds=KINDS, extra=True), ("saturate/3",)),
    (Corruptions(severities=(3,), kinds=KINDS), ("corruptions",)),
    (Noise(epsilons=(8, 32), kinds=("uniform", "gaussian")), ("gaussian/32:255",)),
    (Noise(epsilons=(8, 32), draws=2), ("worst of 2 uniform/8:255",)),
]


def bench(source: ImageSource, seed: int, **more: Any) -> Bench:
    torch.manual_seed(seed)
    return Bench(build_model(SmallCNN(widths=(4, 4, 8, 8))), source, **more)


def by_place(scores: tuple[Score, ...]) -> dict[tuple[str, str], Score]:
    return {(score.metric, score.condition): score for score in scores}


@pytest.mark.parametrize(("test", "conditions"), TESTS)
def test_some_conditions_have_the_numbers_of_all(test: Evaluator, conditions: tuple[str, ...]) -> None:
    source = ImageSource(Digits(), Place(), limit=90)
    parent = bench(source, 1)
    network, again = bench(source, 0, parent=parent), bench(source, 0, parent=parent)
    every = by_place(scored(test, network))
    part = test.for_conditions(conditions, source.condition)
    scores = by_place(scored(part, again))
    wanted = {place for place in every if place[1] in conditions}
    assert wanted
    assert wanted <= set(scores)
    for place in wanted:
        assert scores[place].value == every[place].value
        assert scores[place].group == every[place].group
    assert len(again.passes) <= len(network.passes)


def test_single_conditions_pass_no_other_image_set() -> None:
    source = ImageSource(Digits(), Place(), limit=90)
    network = bench(source, 0)
    test = Corruptions(severities=(1, 3), kinds=KINDS).for_conditions(["fog/3"], source.condition)
    scored(test, network)
    assert [source.condition(view) for view in network.passes] == ["fog/3"]


@pytest.mark.parametrize("test", dict.fromkeys(test for test, _ in TESTS))
def test_numbers_of_single_images_do_not_depend_on_the_others(test: Evaluator) -> None:
    """What `image_by_image` promises; changes of images are drawn by their place, so they are taken from one stage."""
    assert test.image_by_image
    assert all(map(is_staged_view, test.needs))
    source = ImageSource(Digits(), Place(), limit=90)
    order = np.random.default_rng(0).permutation(90)
    few, all_of_them = (StageSource(source, rows, 0) for rows in (order[:40], order))
    found, every = (
        by_place(scored(test, bench(stage, 0, parent=bench(stage, 1)))) for stage in (few, all_of_them)
    )
    for place, score in found.items():
        for name, values in score.evidence.items():
            np.testing.assert_allclose(values, every[place].evidence[name][:40], rtol=1e-5, atol=1e-6)
