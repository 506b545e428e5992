"""The k-th nearest direction, against comparing every pair."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from evalsuite.detectors import nearest_neighbours as search
from evalsuite.detectors.nearest_neighbours import Nearest, doubtful, nearest

Floats = NDArray[np.float64]


def unit(numbers: Floats) -> Floats:
    found: Floats = numbers / np.linalg.norm(numbers, axis=1, keepdims=True)
    return found


def crowds(count: int, seed: int, *, spread: float = 0.3, classes: int = 7, width: int = 24) -> Floats:
    """Directions around a few means, as features of a classifier are; the means are those of every seed."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).random((classes, width))
    return unit(np.abs(means[rng.integers(classes, size=count)] + spread * rng.normal(size=(count, width))))


def expected(bank: Floats, queries: Floats, rank: int) -> Floats:
    oracle = NearestNeighbors(n_neighbors=rank, algorithm="kd_tree").fit(bank)
    found: Floats = oracle.kneighbors(queries)[0][:, -1]
    return found


def whole(bank: Floats, rank: int) -> Nearest:
    """As if nothing could be ruled out."""
    return Nearest(bank, (slice(0, len(bank)),), bank[:1].astype(np.float32), rank)


@pytest.mark.parametrize("rank", [1, 3, 20])
@pytest.mark.parametrize("queries", [crowds(150, 1), unit(np.random.default_rng(2).normal(size=(60, 24)))])
def test_scikit_learn_finds_the_same(queries: Floats, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = crowds(2000, 3)
    monkeypatch.setattr(search, "BLOCK", 1 << 15)  # the bank in several parts
    monkeypatch.setattr(search, "WORTH", 1.0)
    fitted = nearest(bank, rank)
    assert len(fitted.homes) > 5
    for one in (fitted, whole(bank, rank)):
        np.testing.assert_allclose(one.distances(queries), expected(bank, queries, rank), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spread", [0.1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_neighbours_closer_than_single_precision_are_told_apart(spread: float) -> None:
    """Cosines of features that collapse differ by less than their rounding."""
    bank, queries = crowds(1500, 4, spread=spread), crowds(40, 5, spread=spread)
    found = nearest(bank, 10).distances(queries)
    np.testing.assert_allclose(found, expected(bank, queries, 10), rtol=1e-9, atol=1e-14)


def test_an_answer_does_not_depend_on_what_else_is_asked() -> None:
    bank, queries = crowds(1500, 6, spread=1e-3), crowds(100, 7, spread=1e-3)
    fitted = nearest(bank, 10)
    alone = np.concatenate([fitted.distances(queries[i : i + 1]) for i in range(len(queries))])
    np.testing.assert_array_equal(fitted.distances(queries), alone)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 999),
    rank=st.integers(1, 6),
    count=st.integers(6, 300),
    width=st.integers(1, 12),
    copies=st.integers(1, 4),
    lonely=st.integers(0, 5),
)
def test_any_bank_is_searched_exactly(
    seed: int, rank: int, count: int, width: int, copies: int, lonely: int
) -> None:
    rng = np.random.default_rng(seed)
    bank = np.repeat(unit(rng.normal(size=(count, width))), copies, axis=0)
    bank[lonely:] = unit(bank[lonely:] + 3.0)  # so that the first ones are a home of a few
    queries = np.concatenate([bank[:10], unit(rng.normal(size=(20, width)))])
    every = np.sort(np.linalg.norm(queries[:, None] - bank[None], axis=2), axis=1)
    np.testing.assert_allclose(nearest(bank, rank).distances(queries), every[:, rank - 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", [10, 40, 60])
def test_a_home_that_is_too_small_is_searched_with_the_others(first: int) -> None:
    """A few directions apart from a crowd are no home of their own, and the crowd is not everything."""
    rng = np.random.default_rng(8)
    few, many = rng.normal(size=(2, 24))
    bank = unit(
        np.concatenate([few + 0.1 * rng.normal(size=(first, 24)), many + rng.normal(size=(1000 - first, 24))])
    )
    queries = unit(np.concatenate([few + 0.1 * rng.normal(size=(20, 24)), many + rng.normal(size=(20, 24))]))
    found = nearest(bank, 50).distances(queries)
    np.testing.assert_allclose(found, expected(bank, queries, 50), rtol=0, atol=1e-12)


def test_the_short_form_is_not_below_the_cosine_but_for_rounding() -> None:
    bank, queries = crowds(1500, 4), crowds(100, 5)
    sketch = nearest(bank, 5).sketch
    bounds = sketch(queries).astype(float) @ sketch(bank).T.astype(float)
    assert sketch(bank).shape[1] == 6
    assert (bounds >= queries @ bank.T - 1e-6).all()
    assert np.median(bounds - queries @ bank.T) < 0.2  # and it tells something


def test_most_of_the_bank_is_not_compared() -> None:
    bank, queries = crowds(4000, 6, spread=0.05), crowds(300, 7, spread=0.05)
    fitted = nearest(bank, 10)
    shares = [
        len(fitted.near(queries[rows].astype(np.float32), home)) / len(bank)
        for home, rows in fitted._visits(queries.astype(np.float32))
    ]
    assert max(shares) < 1 / 3


def test_directions_that_do_not_crowd_are_one_home() -> None:
    bank = unit(np.random.default_rng(9).normal(size=(3000, 24)))
    assert [(home.start, home.stop) for home in nearest(bank, 10).homes] == [(0, 3000)]


def test_every_home_has_enough_and_none_is_lost() -> None:
    bank = crowds(3000, 8, spread=0.1)
    fitted = nearest(bank, 12)
    assert len(fitted.homes) == len(fitted.centers) > 3
    assert all(home.stop - home.start >= 12 for home in fitted.homes)
    assert all(a.stop <= b.start for a, b in pairwise(fitted.homes))
    np.testing.assert_array_equal(np.unique(fitted.bank, axis=0), np.unique(bank, axis=0))


def test_a_small_bank_is_one_home() -> None:
    fitted = nearest(crowds(100, 9), 50)
    assert [(home.start, home.stop) for home in fitted.homes] == [(0, 100)]


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    count=st.integers(1, 80),
    rows=st.integers(1, 4),
    rounding=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_the_doubtful_are_those_around_the_kth_largest(
    data: st.DataObject, count: int, rows: int, rounding: float
) -> None:
    rank = data.draw(st.integers(1, count))
    numbers = np.random.default_rng(count * rows).integers(-4, 5, (rows, count)).astype(np.float32)
    kth = np.sort(numbers, axis=1)[:, count - rank]
    found = doubtful(numbers, rank, rounding)
    row, place = np.nonzero(np.abs(numbers - kth[:, None]) <= rounding)
    np.testing.assert_array_equal(found.row, row)
    np.testing.assert_array_equal(found.place, place)
    np.testing.assert_array_equal(found.rank, rank - (numbers > (kth + rounding)[:, None]).sum(axis=1))
