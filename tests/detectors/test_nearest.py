"""The k-th nearest direction, against comparing every pair."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from evalsuite.detectors import nearest as search
from evalsuite.detectors.nearest import Nearest, kth_largest, nearest

Floats = NDArray[np.float32]


def unit(numbers: NDArray[np.float64]) -> Floats:
    found: Floats = (numbers / np.linalg.norm(numbers, axis=1, keepdims=True)).astype(np.float32)
    return found


def crowds(count: int, seed: int, *, spread: float = 0.3, classes: int = 7, width: int = 24) -> Floats:
    """Directions around a few means, as features of a classifier are; the means are those of every seed."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).random((classes, width))
    return unit(np.abs(means[rng.integers(classes, size=count)] + spread * rng.normal(size=(count, width))))


def distances(fitted: Nearest, bank: Floats, queries: Floats) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.linalg.norm(
        queries.astype(float) - bank[fitted.places(queries)].astype(float), axis=1
    )
    return found


def expected(bank: Floats, queries: Floats, rank: int) -> NDArray[np.float64]:
    oracle = NearestNeighbors(n_neighbors=rank, algorithm="brute").fit(bank.astype(float))
    found: NDArray[np.float64] = oracle.kneighbors(queries.astype(float))[0][:, -1]
    return found


@pytest.mark.parametrize("rank", [1, 3, 20])
@pytest.mark.parametrize("queries", [crowds(150, 1), unit(np.random.default_rng(2).normal(size=(60, 24)))])
def test_scikit_learn_finds_the_same(queries: Floats, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = crowds(2000, 3)
    monkeypatch.setattr(search, "BLOCK", 1 << 15)  # the bank in several parts
    fitted = nearest(bank, rank)
    assert len(fitted.homes) > 5
    np.testing.assert_allclose(distances(fitted, bank, queries), expected(bank, queries, rank), atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    rank=st.integers(1, 6),
    count=st.integers(6, 300),
    width=st.integers(1, 12),
    copies=st.integers(1, 4),
)
def test_any_bank_is_searched_exactly(seed: int, rank: int, count: int, width: int, copies: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, width))
    numbers[rng.random(count) < 0.1] = 0  # features of which no unit fires have no direction
    length = np.linalg.norm(numbers, axis=1, keepdims=True)
    bank = np.divide(numbers, length, out=np.zeros_like(numbers), where=length > 0).astype(np.float32)
    bank = np.repeat(bank, copies, axis=0)
    queries = np.concatenate([bank[:10], unit(rng.normal(size=(20, width)))])
    order = np.sort(queries @ bank.T, axis=1)[:, len(bank) - rank]
    found = np.sum(queries * bank[nearest(bank, rank).places(queries)], axis=1)
    np.testing.assert_allclose(found, order, atol=1e-6)


def test_the_short_form_is_never_below_the_cosine() -> None:
    bank, queries = crowds(1500, 4), crowds(100, 5)
    sketch = nearest(bank, 5).sketch
    cosines = queries.astype(float) @ bank.T.astype(float)
    bounds = sketch(queries).astype(float) @ sketch(bank).T.astype(float)
    assert sketch(bank).shape[1] == 6
    assert (bounds >= cosines - 1e-6).all()
    assert np.median(bounds - cosines) < 0.2  # and it tells something


def test_most_of_the_bank_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = crowds(4000, 6, spread=0.05), crowds(300, 7, spread=0.05)
    compared: list[int] = []

    def counted(numbers: Floats, rank: int) -> NDArray[np.intp]:
        compared.append(numbers.shape[1])
        return kth_largest(numbers, rank)

    monkeypatch.setattr(search, "kth_largest", counted)
    nearest(bank, 10).places(queries)
    assert max(compared) < len(bank) / 3


def test_every_home_has_enough_and_none_is_lost() -> None:
    bank = crowds(3000, 8)
    fitted = nearest(bank, 12)
    assert len(fitted.homes) == len(fitted.centers)
    assert all(home.stop - home.start >= 12 for home in fitted.homes)
    assert all(a.stop <= b.start for a, b in pairwise(fitted.homes))
    np.testing.assert_array_equal(np.sort(fitted.order), np.arange(3000))
    np.testing.assert_array_equal(fitted.bank, bank[fitted.order])


def test_a_small_bank_is_one_home() -> None:
    fitted = nearest(crowds(100, 9), 50)
    assert [(home.start, home.stop) for home in fitted.homes] == [(0, 100)]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), count=st.integers(1, 80), rows=st.integers(1, 4))
def test_the_kth_largest_is_that_of_a_sort(data: st.DataObject, count: int, rows: int) -> None:
    rank = data.draw(st.integers(1, count))
    numbers = np.random.default_rng(count * rows).integers(-4, 5, (rows, count)).astype(np.float32)
    found = np.take_along_axis(numbers, kth_largest(numbers, rank)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(found, np.sort(numbers, axis=1)[:, count - rank])
