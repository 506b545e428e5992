from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import UserError
from evalsuite.models.cost import cost, count_nonzero, prunable_layers, weights_digest
from evalsuite.models.surgery.channel_removal import channel_groups
from evalsuite.producers.base import Context
from evalsuite.producers.structured.filter_scores import FilterL1
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
SHAPE = (3, 32, 32)
ODD = (11, 22, 41, 57)  # widths w for which (k + 0.5) / w * w falls short of k + 0.5 in floating point


@pytest.fixture
def context(few: ImageSet, quick: Recipe) -> Context:
    return Context(few, quick, seed=3)


def produced(parent: nn.Module, context: Context, ratios: Sequence[float]) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in FilterL1().produce(parent, ratios, context)]


def widths(model: nn.Module) -> dict[str, int]:
    return {group.conv: group.channels for group in channel_groups(model)}


def parameters(stem: int, first: int, second: int, third: int) -> int:
    """Parameters of a small-cnn by its widths: convolutions, two per norm, classifier with bias."""
    convolutions = 3 * 16 * stem + 9 * (stem * first + first * second + second * third)
    return convolutions + 2 * (stem + first + second + third) + 10 * third + 10


def along(full: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of widths that one common share gives, rounded half up, at least one filter in each layer."""
    shares = sorted({Fraction(2 * k + 1, 2 * width) for width in full for k in range(width)} | {Fraction(0)})
    return [tuple(max(1, int(share * width + Fraction(1, 2))) for width in full) for share in shares]


@pytest.mark.usefixtures("pruned_only")
@pytest.mark.parametrize("full", [(24, 48, 64, 64), ODD], ids=str)
def test_every_layer_loses_the_same_share_as_near_to_the_target_as_whole_filters_allow(
    network: Network, context: Context, full: tuple[int, int, int, int]
) -> None:
    parent = network("small-cnn", widths=full)
    total = parameters(*full)
    assert count_nonzero(parent) == total
    ratios = [step / 25 for step in range(1, 25)]
    for ratio, model in zip(ratios, produced(parent, context, ratios), strict=True):
        widths_left = tuple(widths(model).values())
        miss = [abs(parameters(*choice) - (1 - ratio) * total) for choice in along(full)]
        assert widths_left in along(full)
        assert abs(count_nonzero(model) - (1 - ratio) * total) == pytest.approx(min(miss), abs=1e-6)
        assert count_nonzero(model) == parameters(*widths_left)  # physically: no zeros are left behind


@pytest.mark.usefixtures("pruned_only")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_filters_of_lowest_l1_norm_are_removed(network: Network, context: Context, name: str) -> None:
    parent, ratio = network(name), 0.5
    (model,) = produced(parent, context, (ratio,))
    groups = {group.conv: group for group in channel_groups(parent)}
    kept: dict[str, Tensor] = {}
    for conv, group in groups.items():
        filters = weight(parent, conv).abs().double()
        norms = [(float(values.sum()), -place) for place, values in enumerate(filters)]
        best = sorted(range(len(norms)), key=lambda place: norms[place], reverse=True)[: widths(model)[conv]]
        kept[conv] = torch.tensor(sorted(best))
        for norm in group.norms:
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                left, complete = (one.state_dict()[f"{norm.name}.{tensor}"] for one in (model, parent))
                assert torch.equal(left, complete[kept[conv]])
    assert len(kept) == {"small-cnn": 4, "resnet20": 9}[name]
    sources = {consumer.name: group.conv for group in groups.values() for consumer in group.consumers}
    for layer in prunable_layers(parent):
        expected = weight(parent, layer)
        expected = expected[kept[layer]] if layer in kept else expected
        expected = expected[:, kept[sources[layer]]] if layer in sources else expected
        assert torch.equal(weight(model, layer), expected), layer


def weight(model: nn.Module, layer: str) -> Tensor:
    return model.get_submodule(layer).get_parameter("weight").detach()


@pytest.mark.usefixtures("pruned_only")
def test_equal_norms_fall_to_the_earlier_filter(network: Network, context: Context) -> None:
    parent = copy.deepcopy(network("small-cnn"))
    stem = next(iter(widths(parent)))
    norm = next(group.norms[0].name for group in channel_groups(parent))
    with torch.no_grad():
        parent.get_parameter(f"{stem}.weight").fill_(0.5)
        parent.get_parameter(f"{norm}.bias").copy_(torch.arange(1, 25))  # names the filters
    (model,) = produced(parent, context, (0.5,))
    left = widths(model)[stem]
    assert model.get_parameter(f"{norm}.bias").tolist() == list(range(1, left + 1))
    assert 0 < left < 24


@pytest.mark.parametrize(("name", "ratios"), [("small-cnn", (0.3, 0.6, 0.9, 0.99)), ("resnet20", (0.4, 0.9))])
def test_models_shrink_step_by_step_and_are_retrained(
    network: Network, context: Context, name: str, ratios: tuple[float, ...]
) -> None:
    parent = network(name)
    before, total = weights_digest(parent), count_nonzero(parent)
    models = produced(parent, context, ratios)
    costs = [cost(model, SHAPE) for model in (parent, *models)]
    for low, high in pairwise(costs):
        assert high.macs is not None
        assert low.macs is not None
        assert high.macs < low.macs
        assert high.parameters < low.parameters
        assert high.bytes < low.bytes
    for ratio, model in zip(ratios, models, strict=True):
        groups = channel_groups(model)
        filters = sum(weight(model, group.conv)[0].numel() + 2 for group in groups)
        inputs = sum(
            weight(model, reader.name)[:, 0].numel() for group in groups for reader in group.consumers
        )
        assert (
            abs(count_nonzero(model) - (1 - ratio) * total) <= filters + inputs
        )  # within one filter per layer
        assert model.get_submodule(list(prunable_layers(model))[-1]).get_parameter("weight").shape[0] == 10
        assert min(widths(model).values()) >= 1
        assert model(torch.rand(2, *SHAPE)).shape == (2, 10)
    steps = [int(next(one for one in model.buffers() if one.dtype == torch.int64)) for model in models]
    assert steps == [3 * number for number in range(2, len(models) + 2)]  # three more for each
    assert weights_digest(parent) == before


@pytest.mark.usefixtures("pruned_only")
def test_in_a_residual_network_only_the_first_convolution_of_each_block_shrinks(
    network: Network, context: Context
) -> None:
    parent = network("resnet20")
    (model,) = produced(parent, context, (0.5,))
    for layer in prunable_layers(parent):
        shrunk = weight(model, layer).shape[0] < weight(parent, layer).shape[0]
        assert shrunk == (".conv1" in layer and "layer" in layer), layer


@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_a_ratio_that_cannot_be_reached(network: Network, context: Context, name: str) -> None:
    layers = len(widths(network(name)))
    sentence = rf"^too high a prune ratio: \d+ parameters may stay, but with one filter in each of {layers} layers \d+ "
    with pytest.raises(UserError, match=sentence + "are left; ask for a smaller ratio$"):
        produced(network(name), context, (0.9999,))


def test_a_network_without_removable_filters(context: Context) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(
        UserError,
        match=r"^Sequential has no filters, hidden units or heads that can be removed alone .* use an unstr",
    ):
        produced(model, context, (0.5,))


@pytest.mark.usefixtures("pruned_only")
def test_a_ratio_that_earlier_steps_reached_already_keeps_the_model(
    network: Network, context: Context
) -> None:
    parent = network("small-cnn")
    first, second = produced(parent, context, (0.5, 0.5))
    assert weights_digest(first) == weights_digest(second)
