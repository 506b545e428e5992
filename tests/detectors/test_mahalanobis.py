"""Mahalanobis distances against scikit-learn and pytorch-ood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance

from evalsuite.detectors.mahalanobis import gaussians
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
        peer = (oracle.RMD if relative else oracle.Mahalanobis)(None)
        peer.fit_features(torch.from_numpy(world.training), torch.from_numpy(world.labels))
        expected = peer.predict_features(torch.from_numpy(world.both)).numpy()
    fitted = gaussians(world.training, world.labels)
    scores = (fitted.relative if relative else fitted.mahalanobis)(world.both)
    order = np.argsort(scores)
    assert (np.diff(expected[order]) > -1e-4 * np.abs(expected).max()).all()  # its sums are in float32
    assert np.corrcoef(scores, expected)[0, 1] > 0.99999


def test_dead_and_repeated_units_are_left_out(world: Any) -> None:
    complete = gaussians(world.training, world.labels).mahalanobis(world.both)
    weights = np.random.default_rng(0).normal(size=3).astype(np.float32)

    def degenerate(features: Any) -> Any:
        """Two dead units, and one that repeats three others up to float32 rounding."""
        return np.column_stack([np.zeros_like(features[:, :2]), features, features[:, :3] @ weights])

    fitted = gaussians(degenerate(world.training), world.labels)
    assert fitted.rank == world.training.shape[1]
    # the repetition changes no distance: the subspace is the same
    np.testing.assert_allclose(fitted.mahalanobis(degenerate(world.both)), complete, rtol=1e-3)


def test_with_more_units_than_images_the_pseudo_inverse_is_used() -> None:
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
