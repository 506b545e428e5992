from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.detectors.odin import EPSILON, TEMPERATURE, odin
from evalsuite.errors import SkippedError
from evalsuite.models.inference import prepare_for_inference

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(), nn.Flatten(), nn.Linear(216, 4)
        ).eval()


class Line(nn.Module):
    """Two logits from the mean of the pixels: the gradient is known."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([100 * mean, -100 * mean], dim=1)


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_pytorch_ood_scores_alike(oracle: Any, temperature: float) -> None:
    model = network()
    peer = oracle.ODIN(model.double(), eps=0.01, temperature=temperature)
    expected = peer.predict(torch.from_numpy(IMAGES).double() / 255).numpy()
    scores = odin(prepare_for_inference(network()), IMAGES, temperature=temperature, epsilon=0.01)
    np.testing.assert_allclose(scores, expected, atol=2e-6 / temperature)  # ours computes in float32
    assert np.ptp(scores) > 20 * 2e-6 / temperature


def test_the_step_by_hand() -> None:
    grey = np.full((1, 3, 4, 4), 0.25, np.float32)
    # every pixel goes up by epsilon, since that raises the probability of the predicted class
    raised = 100 * (0.25 + 0.125) / TEMPERATURE
    assert odin(Line(), grey, epsilon=0.125)[0] == pytest.approx(-1 / (1 + np.exp(-2 * raised)), abs=1e-8)
    assert odin(Line(), grey)[0] == pytest.approx(
        -1 / (1 + np.exp(-2 * 100 * (0.25 + EPSILON) / 1000)), abs=1e-8
    )
    black = np.ones((1, 3, 4, 4), np.float32)
    assert odin(Line(), black, epsilon=0.5)[0] == pytest.approx(
        -1 / (1 + np.exp(-0.3)), abs=1e-8
    )  # 1.5: no clipping


def test_a_score_does_not_depend_on_the_position_and_the_model_is_unchanged() -> None:
    model = prepare_for_inference(network()).requires_grad_(False)
    scores = odin(model, IMAGES)
    np.testing.assert_array_equal(odin(model, IMAGES[:40]), scores[:40])
    np.testing.assert_allclose(odin(model, IMAGES.astype(np.float32) / 255), scores, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_models_without_gradients_are_skipped() -> None:
    class Steps(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)[:, :3]

    class Elsewhere(nn.Module):
        """Its logits have a gradient, but not with respect to the images."""

        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.ones(3))

        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)[:, :3] + self.offset

    for model in (Steps(), Elsewhere()):
        with pytest.raises(SkippedError, match="no gradient reaches the images"):
            odin(model, IMAGES)


def test_programs_without_gradients_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalsuite.detectors.odin.gradient_obstacle", lambda _: "ONNX: it runs elsewhere")
    with pytest.raises(
        SkippedError, match=r"^the model has no gradients \(ONNX: it runs elsewhere\), which ODIN needs"
    ):
        odin(Line(), IMAGES)
