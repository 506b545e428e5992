from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evalsuite.errors import UserError
from evalsuite.producers.unstructured.allocation import apportion, layer_counts


def layers_of_ones(*shapes: tuple[int, ...]) -> nn.Module:
    """Layers of these shapes, all weights one."""
    layers = [nn.Conv2d(s[1], s[0], s[2]) if len(s) == 4 else nn.Linear(s[1], s[0]) for s in shapes]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers)


def test_allocations_worked_by_hand() -> None:
    model = layers_of_ones((10, 10), (2, 2))
    assert [*layer_counts(model, "erk", 12).values()] == [10, 2]  # 20 and 4 parts
    assert [*layer_counts(model, "erk", 30).values()] == [26, 4]  # 25 and 5, but the second has 4
    assert [*layer_counts(model, "uniform", 52).values()] == [50, 2]
    convs = layers_of_ones((4, 3, 3, 3), (8, 4, 3, 3), (10, 8))  # 108, 288 and 80 weights
    assert [*layer_counts(convs, "uniform-plus", 200).values()] == [108, 72, 20]  # 92 left, 288 to 80
    assert [*layer_counts(convs, "uniform-plus", 140).values()] == [108, 16, 16]  # a fifth of 80 stays
    shares = np.array([4 + 3 + 3 + 3, 8 + 4 + 3 + 3, 10 + 8])
    assert [*layer_counts(convs, "erk", 98).values()] == (shares * 2).tolist()
    with pytest.raises(
        UserError, match=r"^too high a prune ratio for allocation 'uniform-plus': 124 weights may"
    ):
        layer_counts(convs, "uniform-plus", 124)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 50)), min_size=1, max_size=8), st.floats(0, 1))
def test_apportioned_numbers_add_up(layers: list[tuple[int, int]], share: float) -> None:
    upper, shares = [limit for limit, _ in layers], [weight for _, weight in layers]
    keep = len(upper) + int(share * (sum(upper) - len(upper)))
    counts = apportion(shares, [1] * len(upper), upper, keep)
    assert sum(counts) == keep
    assert all(1 <= count <= limit for count, limit in zip(counts, upper, strict=True))
    free = [(c, s) for c, s, limit in zip(counts, shares, upper, strict=True) if 1 < c < limit]
    for (count_a, share_a), (count_b, share_b) in pairwise(free):  # those within bounds are in proportion
        assert (count_a - 1) / share_a < (count_b + 1) / share_b
        assert (count_a + 1) / share_a > (count_b - 1) / share_b
