from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evalsuite.detectors.vim import principal, virtual_logit
from evalsuite.errors import SkippedError
from evalsuite.metrics import auroc
from evalsuite.models.features import Head


@pytest.mark.parametrize("dimensions", [3, 12, 23])
def test_pytorch_ood_finds_the_same_residual(world: Any, oracle: Any, dimensions: int) -> None:
    weight, bias = torch.from_numpy(world.head.weight), torch.from_numpy(world.head.bias)
    peer = oracle.ViM(None, d=dimensions, w=weight, b=bias)
    peer.fit_features(torch.from_numpy(world.training), torch.from_numpy(world.labels))
    expected = peer.predict_features(torch.from_numpy(world.both)).numpy()
    logits = world.logits(world.training)
    fitted = virtual_logit(world.training, logits, world.head, dimensions=dimensions)
    assert fitted.scale == pytest.approx(peer.alpha, rel=1e-4)
    scores = fitted.scores(world.both, world.logits(world.both))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-2)  # its sums are in float32
    split = len(world.inside)
    areas = [float(auroc(score[:split], score[split:])) for score in (scores, expected)]
    assert areas[0] == pytest.approx(areas[1], abs=1e-6)


def test_half_of_the_directions_are_principal(world: Any) -> None:
    assert [principal(width) for width in (2, 3, 512, 2048)] == [1, 1, 256, 1024]
    fitted = virtual_logit(world.training, world.logits(world.training), world.head)
    assert fitted.rest.shape == (24, 12)
    np.testing.assert_allclose(fitted.rest.T @ fitted.rest, np.eye(12), atol=1e-12)


def test_two_units_by_hand() -> None:
    # one class direction, no bias: the origin is 0; training features lie along x, with 1/10 of it along y
    head = Head(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), np.zeros(2, np.float32))
    training = np.array([[10.0, 1.0], [10.0, -1.0]])
    logits = training @ head.weight.T
    fitted = virtual_logit(training, logits, head, dimensions=1)
    assert fitted.scale == pytest.approx(10)  # largest logits 10, residuals 1
    scores = fitted.scores(np.array([[10.0, 3.0]]), np.array([[10.0, -10.0]]))
    assert scores[0] == pytest.approx(30 - 10, abs=1e-6)


def test_features_without_a_residual() -> None:
    head = Head(np.eye(2, 4, dtype=np.float32), np.zeros(2, np.float32))
    flat = np.random.default_rng(0).random((20, 4)) * [1, 1, 0, 0]
    with pytest.raises(
        SkippedError, match="of the training images lie in 2 of 4 directions: there is no residual"
    ):
        virtual_logit(flat, flat[:, :2], head)


def test_a_negative_scale_is_refused() -> None:
    """A constant added to all logits changes no prediction, but the sign of their mean largest."""
    random = np.random.default_rng(1)
    features = random.random((50, 4))
    head = Head(random.normal(size=(3, 4)).astype(np.float32), np.full(3, -100, np.float32))
    logits = features @ head.weight.T.astype(float) + head.bias
    with pytest.raises(SkippedError, match="expected more than 0: the virtual logit would be smaller"):
        virtual_logit(features, logits, head)
    assert virtual_logit(features, logits + 200, head).scale > 0
