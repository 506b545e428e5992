from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from evalsuite.detectors.logits import entropy, gen, max_logit
from evalsuite.metrics import auroc, energy, msp, softmax

if TYPE_CHECKING:
    from evalsuite.types import Array

ROWS = st.integers(2, 8).flatmap(
    lambda k: st.lists(st.lists(st.integers(-40, 40), min_size=k, max_size=k), min_size=1, max_size=6)
)


@pytest.mark.parametrize(
    ("score", "peer"),
    [
        (msp, "MaxSoftmax"),
        (max_logit, "MaxLogit"),
        (energy, "EnergyBased"),
        (entropy, "Entropy"),
        (gen, "GEN"),
    ],
)
def test_pytorch_ood_ranks_alike(world: Any, oracle: Any, score: Any, peer: str) -> None:
    z = world.logits(world.both) / 6  # it clips probabilities at 1e-7
    expected = getattr(oracle, peer)(None).predict_logits(torch.from_numpy(z).double()).numpy()
    scores = score(z)
    if peer == "GEN":
        expected = expected * z.shape[1]  # its mean over classes
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    split = len(world.inside)
    peer_area = auroc(expected[:split], expected[split:])
    assert float(auroc(scores[:split], scores[split:])) == pytest.approx(float(peer_area), abs=1e-6)
    assert 0.6 < peer_area < 1


def test_gen_depends_on_the_largest_probabilities_alone() -> None:
    z = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    p = np.array([0.5, 0.3])
    assert gen(z, gamma=0.5, largest=2)[0] == pytest.approx(np.sqrt(p * (1 - p)).sum())
    assert gen(z, gamma=0.5)[0] == pytest.approx(np.sqrt(np.exp(z) * (1 - np.exp(z))).sum())


def test_two_classes_by_hand() -> None:
    z = np.log(np.array([[0.8, 0.2], [0.5, 0.5]]))
    assert entropy(z).tolist() == pytest.approx([-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), np.log(2)])
    assert gen(z).tolist() == pytest.approx([2 * 0.16**0.1, 2 * 0.25**0.1])
    assert max_logit(z).tolist() == pytest.approx([-np.log(0.8), -np.log(0.5)])


def test_certainty_beyond_rounding_is_still_finite() -> None:
    z = np.array([[1000.0, 0.0, 0.0], [40.0, 0.0, 0.0], [39.0, 0.0, 0.0]], np.float32)
    for score in (entropy, gen, max_logit):
        scores = score(z)
        assert np.isfinite(scores).all()
        assert (np.diff(scores) > 0).all()  # the surer, the further inside; float32 would tie the last two


@settings(max_examples=60)
@given(rows=ROWS, shift=st.integers(-30, 30))
def test_a_shift_of_all_logits_changes_no_probability(rows: list[list[int]], shift: int) -> None:
    z: Array = np.array(rows) / 4
    np.testing.assert_allclose(entropy(z + shift), entropy(z), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gen(z + shift), gen(z), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(max_logit(z + shift), max_logit(z) - shift)
    np.testing.assert_allclose(entropy(z), scipy_entropy(softmax(z), axis=1), rtol=1e-9, atol=1e-12)
