"""The k-th nearest direction, against comparing every pair."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from evalsuite.detectors import nearest_neighbours
from evalsuite.detectors.nearest_neighbours import (
    NeighborIndex,
    directions,
    neighbor_index,
    neighbors,
    undecided,
)
from evalsuite.errors import SkippedError

Floats = NDArray[np.float64]


def unit(numbers: Floats) -> Floats:
    normalised: Floats = numbers / np.linalg.norm(numbers, axis=1, keepdims=True)
    return normalised


def clustered(count: int, seed: int, *, spread: float = 0.3, classes: int = 7, width: int = 24) -> Floats:
    """Directions around a few means, as features of a classifier are; the means are those of every seed."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).random((classes, width))
    return unit(np.abs(means[rng.integers(classes, size=count)] + spread * rng.normal(size=(count, width))))


def expected(bank: Floats, queries: Floats, rank: int) -> Floats:
    oracle = NearestNeighbors(n_neighbors=rank, algorithm="kd_tree").fit(bank)
    distances: Floats = oracle.kneighbors(queries)[0][:, -1]
    return distances


def exhaustive(bank: Floats, rank: int) -> NeighborIndex:
    """An index that rules nothing out."""
    return NeighborIndex(bank, (slice(0, len(bank)),), bank[:1].astype(np.float32), rank)


@pytest.mark.parametrize("rank", [1, 3, 20])
@pytest.mark.parametrize("queries", [clustered(150, 1), unit(np.random.default_rng(2).normal(size=(60, 24)))])
def test_scikit_learn_finds_the_same(queries: Floats, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = clustered(2000, 3)
    monkeypatch.setattr(nearest_neighbours, "COSINES_AT_ONCE", 1 << 15)  # the bank in several parts
    monkeypatch.setattr(nearest_neighbours, "WORTHWHILE", 1.0)
    index = neighbor_index(bank, rank)
    assert len(index.clusters) > 5
    for searched in (index, exhaustive(bank, rank)):
        np.testing.assert_allclose(
            searched.distances(queries), expected(bank, queries, rank), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("spread", [0.1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_neighbours_closer_than_single_precision_are_distinguished(spread: float) -> None:
    """Cosines of features that collapse differ by less than their rounding."""
    bank, queries = clustered(1500, 4, spread=spread), clustered(40, 5, spread=spread)
    distances = neighbor_index(bank, 10).distances(queries)
    np.testing.assert_allclose(distances, expected(bank, queries, 10), rtol=1e-9, atol=1e-14)


def test_a_distance_does_not_depend_on_the_other_queries() -> None:
    bank, queries = clustered(1500, 6, spread=1e-3), clustered(100, 7, spread=1e-3)
    index = neighbor_index(bank, 10)
    one_by_one = np.concatenate([index.distances(queries[i : i + 1]) for i in range(len(queries))])
    np.testing.assert_array_equal(index.distances(queries), one_by_one)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 999),
    rank=st.integers(1, 6),
    count=st.integers(6, 300),
    width=st.integers(1, 12),
    copies=st.integers(1, 4),
    apart=st.integers(0, 5),
)
def test_any_bank_is_searched_exactly(
    seed: int, rank: int, count: int, width: int, copies: int, apart: int
) -> None:
    rng = np.random.default_rng(seed)
    bank = np.repeat(unit(rng.normal(size=(count, width))), copies, axis=0)
    bank[apart:] = unit(bank[apart:] + 3.0)  # so that the first ones are a small cluster
    queries = np.concatenate([bank[:10], unit(rng.normal(size=(20, width)))])
    pairs = np.sort(np.linalg.norm(queries[:, None] - bank[None], axis=2), axis=1)
    np.testing.assert_allclose(
        neighbor_index(bank, rank).distances(queries), pairs[:, rank - 1], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("first", [10, 40, 60])
def test_a_cluster_that_is_too_small_is_searched_with_the_others(first: int) -> None:
    """A few directions apart from a large cluster make no cluster, but are searched as well."""
    rng = np.random.default_rng(8)
    small, large = rng.normal(size=(2, 24))
    bank = unit(
        np.concatenate(
            [small + 0.1 * rng.normal(size=(first, 24)), large + rng.normal(size=(1000 - first, 24))]
        )
    )
    queries = unit(
        np.concatenate([small + 0.1 * rng.normal(size=(20, 24)), large + rng.normal(size=(20, 24))])
    )
    distances = neighbor_index(bank, 50).distances(queries)
    np.testing.assert_allclose(distances, expected(bank, queries, 50), rtol=0, atol=1e-12)


def test_the_sketch_bounds_the_cosine_from_above() -> None:
    bank, queries = clustered(1500, 4), clustered(100, 5)
    sketch = neighbor_index(bank, 5).sketch
    bounds = sketch(queries).astype(float) @ sketch(bank).T.astype(float)
    assert sketch(bank).shape[1] == 6
    assert (bounds >= queries @ bank.T - 1e-6).all()
    assert np.median(bounds - queries @ bank.T) < 0.2  # and the bound is close


def test_most_of_the_bank_is_not_compared() -> None:
    bank, queries = clustered(4000, 6, spread=0.05), clustered(300, 7, spread=0.05)
    index = neighbor_index(bank, 10)
    shares = [
        len(index.candidates(queries[rows].astype(np.float32), cluster)) / len(bank)
        for cluster, rows in index._batches(queries.astype(np.float32))
    ]
    assert max(shares) < 1 / 3


def test_directions_that_do_not_cluster_are_one_cluster() -> None:
    bank = unit(np.random.default_rng(9).normal(size=(3000, 24)))
    assert [(cluster.start, cluster.stop) for cluster in neighbor_index(bank, 10).clusters] == [(0, 3000)]


def test_every_cluster_has_enough_directions_and_none_is_lost() -> None:
    bank = clustered(3000, 8, spread=0.1)
    index = neighbor_index(bank, 12)
    assert len(index.clusters) == len(index.centers) > 3
    assert all(cluster.stop - cluster.start >= 12 for cluster in index.clusters)
    assert all(a.stop <= b.start for a, b in pairwise(index.clusters))
    np.testing.assert_array_equal(np.unique(index.bank, axis=0), np.unique(bank, axis=0))


def test_a_small_bank_is_one_cluster() -> None:
    index = neighbor_index(clustered(100, 9), 50)
    assert [(cluster.start, cluster.stop) for cluster in index.clusters] == [(0, 100)]


@settings(max_examples=150)
@given(
    data=st.data(),
    count=st.integers(1, 80),
    rows=st.integers(1, 4),
    rounding=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_the_undecided_are_those_around_the_kth_largest(
    data: st.DataObject, count: int, rows: int, rounding: float
) -> None:
    rank = data.draw(st.integers(1, count))
    numbers = np.random.default_rng(count * rows).integers(-4, 5, (rows, count)).astype(np.float32)
    kth = np.sort(numbers, axis=1)[:, count - rank]
    close = undecided(numbers, rank, rounding)
    row, column = np.nonzero(np.abs(numbers - kth[:, None]) <= rounding)
    np.testing.assert_array_equal(close.row, row)
    np.testing.assert_array_equal(close.column, column)
    np.testing.assert_array_equal(close.rank, rank - (numbers > (kth + rounding)[:, None]).sum(axis=1))


@pytest.mark.parametrize("rank", [1, 7, 50, 400])
def test_scikit_learn_finds_the_same_neighbours(world: Any, rank: int) -> None:
    bank = directions(world.training)
    oracle = NearestNeighbors(n_neighbors=rank, algorithm="brute").fit(bank)
    expected = oracle.kneighbors(directions(world.both))[0][:, -1]
    fitted = neighbors(world.training, rank=rank)
    np.testing.assert_allclose(fitted.distances(world.both), expected, atol=1e-12)


def test_pytorch_ood_finds_the_same_neighbours(world: Any, oracle: Any) -> None:
    peer = oracle.KNN(None, k=20)
    peer.fit_features(torch.from_numpy(world.training), torch.from_numpy(world.labels))
    expected = peer.predict_features(torch.from_numpy(world.both)).numpy()
    np.testing.assert_allclose(neighbors(world.training, rank=20).distances(world.both), expected, atol=1e-5)


def test_lengths_do_not_count_and_zero_features_are_a_point_of_their_own() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    near = neighbors(bank, rank=1).distances(np.array([[5.0, 0.0], [0.0, 0.1], [0.0, 0.0], [1.0, 1.0]]))
    assert near.tolist() == pytest.approx([0, 0, 0, np.sqrt(2 - np.sqrt(2))])
    assert near[:3].tolist() == [0, 0, 0]  # exactly, although cosines are of single precision
    second = neighbors(bank, rank=2).distances(np.array([[5.0, 0.0], [0.0, 0.0]]))
    assert second.tolist() == [1.0, 1.0]  # nearer than directions at right angles


@settings(max_examples=60)
@given(st.integers(0, 99), st.integers(0, 12), st.integers(1, 20))
def test_zero_features_are_at_their_distance(seed: int, zeros: int, rank: int) -> None:
    random = np.random.default_rng(seed)
    training, queries = random.normal(size=(20, 5)), random.normal(size=(9, 5))
    training[:zeros] = queries[:2] = 0
    bank = directions(random.permutation(training))
    pairs = np.linalg.norm(directions(queries)[:, None] - bank[None], axis=2)
    measured = neighbors(bank, rank=rank).distances(queries)
    np.testing.assert_allclose(measured, np.sort(pairs, axis=1)[:, rank - 1], rtol=0, atol=1e-12)


def test_outliers_of_a_half_dead_network_are_found_as_pytorch_ood_finds_them(oracle: Any) -> None:
    """Half of the images make no unit fire; ranked by cosines alone they would look farther than any outlier."""
    random = np.random.default_rng(5)
    training, test = np.abs(random.normal(size=(2, 400, 8))).astype(np.float32)
    training[::2] = test[::2] = 0
    outliers = np.abs(random.normal(size=(400, 8)) ** 3).astype(np.float32)
    peer = oracle.KNN(None, k=20)
    peer.fit_features(torch.from_numpy(training), torch.zeros(400, dtype=torch.long))
    for features in (test, outliers):
        expected = peer.predict_features(torch.from_numpy(features)).numpy()
        measured = neighbors(training, rank=20).distances(features)
        np.testing.assert_allclose(
            measured, expected, atol=2e-3
        )  # pytorch-ood takes roots of rounded squares


def test_more_neighbours_than_images() -> None:
    with pytest.raises(
        SkippedError, match="found 3 training images, expected at least 4, the rank of the neighbour"
    ):
        neighbors(np.eye(3), rank=4)
