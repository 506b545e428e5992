"""The interval of a median: by hand, against scipy, and how often it holds the median."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import quantile_test

from evalsuite.errors import DataError
from evalsuite.statistics.intervals import FEWEST_VALUES, median_interval


def test_nine_values_by_hand() -> None:
    """P(Bin(9, 1/2) <= 1) = 10 / 512 = 0.0195 and P(... <= 2) = 0.0898: one value may be left out at each end."""
    assert median_interval([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]) == (2.0, 8.0)
    assert median_interval(range(1, 10), level=0.8) == (3.0, 7.0)


@given(
    st.lists(st.integers(-1000, 1000), min_size=FEWEST_VALUES, max_size=80), st.sampled_from([0.5, 0.9, 0.95])
)
def test_it_is_scipys(values: list[int], level: float) -> None:
    theirs: Any = quantile_test(values, p=0.5).confidence_interval(level)
    assert median_interval(values, level=level) == (theirs.low, theirs.high)


def test_too_few_values_are_told() -> None:
    with pytest.raises(DataError, match=r"^found 5 values, too few for an interval of their median at 95%$"):
        median_interval([1.0, 2.0, 3.0, 4.0, 5.0])


def test_it_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [median_interval(rng.exponential(size=30)) for _ in range(2000)]
    held = np.mean([low <= np.log(2) <= high for low, high in found])
    assert held >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 2000)
    assert held < 0.99
