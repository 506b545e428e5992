"""OpenVINO computes the same function as PyTorch, where it computes it at all, and is chosen where it pays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import UserError
from evalsuite.models import engines
from evalsuite.models.engines import CompiledModel, GraphedModel, choose_engine, computed_by
from evalsuite.models.features import classifier_layer, features_and_logits
from evalsuite.models.inference import logits, prepare_for_inference

Build = Callable[..., nn.Module]
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
installed = pytest.mark.skipif(not engines.openvino_version(), reason="openvino is not installed")


@installed
def test_logits_equal_those_of_torch_up_to_roundings_and_gradients_and_features_are_its_own(
    build: Build,
) -> None:
    prepared = prepare_for_inference(build("resnet20"))
    model = computed_by("openvino", prepared, IMAGES)
    assert isinstance(model, CompiledModel)
    expected, values = logits(prepared, IMAGES), logits(model, IMAGES)
    assert 0 < np.abs(values - expected).max() < 1e-4 * np.abs(expected).max()

    points = (torch.from_numpy(IMAGES[:4]) / 255).requires_grad_()
    gradients = [torch.autograd.grad(each(points).square().sum(), points)[0] for each in (prepared, model)]
    assert torch.equal(*gradients)
    layer = classifier_layer(prepared, IMAGES)
    features, _ = features_and_logits(model, IMAGES, layer)
    assert features.shape == (40, 64)


class Undecided(nn.Module):
    """Another function at every pass, which no program that was traced once can be."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.head(images.mean((2, 3))) * self.calls
        return result


class Waiting(nn.Module):
    """A network whose code looks at a number on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.head(images.mean((2, 3)))
        return result if float(images.detach().mean()) < 1 else -result


@installed
def test_a_network_that_it_computes_otherwise_stays_with_torch() -> None:
    prepared = prepare_for_inference(Undecided().eval())
    assert computed_by("openvino", prepared, IMAGES) is prepared
    with pytest.raises(UserError, match="it does not compute this network"):
        choose_engine("openvino", Undecided().eval(), IMAGES, passes=1)


@installed
def test_it_pays_only_where_there_are_passes_enough(build: Build) -> None:
    chosen = choose_engine("auto", build("resnet20"), IMAGES, passes=40)
    assert (chosen.name, chosen.version) == ("eager", "")
    assert 0 < chosen.gain < 1
    assert chosen.difference < 1e-4


def test_without_a_card_a_graph_is_the_plain_pass(build: Build) -> None:
    prepared = prepare_for_inference(build("resnet20"))
    model = GraphedModel(prepared).eval()
    assert np.array_equal(logits(model, IMAGES), logits(prepared, IMAGES))
    points = (torch.from_numpy(IMAGES[:4]) / 255).requires_grad_()
    gradients = [torch.autograd.grad(each(points).square().sum(), points)[0] for each in (prepared, model)]
    assert torch.equal(*gradients)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
@pytest.mark.parametrize("half", [False, True])
def test_graphs_compute_what_pytorch_computes(build: Build, half: bool) -> None:
    for name in ("resnet20", "small-cnn"):
        prepared = prepare_for_inference(build(name), device="cuda")
        model = computed_by("cuda-graphs", prepared, IMAGES)
        assert isinstance(model, GraphedModel)
        if half:
            prepared, model = engines.half_precision(prepared), engines.half_precision(model)
            assert isinstance(model, GraphedModel)
        for size in (8, 16, 32):  # more shapes than are kept, and several batches of each
            expected = logits(prepared, IMAGES, device="cuda", batch_size=size)
            again = [logits(model, IMAGES, device="cuda", batch_size=size) for _ in range(2)]
            assert np.abs(again[0] - expected).max() <= 1e-4 * np.abs(expected).max()
            assert np.array_equal(again[0], again[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
@pytest.mark.parametrize("kind", [Undecided, Waiting])
def test_a_network_that_a_graph_computes_otherwise_or_not_stays_with_torch(kind: type[nn.Module]) -> None:
    prepared = prepare_for_inference(kind().eval(), device="cuda")
    assert computed_by("cuda-graphs", prepared, IMAGES) is prepared
    assert np.isfinite(logits(prepared, IMAGES, device="cuda")).all()


def test_without_it_torch_is_the_engine_and_a_suite_that_names_it_is_refused(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "openvino_version", lambda: "")
    assert choose_engine("auto", build("small-cnn"), IMAGES, passes=1).reason == "OpenVINO is not installed"
    with pytest.raises(UserError, match=r'it is not installed; pip install "evalsuite\[openvino\]"'):
        choose_engine("openvino", build("small-cnn"), IMAGES, passes=1)
