"""Singular values of the Jacobian: linear networks whose values are known, autograd's Jacobian and numpy's SVD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import InvalidModelError, SkippedError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators import jacobian
from evalsuite.evaluators.jacobian import Jacobian, condition_numbers, jacobians, singular_values
from evalsuite.execution.measuring import measured, scored
from evalsuite.models.exported.program import ExportedProgram, InputSpec, LoadedProgram
from evalsuite.types import Floats, ImageSet, Score

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (10, 1, 2, 2), dtype=np.uint8)
LABELS = np.arange(10) % 3
IMAGES = ImageSet("small", PIXELS, LABELS, 3)


class Net(nn.Module):
    """Three logits of a matrix, times whatever a function makes of the image; in [0, 1] after a normalisation."""

    matrix: Tensor

    def __init__(
        self, matrix: Any, scale: Callable[[Tensor], Tensor] | None = None, std: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.tensor(matrix, dtype=torch.float32))
        self.scale, self.std = scale, std

    def forward(self, images: Tensor) -> Tensor:
        flat = (images.flatten(1) - 0.5) / self.std
        return (flat if self.scale is None else self.scale(flat)) @ self.matrix.T


DIAGONAL = [[4.0, 0, 0, 0], [0, 0, -2.0, 0], [0, 0, 0, 1.0]]


def bench(model: nn.Module, images: ImageSet = IMAGES) -> Bench:
    return Bench(model, ImageSource(images, Place()))


def named(model: nn.Module, images: int = 0) -> dict[str, Score]:
    return {one.metric.removeprefix("jacobian_"): one for one in scored(Jacobian(images), bench(model))}


def values(model: nn.Module, images: int = 0) -> dict[str, float | None]:
    return {name: score.value for name, score in named(model, images).items()}


def test_a_linear_network_has_the_singular_values_of_its_matrix() -> None:
    scores = named(Net(DIAGONAL))  # 4, 2, 1
    np.testing.assert_allclose(scores["singular_value"].evidence["test"], np.full(10, 7 / 3), rtol=1e-7)
    spread = np.std([4, 2, 1]) / (7 / 3)
    found = {name: score.value for name, score in scores.items()}
    assert found == pytest.approx(
        {
            "singular_value": 7 / 3,
            "singular_value_max": 4,
            "singular_value_min": 1,
            "relative_spread": spread,
            "condition_number": 4,
        }
    )
    assert {score.n for score in scores.values()} == {10}


def test_values_by_normalised_inputs_are_the_deviation_times_ours() -> None:
    assert values(Net(DIAGONAL, std=0.25))["singular_value"] == pytest.approx(4 * 7 / 3)


def test_each_image_has_its_own() -> None:
    """Squares of the inputs: the slope of each is twice the input."""
    square = Net(DIAGONAL, lambda flat: flat**2)
    slopes = np.abs(2 * (PIXELS.reshape(10, 4) / 255 - 0.5))
    exact = np.sort(slopes[:, [0, 2, 3]] * [4, 2, 1])[:, ::-1]
    scores = named(square)
    np.testing.assert_allclose(scores["singular_value"].evidence["test"], exact.mean(1), rtol=1e-5)
    np.testing.assert_allclose(scores["singular_value_max"].evidence["test"], exact[:, 0], rtol=1e-5)
    np.testing.assert_allclose(scores["singular_value_min"].evidence["test"], exact[:, 2], rtol=1e-5)
    assert scores["relative_spread"].value == pytest.approx(exact.std() / exact.mean(), rel=1e-5)
    assert scores["condition_number"].value == pytest.approx(np.median(exact[:, 0] / exact[:, 2]), rel=1e-5)


@pytest.fixture
def convolution() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 5)]
    return nn.Sequential(*layers).eval()


def oracle(model: nn.Module, images: Tensor) -> Floats:
    """Autograd's Jacobian of one image after the other in double precision, and numpy's SVD."""
    exact: Any = model.double()
    whole: Any = torch.autograd.functional.jacobian  # which has no types
    found = [whole(exact, one[None].double()).reshape(5, -1).numpy() for one in images]
    model.float()
    values: Floats = np.linalg.svd(np.stack(found), compute_uv=False)
    return values


def test_convolutions_agree_with_autograd_and_numpy(convolution: nn.Module) -> None:
    images = torch.rand(7, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    values = singular_values(jacobians(convolution, images))
    np.testing.assert_allclose(values, oracle(convolution, images), rtol=2e-5)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in convolution.parameters())


def test_the_evaluator_agrees_with_autograd_and_numpy(
    convolution: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = rng.integers(0, 256, (9, 3, 6, 6), dtype=np.uint8)
    at = bench(convolution, ImageSet("colour", pixels, np.arange(9) % 5, 5))
    exact = oracle(convolution, torch.from_numpy(pixels) / 255)
    whole = scored(Jacobian(0), at)
    np.testing.assert_allclose(whole[0].evidence["test"], exact.mean(1), rtol=2e-5)
    monkeypatch.setattr(jacobian, "ELEMENTS", 2 * 5 * 3 * 36)  # two images at once
    seen: list[int] = []

    def counting(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return jacobians(model, batch)

    monkeypatch.setattr(jacobian, "jacobians", counting)
    again = scored(Jacobian(0), at)
    assert seen == [2, 2, 2, 2, 1]
    np.testing.assert_allclose(again[0].evidence["test"], whole[0].evidence["test"], rtol=1e-5)
    first = scored(Jacobian(4), at)
    assert list(first[0].evidence) == ["test[:4]"]
    np.testing.assert_allclose(first[0].evidence["test[:4]"], exact[:4].mean(1), rtol=2e-5)
    assert at.passes[View()] == 0


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_singular_values_are_numpys_and_scale_with_the_matrix(
    k: int, p: int, seed: int, factor: float
) -> None:
    matrices = np.random.default_rng(seed).normal(size=(2, k, p))
    values = singular_values(torch.from_numpy(matrices))
    exact = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(values, exact, atol=2e-7 * exact.max())
    np.testing.assert_allclose(
        singular_values(torch.from_numpy(factor * matrices)),
        factor * values,
        atol=1e-6 * factor * exact.max(),
    )
    np.testing.assert_allclose(np.square(values).sum(1), np.square(matrices).sum((1, 2)), rtol=1e-9)


def test_conditions_end_where_single_precision_ends() -> None:
    rows = np.array([[6.0, 5, 3], [1, 1, 1e-9], [2, 1, 0], [0, 0, 0]])
    assert condition_numbers(rows).tolist() == [2, 2**23, 2**23, 2**23]


def test_a_flat_network_has_a_mean_and_reasons() -> None:
    scores = named(Net(np.zeros((3, 4))))
    assert scores["singular_value"].value == 0
    assert scores["relative_spread"].reason == "the logits do not depend on the images"
    assert scores["condition_number"].reason == "the Jacobian has not full rank on 10 of 10 images"


def test_dependent_logits_have_no_condition() -> None:
    scores = named(Net([DIAGONAL[0], DIAGONAL[1], DIAGONAL[0]]))
    assert scores["condition_number"].reason
    assert scores["singular_value"].value == pytest.approx((np.sqrt(32) + 2) / 3)
    assert scores["singular_value_min"].value == pytest.approx(0, abs=1e-6)


def test_a_program_without_gradients_is_skipped_and_says_why() -> None:
    program = ExportedProgram(LoadedProgram(Net(DIAGONAL), InputSpec(), "no twin"), "ONNX")
    cell = measured(Jacobian(), bench(program))
    assert (cell.status, cell.reason) == (
        "skipped",
        "the model has no gradients (ONNX: no twin), which its Jacobian needs",
    )


def test_logits_without_a_way_back_are_skipped() -> None:
    cell = measured(Jacobian(), bench(Net(DIAGONAL, lambda flat: flat.detach())))
    assert (cell.status, cell.reason) == (
        "skipped",
        "no gradient of the logits reaches the images, which a Jacobian needs",
    )
    with pytest.raises(SkippedError):
        jacobians(Net(DIAGONAL, torch.Tensor.detach), torch.rand(1, 1, 2, 2))


def test_gradients_of_the_weights_alone_are_none_of_the_images() -> None:
    model = nn.Sequential(Net(DIAGONAL, lambda flat: flat.detach()), nn.Linear(3, 3))
    with pytest.raises(SkippedError, match="no gradient of the logits reaches the images"):
        jacobians(model, torch.rand(1, 1, 2, 2))


def test_a_constant_logit_has_a_row_of_zeros() -> None:
    class Half(Net):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return torch.stack([logits[:, 0], torch.ones(len(images)), logits[:, 2]], 1)

    matrices = jacobians(Half(DIAGONAL), torch.rand(2, 1, 2, 2))
    assert matrices.shape == (2, 3, 4)
    torch.testing.assert_close(matrices[1], torch.tensor([DIAGONAL[0], [0.0] * 4, DIAGONAL[2]]))


def test_infinite_slopes_make_a_model_invalid() -> None:
    with pytest.raises(InvalidModelError, match="NaN or infinite"):
        singular_values(torch.tensor([[[1.0, torch.inf]]]))
    cell = measured(Jacobian(), bench(Net(DIAGONAL, lambda flat: torch.sqrt(flat - flat.detach()))))
    assert cell.status == "invalid"


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(SuiteError, match="images = -1"):
        Jacobian(-1)
