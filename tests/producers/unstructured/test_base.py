from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, UserError
from evalsuite.models.cost import count_nonzero, prunable_layers, weights_digest
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.baselines.random_pruning import Random
from evalsuite.producers.unstructured.base import WeightProducer, masks_for_budget
from evalsuite.producers.unstructured.magnitude import Magnitude
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
RATIOS = (0.3, 0.6, 0.9, 0.98)
PRODUCERS = {"magnitude": Magnitude(), "random": Random()}


@pytest.fixture
def context(few: ImageSet, quick: Recipe) -> Context:
    return Context(few, quick, seed=3)


@pytest.fixture
def pruned_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Applies masks and trains nothing, to see the pruning alone."""

    def apply(_: Context, model: nn.Module, __: float, *, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            model.get_parameter(name).data.mul_(mask)

    monkeypatch.setattr(Context, "retrain", apply)


def produced(
    producer: Producer, parent: nn.Module, context: Context, ratios: Sequence[float]
) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in producer.produce(parent, ratios, context)]


def nonzero(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: layer.get_parameter("weight").detach() != 0 for name, layer in prunable_layers(model).items()
    }


def textbook(parent: nn.Module, ratio: float) -> dict[str, Tensor]:
    """Global magnitude pruning as one sorted list of Python tuples; a layer that would end empty keeps its best."""
    parameters = dict(parent.named_parameters())
    total = sum(int((p != 0).sum()) for p in parameters.values())
    prune = [name for name, module in parent.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    fixed = total - sum(parameters[f"{name}.weight"].numel() for name in prune)
    order = sorted(
        (-abs(value), layer, position)
        for layer, name in enumerate(prune)
        for position, value in enumerate(parameters[f"{name}.weight"].detach().flatten().tolist())
    )
    left = total - round(ratio * total) - fixed
    best = [next(entry for entry in order if entry[1] == layer) for layer in range(len(prune))]
    empty = [entry for entry in best if entry not in order[:left]]
    masks = {name: torch.zeros(parameters[f"{name}.weight"].numel(), dtype=torch.bool) for name in prune}
    for _, layer, position in order[: left - len(empty)] + empty:
        masks[prune[layer]][position] = True
    return {name: mask.view_as(parameters[f"{name}.weight"]) for name, mask in masks.items()}


@pytest.mark.usefixtures("pruned_only")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_magnitude_is_one_global_sort(network: Network, context: Context, name: str) -> None:
    parent = network(name)
    for ratio, model in zip(RATIOS, produced(Magnitude(), parent, context, RATIOS), strict=True):
        masks, expected = nonzero(model), textbook(parent, ratio)
        assert [layer for layer, mask in expected.items() if not torch.equal(masks[layer], mask)] == []


@pytest.mark.usefixtures("pruned_only")
@pytest.mark.parametrize("producer", PRODUCERS.values(), ids=PRODUCERS)
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_exactly_the_weights_of_the_ratio_are_pruned_and_nothing_else(
    network: Network, context: Context, producer: Producer, name: str
) -> None:
    parent = network(name)
    total, layers = count_nonzero(parent), {f"{layer}.weight" for layer in prunable_layers(parent)}
    before = weights_digest(parent)
    models = produced(producer, parent, context, RATIOS)
    for ratio, model in zip(RATIOS, models, strict=True):
        assert count_nonzero(model) == total - round(ratio * total)
        assert all(bool(mask.any()) for mask in nonzero(model).values())
        for key, value in parent.state_dict().items():
            if key not in layers:  # biases, norms and their running statistics
                assert torch.equal(model.state_dict()[key], value), key
    for low, high in pairwise(map(nonzero, models)):
        assert all(bool((low[layer] | ~high[layer]).all()) for layer in low)  # pruned weights stay pruned
    assert weights_digest(parent) == before


@pytest.mark.parametrize("producer", PRODUCERS.values(), ids=PRODUCERS)
def test_ratios_and_masks_survive_retraining(network: Network, context: Context, producer: Producer) -> None:
    parent = network("small-cnn")
    before, total = weights_digest(parent), count_nonzero(parent)
    models = produced(producer, parent, context, RATIOS)
    for ratio, model in zip(RATIOS, models, strict=True):
        assert abs(count_nonzero(model) - (1 - ratio) * total) <= 1  # within one weight
    for low, high in pairwise([parent, *models]):
        for layer, mask in nonzero(high).items():
            assert bool((nonzero(low)[layer] | ~mask).all())
        moved = [not torch.equal(a, b) for a, b in zip(low.parameters(), high.parameters(), strict=True)]
        assert all(moved)  # every layer was retrained
    assert weights_digest(parent) == before


@pytest.mark.usefixtures("pruned_only")
def test_random_masks_follow_the_seed_and_not_the_weights(
    network: Network, few: ImageSet, quick: Recipe
) -> None:
    def masks(seed: int, parent: nn.Module) -> dict[str, Tensor]:
        return nonzero(produced(Random(), parent, Context(few, quick, seed), (0.5,))[0])

    parent, shifted = network("small-cnn"), network("small-cnn", mean=(0.5, 0.5, 0.5))
    assert weights_digest(parent) != weights_digest(shifted)
    first = masks(0, parent)
    for again, equal in ((masks(0, parent), True), (masks(0, shifted), True), (masks(1, parent), False)):
        assert all(torch.equal(first[layer], again[layer]) == equal for layer in first)
    density = sum(mask.sum() for mask in first.values()) / sum(mask.numel() for mask in first.values())
    for mask in first.values():  # layers lose the same share, up to five standard deviations of a binomial
        assert abs(mask.float().mean() - density) < 5 * (0.25 / mask.numel()) ** 0.5
    weight = next(iter(weights(parent).values()))
    assert weight[next(iter(first.values()))].mean() == pytest.approx(float(weight.mean()), rel=0.1)


def two_layers(first: list[float], second: list[float]) -> nn.Module:
    model = nn.Sequential(nn.Linear(len(first), 1, bias=True), nn.Linear(1, len(second), bias=False))
    tensors = (torch.tensor([first]), torch.tensor([9.0]), torch.tensor(second)[:, None])
    for parameter, tensor in zip(model.parameters(), tensors, strict=True):
        parameter.data = tensor.float()
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: layer.get_parameter("weight").detach().abs() for name, layer in prunable_layers(model).items()
    }


@pytest.mark.parametrize(
    ("first", "second", "budget", "expected"),
    [
        ([1, 2, 3], [4, 5], 4, ([0, 0, 1], [1, 1])),
        ([3, -9, 2], [-4, 1], 4, ([1, 1, 0], [1, 0])),
        ([1, 1, 1], [1, 1], 4, ([1, 1, 0], [1, 0])),  # ties: earlier layer and position; the second keeps its first
        ([0.1, 0.2, 0.1], [4, 5], 3, ([0, 1, 0], [0, 1])),  # a layer keeps its best, however small
        ([0.1, 0.1, 0.1], [4, 5], 4, ([1, 0, 0], [1, 1])),
        ([7, 0, 0], [4, 5], 4, ([1, 0, 0], [1, 1])),  # pruned weights stay pruned
        ([7, 0, 0], [4, 5], 6, ([1, 0, 0], [1, 1])),  # and stay so when more may stay
        ([0, 0, 0], [4, 5], 2, ([0, 0, 0], [0, 1])),  # a layer that was empty before takes no place
        ([1, 2, 3], [4, 5], 6, ([1, 1, 1], [1, 1])),
    ],
    ids=["largest", "absolute", "ties", "thin layer", "tied thin layer", "pruned", "more than there are", "empty",
         "all"],
)  # fmt: skip
def test_masks_worked_by_hand(
    first: list[float], second: list[float], budget: int, expected: tuple[list[int], list[int]]
) -> None:
    model = two_layers(first, second)
    masks = masks_for_budget(model, weights(model), budget)
    assert list(masks) == ["0.weight", "1.weight"]
    assert tuple(mask.flatten().int().tolist() for mask in masks.values()) == expected
    assert all(mask.dtype == torch.bool for mask in masks.values())


def test_ties_in_many_layers_are_broken_by_position(network: Network) -> None:
    parent = network("small-cnn")
    tied = {name: torch.ones_like(score) for name, score in weights(parent).items()}
    masks = masks_for_budget(parent, tied, count_nonzero(parent) // 2)
    flat = [mask.flatten() for mask in masks.values()]
    left = torch.cat([mask[1:] for mask in flat]).int()  # without each layer's first, which stays
    assert all(bool(mask[0]) for mask in flat)
    assert bool((left.diff() <= 0).all())
    assert sum(int(mask.sum()) for mask in flat) == count_nonzero(parent) // 2 - (
        count_nonzero(parent) - sum(mask.numel() for mask in flat)
    )


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (2, "too high a prune ratio: of 2 parameters that may stay, 1 are biases and norms, which leaves 1 weights for "
            "2 layers; ask for a smaller ratio"),
        (0, "too high a prune ratio: of 0 parameters that may stay, 1 are biases and norms, which leaves 0 weights for "
            "2 layers; ask for a smaller ratio"),
    ],
    ids=str,
)  # fmt: skip
def test_a_budget_that_would_empty_a_layer(budget: int, sentence: str) -> None:
    model = two_layers([1, 2, 3], [4, 5])
    with pytest.raises(UserError) as caught:
        masks_for_budget(model, weights(model), budget)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("producer", PRODUCERS.values(), ids=PRODUCERS)
def test_a_ratio_that_cannot_be_reached(network: Network, context: Context, producer: Producer) -> None:
    with pytest.raises(
        UserError, match=r"^too high a prune ratio: of \d+ .* for 5 layers; ask for a smaller ratio$"
    ):
        produced(producer, network("small-cnn"), context, (0.9999,))


@dataclass(frozen=True)
class NotANumber(WeightProducer):
    """A producer whose scores rank nothing."""

    def scores(self, model: nn.Module, context: Context) -> Mapping[str, Tensor]:  # noqa: ARG002  # none is needed
        return {name: score * np.nan for name, score in weights(model).items()}


def test_scores_must_be_numbers(network: Network, context: Context) -> None:
    with pytest.raises(ContractError, match=r"^a producer's scores have NaN among them"):
        produced(NotANumber(), network("small-cnn"), context, (0.5,))
