"""One-sided exact limits against SciPy's exact intervals, and by hand."""

from __future__ import annotations

import pytest
from scipy.stats import binom, binomtest

from evalsuite.errors import DataError
from evalsuite.statistics import rate_lower_limit, rate_upper_limit


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 20), (89, 899), (4999, 5000)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_limits_are_those_of_clopper_and_pearson(successes: int, n: int, level: float) -> None:
    exact = binomtest(successes, n).proportion_ci(2 * level - 1, method="exact")
    assert rate_lower_limit(successes, n, level=level) == pytest.approx(exact.low, abs=1e-9)
    assert rate_upper_limit(successes, n, level=level) == pytest.approx(exact.high, abs=1e-9)


def test_at_the_limit_so_many_successes_have_the_probability_that_is_left() -> None:
    assert binom.sf(2, 20, rate_lower_limit(3, 20)) == pytest.approx(0.05)
    assert binom.cdf(3, 20, rate_upper_limit(3, 20)) == pytest.approx(0.05)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(DataError, match="expected 0 to n of at least 1"):
        rate_lower_limit(successes, n)
