"""Pruning-identified exemplars against scipy's mode, and ties by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mode

from evalsuite.errors import DataError
from evalsuite.statistics.exemplars import pruning_identified_exemplars


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_the_modes_differ(seed: int) -> None:
    random = np.random.default_rng(seed)
    dense, pruned = (
        random.integers(0, 2, (5, 300)),
        random.integers(0, 2, (7, 300)),
    )  # odd, two classes: no ties
    expected = mode(dense, axis=0).mode != mode(pruned, axis=0).mode
    assert pruning_identified_exemplars(dense, pruned).tolist() == expected.tolist()
    assert 0.2 < expected.mean() < 0.8


@pytest.mark.parametrize(
    ("dense", "pruned", "differ"),
    [
        ([0], [1], True),
        ([0], [0], False),
        ([0, 1], [0, 0], False),  # 0 is modal in both
        ([0, 1], [2, 2], True),
        ([0, 1], [1, 2], False),
        ([0, 1, 2], [2, 2, 3], False),
        ([0, 0, 2], [2, 2, 0], True),
        ([5, 5, 5], [5, 1, 1], True),
    ],
)
def test_ties(dense: list[int], pruned: list[int], differ: bool) -> None:
    found = pruning_identified_exemplars(np.array(dense)[:, None], np.array(pruned)[:, None])
    assert found.tolist() == [differ]
    assert found.dtype.name == "bool"


def test_one_seed_each_is_churn() -> None:
    random = np.random.default_rng(0)
    dense, pruned = random.integers(0, 10, (2, 1, 50))
    assert pruning_identified_exemplars(dense, pruned).tolist() == (dense != pruned)[0].tolist()


@settings(max_examples=60)
@given(seed=st.integers(0, 999), s=st.integers(1, 5), t=st.integers(1, 5))
def test_order_and_repetition_of_seeds_change_nothing(seed: int, s: int, t: int) -> None:
    random = np.random.default_rng(seed)
    dense, pruned = random.integers(0, 4, (s, 20)), random.integers(0, 4, (t, 20))
    found = pruning_identified_exemplars(dense, pruned)
    assert (pruning_identified_exemplars(random.permutation(dense), np.tile(pruned, (2, 1))) == found).all()
    assert (pruning_identified_exemplars(pruned, dense) == found).all()
    assert not pruning_identified_exemplars(dense, dense).any()


@pytest.mark.parametrize(
    ("dense", "pruned", "sentence"),
    [
        (np.zeros((2, 3), int), np.zeros((2, 4), int), "for 3 and for 4 images"),
        (np.zeros((0, 3), int), np.zeros((2, 3), int), r"shape \(0, 3\)"),
        (np.zeros(3, int), np.zeros((2, 3), int), r"shape \(3,\)"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "type float64"),
        (np.full((2, 3), -1), np.zeros((2, 3), int), "a class from 0 on"),
    ],
)
def test_what_are_no_predictions_is_refused(dense: Any, pruned: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        pruning_identified_exemplars(dense, pruned)
