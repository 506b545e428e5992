"""An unpruned network that is at chance has nothing to lose: its scores say so, and candidates' do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evalsuite.bench import Bench
from evalsuite.evaluators.contract import Evaluator
from evalsuite.evaluators.corruptions import Corruptions
from evalsuite.evaluators.noise import Noise
from evalsuite.evaluators.ood import Ood
from evalsuite.running.measuring import scored

K = 4
LABELS = np.arange(200) % K
GUESSES = np.random.default_rng(0).normal(size=(256, K))
KNOWS = np.concatenate([8 * np.eye(K)[LABELS], np.zeros((56, K))])
WORDS = "The unpruned network itself is not above chance here ("


def doubted(test: Evaluator, bench: Bench) -> set[tuple[str, str]]:
    return {(s.metric, s.condition) for s in scored(test, bench) if any(WORDS in flag for flag in s.flags)}


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (Noise((0.25,), draws=2), ("accuracy", "uniform/0.25:255")),
        (Corruptions((1,), ("jpeg_compression",)), ("accuracy", "jpeg_compression/1")),
        (Ood(far=("uniform-noise",), detectors=("msp",)), ("msp_auroc", "uniform-noise")),
    ],
    ids=["noise", "corruption", "outliers"],
)
def test_a_parent_that_guesses_is_doubted(planting: Any, test: Evaluator, expected: tuple[str, str]) -> None:
    assert expected in doubted(test, planting.bench(LABELS, GUESSES))
    assert doubted(test, planting.bench(LABELS, GUESSES, parent=KNOWS)) == set()


def test_one_that_knows_is_not(planting: Any) -> None:
    assert doubted(Noise((0.25,)), planting.bench(LABELS, KNOWS)) == set()
