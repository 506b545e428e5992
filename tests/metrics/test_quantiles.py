from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.errors import ContractError, DataError
from evalsuite.metrics import distinct, evaluate, median

VALUES = st.lists(st.integers(-50, 50), min_size=1, max_size=12)


@given(VALUES)
def test_without_weights_it_is_numpys(values: list[int]) -> None:
    assert float(median(np.array(values))) == np.median(values)


@given(VALUES, st.data())
def test_counts_repeat_images(values: list[int], data: st.DataObject) -> None:
    rows = st.lists(st.integers(0, 4), min_size=len(values), max_size=len(values)).filter(any)
    weights = np.array([data.draw(rows) for _ in range(3)])
    expected = [np.median(np.repeat(values, row)) for row in weights]
    np.testing.assert_array_equal(median(np.array(values), weights=[weights]), expected)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([5.0], [3.0], 5.0),
        ([1.0, 2.0], [1.0, 1.0], 1.5),
        ([1.0, 2.0], [1.0, 1.5], 2.0),
        ([2.0, 1.0, 3.0], [0.5, 0.5, 1.0], 2.5),
        ([1.0, 1.0, 9.0], [1.0, 0.0, 1.0], 5.0),
    ],
    ids=["one", "two", "heavier", "fractions", "zero weight"],
)
def test_by_hand(values: list[float], weights: list[float], expected: float) -> None:
    assert median(np.array(values), weights=[np.array([weights])]) == pytest.approx(expected, abs=0)


def test_the_median_is_a_functional() -> None:
    assert float(evaluate("median", {"test": np.array([0.0, 4.0, 1.0])})) == 1.0
    with pytest.raises(DataError, match="empty"):
        median(np.array([]))
    with pytest.raises(ContractError, match="not finite"):
        median(np.array([1.0, np.inf]))


@settings(max_examples=40)
@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_distinct_values_are_those_of_the_images_that_are_drawn(values: list[int], seed: int) -> None:
    x = np.array(values)
    weights = np.random.default_rng(seed).integers(0, 2, (4, len(x)))
    weights[:, 0] += weights.sum(axis=1) == 0
    assert distinct(x).item() == len(set(values))
    expected = [len(np.unique(x[row > 0])) for row in weights]
    assert distinct(x, weights=[weights]).tolist() == expected
