"""Screened precision: most likely classes are those of single precision, whatever bfloat16 does to logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.attacks.backends.foolbox import FixedRadiusAttack, attack_success
from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.models import engines
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.engines import Engine, half_precision, with_precision
from evalsuite.models.inference import logits, prepare_for_inference
from evalsuite.models.screening import SAFETY, HalfModel, largest_move, screen
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe

COUNT = 4000


class Table:
    """Logits of numbered images, in two precisions that differ by at most `moves`."""

    def __init__(self, values: np.ndarray, moves: np.ndarray) -> None:
        self.values, self.moves, self.passed = values, moves, 0

    def exact(self, images: np.ndarray) -> Any:
        self.passed += len(images)
        return self.values[images[:, 0, 0, 0].astype(int)]

    def half(self, images: np.ndarray) -> Any:
        rows = images[:, 0, 0, 0].astype(int)
        return self.values[rows] + self.moves[rows]


@pytest.fixture(name="numbers")
def _numbers() -> np.ndarray:
    return np.arange(COUNT, dtype=np.float32).reshape(COUNT, 1, 1, 1)


def test_no_prediction_changes_and_few_images_are_passed_again(numbers: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, (COUNT, 10)).astype(np.float32)
    table = Table(values, rng.uniform(-0.05, 0.05, values.shape).astype(np.float32))
    result = screen(table.exact, table.half, numbers)
    truth = values.argmax(axis=1)
    changed = table.half(numbers).argmax(axis=1) != truth
    assert np.array_equal(result.logits.argmax(axis=1), truth)
    assert result.changed == changed.sum() > 0
    assert result.again[changed].all()
    assert result.again.sum() == table.passed < 0.2 * COUNT
    assert result.bound == pytest.approx(SAFETY * 0.05, rel=0.05)
    assert np.array_equal(result.logits[result.again], values[result.again])


def test_the_bound_rises_with_a_larger_move_among_images_passed_again(numbers: np.ndarray) -> None:
    """The probe sees moves of 0.01; an image of small margin moves by 0.3, and those below 0.9 follow."""
    rng = np.random.default_rng(1)
    values = np.zeros((COUNT, 2), np.float32)
    values[:, 0] = rng.uniform(1, 5, COUNT)
    moves = np.full(values.shape, 0.01, np.float32)
    values[7, 0], values[11, 0] = 0.31, 0.5
    moves[7], moves[11] = (-0.3, 0.0), (-0.3, 0.3)
    table = Table(values, moves)
    result = screen(table.exact, table.half, numbers)
    assert table.half(numbers)[[7, 11]].argmax(axis=1).tolist() == [0, 1]
    assert result.logits.argmax(axis=1).tolist() == [0] * COUNT
    assert result.bound == pytest.approx(0.9)
    assert result.changed == 1


@pytest.mark.parametrize("count", [1, 2, 127])
def test_a_small_set_is_passed_in_single_precision(numbers: np.ndarray, count: int) -> None:
    values = np.random.default_rng(2).normal(size=(COUNT, 3)).astype(np.float32)
    table = Table(values, np.ones_like(values))
    result = screen(table.exact, table.half, numbers[:count])
    assert result.again.all()
    assert np.array_equal(result.logits, values[:count])


@pytest.fixture(name="trained", scope="module")
def _trained() -> nn.Module:
    torch.manual_seed(0)
    model = build_model(SmallCNN(widths=(8, 12, 16, 16)))
    train(model, load_checked(Digits(), "train", Place()), Recipe(epochs=2, batch_size=32), seed=0)
    return model


def test_a_trained_network_on_noisy_images(trained: nn.Module) -> None:
    images = load_checked(Digits(), "test", Place()).images
    noise = np.random.default_rng(0).normal(0, 60, (4, *images.shape))
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8).reshape(-1, *images.shape[1:])
    prepared = prepare_for_inference(trained)
    half = half_precision(prepared)
    assert isinstance(half, HalfModel)

    def exact_logits(batch: np.ndarray) -> np.ndarray:
        return logits(prepared, batch)

    def half_logits(batch: np.ndarray) -> np.ndarray:
        return logits(half, batch)

    move = largest_move(exact_logits, half_logits, images)
    assert 0 < move < 1
    result = screen(exact_logits, half_logits, noisy, move=move)
    exact = exact_logits(noisy)
    assert np.array_equal(result.logits.argmax(axis=1), exact.argmax(axis=1))
    assert 0 < result.again.mean() < 0.5
    assert not np.array_equal(half_logits(noisy), exact)


@pytest.mark.parametrize(
    ("gain", "precision", "words"),
    [(2.4, "screened", "2.40 times as fast"), (0.4, "exact", "below 1.5 screening does not pay")],
)
def test_a_probe_of_time_chooses(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch, gain: float, precision: str, words: str
) -> None:
    monkeypatch.setattr(engines, "precision_gain", lambda *_: gain)
    images = load_checked(Digits(), "test", Place()).images
    engine = with_precision(Engine(), trained, images, torch.device("cpu"))
    assert (engine.precision, engine.precision_gain) == (precision, gain)
    assert words in engine.precision_reason


def test_the_probe_measures_this_machine(trained: nn.Module) -> None:
    images = load_checked(Digits(), "test", Place()).images
    engine = with_precision(Engine(), trained, images, torch.device("cpu"))
    assert engine.precision_gain > 0
    assert (engine.precision == "screened") == (engine.precision_gain >= 1.5)


def test_pgd_along_gradients_in_bfloat16_is_as_strong(trained: nn.Module) -> None:
    data = load_checked(Digits(), "test", Place())
    images, labels = (
        torch.from_numpy(np.array(data.images)) / 255,
        torch.from_numpy(np.array(data.labels)).long(),
    )
    prepared = prepare_for_inference(trained)
    half = engines.half_gradients(prepared, data.images)
    assert isinstance(half, HalfModel)
    attack = FixedRadiusAttack("linf-pgd", 2 / 255, steps=20)
    exact, ours = (
        attack_success(prepared, images, labels, attack=attack, seed=0, gradient_model=model)
        for model in (None, half)
    )
    assert 0.05 < exact.misclassified.float().mean() < 0.95
    assert not torch.equal(exact.adversarials, ours.adversarials)
    assert abs(float(exact.misclassified.float().mean() - ours.misclassified.float().mean())) <= 0.005
    with torch.inference_mode():
        predicted = prepared(ours.adversarials)
    assert isinstance(predicted, torch.Tensor)
    assert torch.equal(predicted.argmax(1) != labels, ours.misclassified)


class Stubborn(nn.Module):
    """A network whose own code takes single precision alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.linear(images.flatten(1))
        if values.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        return values


def test_a_network_that_does_not_run_in_bfloat16_stays_exact() -> None:
    images = np.zeros((4, 3, 8, 8), np.uint8)
    engine = with_precision(Engine(), Stubborn(), images, torch.device("cpu"))
    assert engine.precision == "exact"
    assert "does not run in bfloat16 (expected scalar type Float)" in engine.precision_reason
    prepared = prepare_for_inference(Stubborn())
    assert engines.half_gradients(prepared, images) is prepared
