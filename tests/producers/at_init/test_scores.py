from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from evalsuite.errors import SkippedError, SuiteError
from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.cost import count_nonzero, prunable_layers, weights_digest
from evalsuite.producers.at_init.scores import Grasp, InitialProducer, MagnitudeInit, Snip, Synflow
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.random_pruning import RandomInit
from evalsuite.producers.unstructured.base import (
    global_masks,
    magnitudes,
    nonzero_budget,
    nonzero_masks,
    nonzero_per_layer,
    prunable_weights,
    weight_budget,
)
from evalsuite.random_streams import generator
from evalsuite.training.history import history
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe

KINDS: dict[str, InitialProducer] = {
    "snip": Snip(images=16), "grasp": Grasp(per_class=3), "synflow": Synflow(rounds=3), "magnitude": MagnitudeInit(),
    "random": RandomInit(), "random-uniform": RandomInit(allocation="uniform"),
    "random-global": RandomInit(allocation="global"),
}  # fmt: skip


@pytest.fixture
def perceptron(few: Any) -> nn.Module:
    """Two layers on the first 12 pixels, with an activation that has a second derivative."""

    class Cut(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :12] - 0.5

    torch.manual_seed(0)
    return nn.Sequential(Cut(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, few.classes))


@pytest.fixture
def noisy(small_context: Context) -> Context:
    """Images whose first pixels are random."""
    images = np.random.default_rng(0).random(small_context.train.images.shape, dtype=np.float32)
    return replace(small_context, train=replace(small_context.train, images=images))


@pytest.mark.parametrize("producer", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_masks_are_exact_and_of_first_weights(
    small_context: Context,
    quick: Recipe,
    fits: list[dict[str, Any]],
    producer: InitialProducer,
    architecture: str,
) -> None:
    context = small_context
    if architecture == "residual":
        context = replace(context, origin=Origin(ResNet20(), 7, quick))
    first = context.fresh()
    parent = copy.deepcopy(first)
    for parameter in parent.parameters():
        parameter.data += 0.1  # a trained parent has biases
    before = weights_digest(parent)
    for ratio, model in zip((0.4, 0.9), producer.produce(parent, (0.4, 0.9), context), strict=True):
        assert sum(nonzero_per_layer(model).values()) == weight_budget(parent, nonzero_budget(parent, ratio))
        assert min(nonzero_per_layer(model).values()) > 0
        for layer, weight in prunable_weights(model).items():
            initial = prunable_weights(first)[layer]
            assert bool(((weight == 0) | (weight == initial)).all())
        for name, value in first.state_dict().items():  # statistics of norms too: scoring changed nothing
            if name not in nonzero_masks(model):
                assert torch.equal(model.state_dict()[name], value), name
    assert weights_digest(parent) == before
    assert [one["recipe"] for one in fits] == [quick, quick]


def test_it_trains_once_with_the_parents_recipe(small_context: Context, small_parent: nn.Module) -> None:
    assert small_context.origin is not None
    longer = replace(small_context.origin, recipe=replace(small_context.recipe, epochs=2))
    (model,) = MagnitudeInit().produce(small_parent, (0.5,), replace(small_context, origin=longer))
    assert [(phase.what, phase.epochs) for phase in history(model) or ()] == [("retraining", 2)]
    assert abs(count_nonzero(model) - nonzero_budget(small_parent, 0.5)) <= 1
    for name, mask in nonzero_masks(model).items():
        expected = global_masks(
            first := small_context.fresh(), magnitudes(first), sum(nonzero_per_layer(model).values())
        )
        assert torch.equal(mask, expected[name])


def test_a_parent_of_unknown_architecture_is_skipped(small_context: Context, small_parent: nn.Module) -> None:
    with pytest.raises(SkippedError, match="how the parent was built is unknown"):
        next(iter(Snip().produce(small_parent, (0.5,), replace(small_context, origin=None))))


def test_snip_is_the_gradient_along_the_mask(perceptron: nn.Module, noisy: Context) -> None:
    """Equation 4: the derivative of the loss by c at c = 1 when the weights are c * w; by differences, in float64."""
    scores = Snip(images=20).scores(perceptron, noisy)
    images, labels = noisy.batch(20, "snip")
    exact = copy.deepcopy(perceptron).double()

    def loss() -> float:
        return float(functional.cross_entropy(exact(images.double()), labels).detach())

    for name, weight in prunable_weights(exact).items():
        expected = torch.empty_like(weight)
        for index in np.ndindex(*weight.shape):
            value = float(weight[index])
            weight[index] = value * 1.0001
            above = loss()
            weight[index] = value * 0.9999
            expected[index] = abs(above - loss()) / 2e-4
            weight[index] = value
        np.testing.assert_allclose(scores[name].numpy(), expected.numpy(), rtol=1e-3, atol=1e-7)


def test_grasp_is_weight_times_hessian_times_gradient(perceptron: nn.Module, noisy: Context) -> None:
    """Equation 8 with the whole Hessian of each half, column by column."""
    producer = Grasp(per_class=4, temperature=2.0)
    scores = producer.scores(perceptron, noisy)
    images, labels = noisy.per_class(4, "grasp")
    order = generator(noisy.seed, "grasp", "halves").permutation(len(labels))
    exact = copy.deepcopy(perceptron).double()
    names = [f"{name}.weight" for name in prunable_weights(exact)]
    sizes = [exact.get_parameter(name).numel() for name in names]
    start = torch.cat([exact.get_parameter(name).detach().flatten() for name in names])

    def loss_on(rows: Any) -> Callable[[Tensor], Tensor]:
        def loss(flat: Tensor) -> Tensor:
            parts = zip(names, torch.split(flat, sizes), strict=True)
            weights = {name: part.view_as(exact.get_parameter(name)) for name, part in parts}
            return functional.cross_entropy(
                functional_call(exact, weights, images[rows].double()) / 2, labels[rows]
            )

        return loss

    halves = [loss_on(order[: len(order) // 2]), loss_on(order[len(order) // 2 :])]
    jacobian: Any = torch.autograd.functional.jacobian
    hessian: Any = torch.autograd.functional.hessian
    gradient = sum(jacobian(loss, start) for loss in halves)
    curvature = sum(hessian(loss, start) for loss in halves)
    expected = start * (curvature @ gradient)
    flat_scores = torch.cat([score.flatten() for score in scores.values()])
    np.testing.assert_allclose(flat_scores.numpy(), expected.numpy(), rtol=2e-3, atol=1e-6)
    assert float(expected.abs().max()) > 1e-4  # far from the tolerance
    both = [set(labels[order[: len(order) // 2]].tolist()), set(labels[order[len(order) // 2 :]].tolist())]
    assert len(both[0] & both[1]) > 5  # halves share most classes


def chain(*weights: list[list[float]]) -> nn.Module:
    layers = [nn.Linear(len(matrix[0]), len(matrix), bias=False) for matrix in weights]
    for layer, matrix in zip(layers, weights, strict=True):
        layer.weight.data = torch.tensor(matrix, dtype=torch.float32)
    return nn.Sequential(nn.Flatten(), *(part for layer in layers for part in (layer, nn.ReLU())))


def slow_synflow(first: Any, second: Any, keep: int, rounds: int) -> list[Any]:
    """Two layers: the flow through a weight is the sum over all paths that lead through it."""
    layers = [np.abs(np.array(first)), np.abs(np.array(second))]
    total = sum(layer.size for layer in layers)
    for done in range(1, rounds + 1):
        flows = [
            layers[0] * layers[1].sum(0)[:, None],  # of input j to neuron i: on to all outputs
            layers[1] * layers[0].sum(1)[None, :],
        ]
        left = keep if done == rounds else round(total * (keep / total) ** (done / rounds))
        order = sorted(
            (-flow[index], number, index)
            for number, flow in enumerate(flows)
            for index in np.ndindex(*flow.shape)
        )
        for _, number, index in order[left:]:
            layers[number][index] = 0
    return [layer != 0 for layer in layers]


@pytest.mark.parametrize("rounds", [1, 5, 100])
def test_synflow_follows_all_paths(small_context: Context, rounds: int) -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(6, 5)).round(3), rng.normal(size=(4, 6)).round(3)
    model = chain(first.tolist(), second.tolist())
    blank = np.zeros((2, 5, 1, 1), dtype=np.float32)
    context = replace(small_context, train=replace(small_context.train, images=blank))
    masks = Synflow(rounds=rounds).masks(copy.deepcopy(model), 20, context)
    for mask, slow in zip(masks.values(), slow_synflow(first, second, 20, rounds), strict=True):
        assert mask.tolist() == slow.tolist()


def test_synflow_by_hand(small_context: Context) -> None:
    """One path of 3 * 4 and one of 1 * 1: the two weights of the strong path stay, signs aside."""
    model = chain([[-3, 0.5], [0.1, 1]], [[4, -1]])
    context = replace(
        small_context, train=replace(small_context.train, images=np.zeros((1, 2, 1, 1), dtype=np.float32))
    )
    positive = copy.deepcopy(model).double()
    for weight in prunable_weights(positive).values():
        weight.abs_()
    scores = Synflow().scores(positive, context)
    np.testing.assert_allclose(scores["1"].numpy(), [[12.0, 2.0], [0.1, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(scores["3"].numpy(), [[14.0, 1.1]], rtol=1e-6)
    masks = Synflow(rounds=10).masks(model, 2, context)
    assert [mask.int().tolist() for mask in masks.values()] == [[[1, 0], [0, 0]], [[1, 0]]]


def test_synaptic_flow_is_conserved_from_layer_to_layer(small_context: Context) -> None:
    """Theorem 2 of the paper, for a plain network without shifts: each layer carries the whole output."""
    model = small_context.fresh().double().eval()
    for name, value in model.state_dict().items():
        value.abs_()
        if name.endswith("linear.bias"):
            value.zero_()
    sums = [float(score.sum()) for score in Synflow().scores(model, small_context).values()]
    ones = torch.ones(1, *small_context.train.images.shape[1:], dtype=torch.float64)
    total = float(model.network(ones).sum().detach())  # type: ignore[operator]  # a module
    assert sums == pytest.approx([total] * len(prunable_layers(model)), rel=1e-9)


def test_settings_are_checked() -> None:
    with pytest.raises(SuiteError, match="expected at least 1"):
        Synflow(rounds=0)


def test_random_allocations(small_context: Context, small_parent: nn.Module) -> None:
    """ERK keeps thin layers, uniform keeps the same share of each."""
    keep = weight_budget(small_parent, nonzero_budget(small_parent, 0.5))
    sizes = nonzero_per_layer(small_parent)
    total = sum(sizes.values())
    uniform = RandomInit(allocation="uniform").masks(small_parent, keep, small_context)
    for layer, size in sizes.items():
        assert abs(int(uniform[f"{layer}.weight"].sum()) - size * keep / total) < 1
    erk = RandomInit().masks(small_parent, keep, small_context)
    shares = {layer: int(erk[f"{layer}.weight"].sum()) / size for layer, size in sizes.items()}
    weights = prunable_weights(small_parent)
    rule = {layer: sum(w.shape) / w.numel() for layer, w in weights.items()}
    free = [layer for layer, share in shares.items() if share < 1]
    scale = shares[free[-1]] / rule[free[-1]]
    for layer in free:
        assert abs(shares[layer] - scale * rule[layer]) * sizes[layer] < 2
    assert any(share == 1 for share in shares.values())
