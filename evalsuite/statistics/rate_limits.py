"""One-sided exact limits of one rate."""

from __future__ import annotations

from scipy.special import betaincinv

from evalsuite.errors import DataError


def rate_lower_limit(successes: int, n: int, *, level: float = 0.95) -> float:
    """Returns the exact one-sided lower limit of a rate: a smaller one would give so many successes too rarely.

    Args:
        successes: Number of successes in 0..n.
        n: Number of trials, at least 1.
        level: One-sided confidence.

    References:
        Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".

    >>> round(rate_lower_limit(3, 20), 4), rate_lower_limit(0, 20)
    (0.0422, 0.0)
    """
    _check(successes, n)
    return 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, 1 - level))


def rate_upper_limit(successes: int, n: int, *, level: float = 0.95) -> float:
    """Returns the exact one-sided upper limit of a rate; see `rate_lower_limit`.

    >>> round(rate_upper_limit(0, 20), 4), rate_upper_limit(20, 20)
    (0.1391, 1.0)
    """
    _check(successes, n)
    return 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, level))


def _check(successes: int, n: int) -> None:
    if not 0 <= successes <= n or n < 1:
        raise DataError(f"found {successes} successes of {n}, expected 0 to n of at least 1")
