from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.detectors.shaping import ash, gradnorm, logits_of_features, react, react_limit, scale
from evalsuite.errors import SkippedError
from evalsuite.metrics import energy
from evalsuite.models.features import Head

PLAIN = Head(np.eye(4, dtype=np.float32)[:2], np.zeros(2, np.float32))


def classifier(world: Any) -> nn.Sequential:
    """The head of the world in the form of pytorch-ood: of maps (N, D, 1, 1), in float64."""
    linear = nn.Linear(world.head.weight.shape[1], len(world.head.weight)).double()
    linear.weight.data = torch.from_numpy(world.head.weight).double()
    linear.bias.data = torch.from_numpy(world.head.bias).double()
    return nn.Sequential(nn.Flatten(), linear)


def maps(features: Any) -> torch.Tensor:
    return torch.from_numpy(features).double()[:, :, None, None]


@pytest.mark.parametrize("percentile", [65, 90])
@pytest.mark.parametrize("variant", ["ash_b", "ash_p", "ash_s", "scale"])
def test_pytorch_ood_shapes_alike(world: Any, oracle: Any, variant: str, percentile: int) -> None:
    module = importlib.import_module(f"{oracle.__name__}.{variant.partition('_')[0]}")
    features = world.both[(world.both > 0).sum(axis=1) > 12]  # zeros tie, and it fills any of them
    assert len(features) > 150
    shaped = getattr(module, variant)(maps(features), percentile / 100)
    with torch.no_grad():
        expected = oracle.EnergyBased.score(classifier(world)(shaped)).numpy()
    if variant == "scale":
        scores = scale(features, world.head, percentile=percentile)
    else:
        scores = ash(features, world.head, variant=variant[-1], percentile=percentile)  # type: ignore[arg-type]  # a letter of a Literal
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_pytorch_ood_clips_alike(world: Any, oracle: Any) -> None:
    peer = oracle.ReAct(None, classifier(world))
    peer.fit_feature_maps(maps(world.training), torch.from_numpy(world.labels))
    limit = react_limit(world.training)
    assert limit == pytest.approx(peer.threshold, rel=1e-6)
    expected = peer.predict_feature_maps(maps(world.both)).numpy()
    np.testing.assert_allclose(react(world.both, world.head, limit=limit), expected, rtol=1e-6)
    assert (world.both > limit).any()


def test_pytorch_ood_finds_the_same_gradients(world: Any, oracle: Any) -> None:
    features = world.both[::10]
    peer = oracle.GradNorm(classifier(world)[1], param_filter=lambda name: name == "weight")
    expected = peer.predict(torch.from_numpy(features).double()).numpy()
    np.testing.assert_allclose(gradnorm(features, world.logits(features)), expected, rtol=1e-5)


def test_logits_of_features_are_the_models(world: Any) -> None:
    np.testing.assert_allclose(
        logits_of_features(world.both, world.head), world.logits(world.both), rtol=1e-4, atol=1e-5
    )
    nothing_clipped = react(world.both, world.head, limit=float(world.both.max()))
    np.testing.assert_allclose(nothing_clipped, energy(logits_of_features(world.both, world.head)))


def test_half_of_four_by_hand() -> None:
    h = np.array([[4.0, 1.0, 2.0, 1.0]])
    # kept are 4 and 2, of a sum of 8; the classifier sees the first two: 4 and 0
    by_hand = {"p": [4, 0], "b": [4, 0], "s": [4 * np.exp(8 / 6), 0]}
    for variant, z in by_hand.items():
        scores = ash(h, PLAIN, variant=variant, percentile=50)  # type: ignore[arg-type]  # a letter of a Literal
        assert scores[0] == pytest.approx(-np.logaddexp(*z)), variant
    assert scale(h, PLAIN, percentile=50)[0] == pytest.approx(-np.logaddexp(*(np.exp(8 / 6) * h[0, :2])))


def test_of_equal_activations_the_first_are_kept() -> None:
    h = np.array([[1.0, 1.0, 1.0, 1.0]])
    assert ash(h, PLAIN, variant="p", percentile=75)[0] == pytest.approx(-np.logaddexp(1, 0))
    assert ash(h, PLAIN, variant="b", percentile=75)[0] == pytest.approx(-np.logaddexp(4, 0))
    assert ash(h, PLAIN, variant="p", percentile=100)[0] == pytest.approx(-np.logaddexp(1, 0))  # at least one


def test_an_image_without_activation_has_the_energy_of_the_bias() -> None:
    silent = np.zeros((1, 4), np.float32)
    scores = [ash(silent, PLAIN, variant=v) for v in ("b", "p", "s")] + [scale(silent, PLAIN)]
    assert [score[0] for score in scores] == pytest.approx([-np.log(2)] * 4)


def test_negative_activations_have_no_shares() -> None:
    for score in (ash, scale):
        with pytest.raises(
            SkippedError, match=r"found penultimate features down to -1, expected none below 0"
        ):
            score(np.array([[1.0, -1.0, 0.0, 0.0]]), PLAIN)
