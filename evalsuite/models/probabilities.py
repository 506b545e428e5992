"""Outputs that are probabilities and no logits: told by their range and sums, in the precision that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT32_SUM = 1e-5
"""How far a row of float32 probabilities may be from a sum of 1."""
MANY_ROWS = 64
"""Rows from which on a range of exactly [0, 1] is no accident: a logit of a wrong class is negative now and then."""
_ENDS = 0.05  # a sigmoid comes this near to 0 and to 1 over many images
_LEVELS = 256  # of numbers of eight bits
_HALF_BITS = {"float16": 11, "bfloat16": 8}  # of the significand, the hidden one included


def probabilities_in(values: NDArray[np.float32]) -> str:
    """Returns why the outputs of a network are probabilities, as part of a sentence; empty if they may be logits.

    A softmax is told by rows in [0, 1] that sum to 1 within the precision of their numbers: float32, half precision,
    or the levels of a quantised output, each of which is rounded. A sigmoid is told by a range of [0, 1] over
    `MANY_ROWS` images that comes near to both ends.

    Args:
        values: Finite, (N, K).

    >>> probabilities_in(np.float32([[0.25, 0.75], [0.5, 0.5]]))
    'rows in [0, 1] that sum to 1'
    >>> probabilities_in(np.float32([[0.25, -0.75], [0.5, 0.5]]))
    ''
    """
    if values.min() < 0 or values.max() > 1:
        return ""
    gap = float(np.abs(values.sum(axis=1, dtype=np.float64) - 1).max())
    if gap <= FLOAT32_SUM:
        return "rows in [0, 1] that sum to 1"
    for precision, tolerance in _sum_tolerances(values).items():
        if gap <= tolerance:
            return f"rows in [0, 1] that sum to 1 within the rounding of {precision}"
    near_both = values.min() < _ENDS and values.max() > 1 - _ENDS
    if len(values) >= MANY_ROWS and near_both:
        return f"numbers in [0, 1] alone on {len(values)} images, as a sigmoid does"
    return ""


def _sum_tolerances(values: NDArray[np.float32]) -> dict[str, float]:
    """How far a sum of K probabilities may be from 1, for each precision that these numbers can have.

    Halves are rounded relative to their size, so that the sum is as well, with a few roundings of the softmax itself;
    levels have an absolute error, of which many classes add up: but no sum of a softmax is far from 1.
    """
    classes = values.shape[1]
    words = values.astype(np.float32).view(np.uint32)
    tolerances: dict[str, float] = {}
    if np.array_equal(values.astype(np.float16).astype(np.float32), values):
        tolerances["float16"] = 4 * 2.0 ** -_HALF_BITS["float16"] + classes * 2.0**-25  # half a subnormal
    if not (words & 0xFFFF).any():
        tolerances["bfloat16"] = 4 * 2.0 ** -_HALF_BITS["bfloat16"]
    if step := _step(values):
        tolerances["8 bits"] = min(
            classes * step / 2 + step, 0.25
        )  # the largest may be cut off at the last level
    return tolerances


def _step(values: NDArray[np.float32]) -> float:
    """The distance of neighbouring levels where all numbers are multiples of one, as of a quantised output; else 0."""
    levels = np.unique(values)
    if not 2 < len(levels) <= _LEVELS:
        return 0.0
    step = float(np.diff(levels.astype(np.float64)).min())
    multiples = levels / step
    are_multiples = np.abs(multiples - np.rint(multiples)).max() < 0.01
    return step if are_multiples and 1 / step >= _LEVELS / 4 else 0.0
