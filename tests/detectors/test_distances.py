from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors

from evalsuite.detectors import distances
from evalsuite.detectors.distances import gaussians, neighbors
from evalsuite.errors import SkippedError


def within(world: Any) -> Any:
    means = np.stack([world.training[world.labels == c].mean(axis=0, dtype=np.float64) for c in range(5)])
    covariance = EmpiricalCovariance(assume_centered=True).fit(world.training - means[world.labels])
    return means, covariance


def test_scikit_learn_measures_the_same_distances(world: Any) -> None:
    means, covariance = within(world)
    expected = np.stack([covariance.mahalanobis(world.both - mean) for mean in means]).min(axis=0)
    fitted = gaussians(world.training, world.labels)
    np.testing.assert_allclose(fitted.mahalanobis(world.both), expected, rtol=1e-9)
    background = EmpiricalCovariance().fit(world.training.astype(np.float64)).mahalanobis(world.both)
    np.testing.assert_allclose(fitted.relative(world.both), expected - background, rtol=1e-8, atol=1e-8)
    assert fitted.rank == world.training.shape[1]


@pytest.mark.parametrize("relative", [False, True])
def test_pytorch_ood_ranks_alike(world: Any, oracle: Any, relative: bool) -> None:
    with torch.no_grad():
        theirs = (oracle.RMD if relative else oracle.Mahalanobis)(None)
        theirs.fit_features(torch.from_numpy(world.training), torch.from_numpy(world.labels))
        expected = theirs.predict_features(torch.from_numpy(world.both)).numpy()
    fitted = gaussians(world.training, world.labels)
    found = (fitted.relative if relative else fitted.mahalanobis)(world.both)
    order = np.argsort(found)
    assert (np.diff(expected[order]) > -1e-4 * np.abs(expected).max()).all()  # its sums are in float32
    assert np.corrcoef(found, expected)[0, 1] > 0.99999


def test_dead_and_repeated_units_are_left_out(world: Any) -> None:
    whole = gaussians(world.training, world.labels).mahalanobis(world.both)
    weights = np.random.default_rng(0).normal(size=3).astype(np.float32)

    def crippled(features: Any) -> Any:
        """Two dead units, and one that repeats three others up to float32 rounding."""
        return np.column_stack([np.zeros_like(features[:, :2]), features, features[:, :3] @ weights])

    fitted = gaussians(crippled(world.training), world.labels)
    assert fitted.rank == world.training.shape[1]
    # the repetition stretches no distance: what is measured is the same subspace
    np.testing.assert_allclose(fitted.mahalanobis(crippled(world.both)), whole, rtol=1e-3)


def test_more_units_than_images_are_those_of_the_pseudo_inverse() -> None:
    random = np.random.default_rng(1)
    h, labels = random.normal(size=(12, 40)), np.arange(12) % 3
    fitted = gaussians(h, labels)
    assert fitted.rank == 12 - 3
    means = np.stack([h[labels == c].mean(axis=0) for c in range(3)])
    inverse = np.linalg.pinv((h - means[labels]).T @ (h - means[labels]) / 12, rcond=1e-9)
    probe = random.normal(size=(4, 40))
    gaps = probe[:, None] - means
    expected = np.einsum("ncd,de,nce->nc", gaps, inverse, gaps).min(axis=1)
    np.testing.assert_allclose(fitted.mahalanobis(probe), expected, rtol=1e-7)


def test_one_dimension_by_hand() -> None:
    # classes at 0 and 10, variance 1 within each; all together: mean 5, variance 26
    fitted = gaussians(
        np.array([[-1.0], [1.0], [9.0], [11.0]]), np.array([0, 0, 4, 4])
    )  # classes 1 to 3 are absent
    probe = np.array([[3.0], [10.0], [5.0]])
    assert fitted.mahalanobis(probe).tolist() == pytest.approx([9, 0, 25])
    assert fitted.relative(probe).tolist() == pytest.approx([9 - 4 / 26, -25 / 26, 25])


def test_features_that_never_vary_have_no_distance() -> None:
    with pytest.raises(SkippedError, match="do not vary within classes: there is no covariance"):
        gaussians(np.eye(3)[[0, 1, 2, 0, 1, 2]], np.array([0, 1, 2, 0, 1, 2]))


@pytest.mark.parametrize("rank", [1, 7, 50, 400])
def test_scikit_learn_finds_the_same_neighbours(world: Any, rank: int) -> None:
    unit = distances.directions(world.training)
    oracle = NearestNeighbors(n_neighbors=rank, algorithm="brute").fit(unit)
    expected = oracle.kneighbors(distances.directions(world.both))[0][:, -1]
    fitted = neighbors(world.training, rank=rank)
    np.testing.assert_allclose(fitted.distances(world.both), expected, atol=1e-12)


def test_pytorch_ood_finds_the_same_neighbours(world: Any, oracle: Any) -> None:
    theirs = oracle.KNN(None, k=20)
    theirs.fit_features(torch.from_numpy(world.training), torch.from_numpy(world.labels))
    expected = theirs.predict_features(torch.from_numpy(world.both)).numpy()
    np.testing.assert_allclose(neighbors(world.training, rank=20).distances(world.both), expected, atol=1e-5)


def test_lengths_do_not_count_and_zero_features_are_a_point_of_their_own() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    near = neighbors(bank, rank=1).distances(np.array([[5.0, 0.0], [0.0, 0.1], [0.0, 0.0], [1.0, 1.0]]))
    assert near.tolist() == pytest.approx([0, 0, 0, np.sqrt(2 - np.sqrt(2))])
    assert near[:3].tolist() == [0, 0, 0]  # exactly, although cosines are of single precision
    second = neighbors(bank, rank=2).distances(np.array([[5.0, 0.0], [0.0, 0.0]]))
    assert second.tolist() == [1.0, 1.0]  # nearer than what is at right angles


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.integers(0, 12), st.integers(1, 20))
def test_dead_features_are_as_far_away_as_they_are(seed: int, dead: int, rank: int) -> None:
    random = np.random.default_rng(seed)
    training, asked = random.normal(size=(20, 5)), random.normal(size=(9, 5))
    training[:dead] = asked[:2] = 0
    unit = distances.directions(random.permutation(training))
    every = np.linalg.norm(distances.directions(asked)[:, None] - unit[None], axis=2)
    found = neighbors(unit, rank=rank).distances(asked)
    np.testing.assert_allclose(found, np.sort(every, axis=1)[:, rank - 1], rtol=0, atol=1e-12)


def test_outliers_of_a_half_dead_network_are_found_as_pytorch_ood_finds_them(oracle: Any) -> None:
    """Half of the images make no unit fire; ranked by cosines alone they would look farther than any outlier."""
    random = np.random.default_rng(5)
    training, test = np.abs(random.normal(size=(2, 400, 8))).astype(np.float32)
    training[::2] = test[::2] = 0
    outliers = np.abs(random.normal(size=(400, 8)) ** 3).astype(np.float32)
    theirs = oracle.KNN(None, k=20)
    theirs.fit_features(torch.from_numpy(training), torch.zeros(400, dtype=torch.long))
    for features in (test, outliers):
        expected = theirs.predict_features(torch.from_numpy(features)).numpy()
        found = neighbors(training, rank=20).distances(features)
        np.testing.assert_allclose(found, expected, atol=2e-3)  # theirs takes roots of rounded squares


def test_more_neighbours_than_images() -> None:
    with pytest.raises(
        SkippedError, match="there are 3 training images and the 4th nearest of them is asked for"
    ):
        neighbors(np.eye(3), rank=4)
