"""Channels that convolutions share, as filter producers and PFP score and remove them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import UserError
from evalsuite.models.cost import cost, count_nonzero, prunable_layers, weights_digest
from evalsuite.models.surgery.channel_removal import channel_groups, remove_channels
from evalsuite.models.surgery.coupled_channels import coupled_groups
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.random_pruning import FilterRandom
from evalsuite.producers.structured.base import ChannelScope, FilterProducer
from evalsuite.producers.structured.filter_scores import BatchNormScale, FilterL1, FilterL2, Fpgm, Taylor
from evalsuite.producers.structured.layer_inputs import LayerInputs
from evalsuite.producers.structured.pfp import ProvableFilterPruning, channel_sensitivities, channel_shares
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
SHAPE = (3, 32, 32)
ALL: list[FilterProducer] = [
    FilterL1(scope="coupled"),
    FilterL2(scope="coupled"),
    Fpgm(scope="coupled"),
    BatchNormScale(scope="coupled"),
    Taylor(scope="coupled", images=8),
    FilterRandom(scope="coupled"),
    FilterL1(scope="coupled", allocation="global", schedule="one-shot"),
]
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("small-cnn", {}),
    ("resnet20", {"shortcut": "B"}),
    ("densenet22", {}),
    ("preresnet", {"depth": 20}),
]


@pytest.fixture
def context(few: ImageSet, quick: Recipe) -> Context:
    return Context(few, quick, seed=3)


class Stream(nn.Module):
    """Two convolutions of three filters whose outputs are added, with a norm behind each and one behind both."""

    def __init__(self, first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 1), nn.Conv2d(2, 3, 1, bias=False)
        self.other = nn.Conv2d(1, 2, 1)
        self.norm, self.both = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 2)
        self.first.weight.data = torch.tensor(first).view(3, 1, 1, 1)
        self.second.weight.data = torch.tensor(second).view(3, 2, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.first(images)) + self.second(self.other(images))
        logits: Tensor = self.linear(self.both(maps).relu().mean((2, 3)))
        return logits


ONE, TWO = [[1.0], [-2.0], [3.0]], [[2.0, -2.0], [0.0, 0.5], [4.0, 0.0]]


def scored(producer: FilterProducer, model: nn.Module) -> dict[str, list[float]]:
    groups = {group.conv: group for group in coupled_groups(model, (1, 4, 4))}
    scores = producer.scores(model, groups, None)  # type: ignore[arg-type]  # they look at weights alone
    return {name: score.tolist() for name, score in scores.items()}


@pytest.mark.parametrize(
    ("producer", "scores"),
    [
        (FilterL1(scope="coupled"), [5.0, 2.5, 7.0]),
        (FilterL2(scope="coupled"), [3.0, math.sqrt(4.25), 5.0]),
        (
            Fpgm(scope="coupled"),  # between (1, 2, -2), (-2, 0, .5) and (3, 4, 0)
            [
                math.sqrt(9 + 4 + 6.25) + math.sqrt(4 + 4 + 4),
                math.sqrt(9 + 4 + 6.25) + math.sqrt(25 + 16 + 0.25),
                math.sqrt(4 + 4 + 4) + math.sqrt(25 + 16 + 0.25),
            ],
        ),
    ],
    ids=["l1", "l2", "fpgm"],
)
def test_the_filters_of_a_shared_channel_are_one_long_filter(
    producer: FilterProducer, scores: list[float]
) -> None:
    assert scored(producer, Stream(ONE, TWO).eval())["first"] == pytest.approx(scores)


def test_scales_of_several_norms_are_averaged() -> None:
    model = Stream(ONE, TWO).eval()
    model.norm.weight.data = torch.tensor([1.0, -2.0, 3.0])
    model.both.weight.data = torch.tensor([0.5, 0.0, -1.0])
    groups = {group.conv: group for group in coupled_groups(model, (1, 4, 4)) if group.conv == "first"}
    scores = BatchNormScale(scope="coupled").scores(model, groups, None)  # type: ignore[arg-type]  # data-free
    assert scores["first"].tolist() == [0.75, 1.0, 2.0]


def test_taylor_sums_over_all_weights_of_a_shared_channel(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Stream(ONE, TWO).eval()
    images, labels = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1, 0])
    monkeypatch.setattr(Context, "batch", lambda *_: (images, labels))
    groups = {group.conv: group for group in coupled_groups(model, (1, 4, 4))}
    scores = Taylor(images=6, batch_size=3).scores(model, groups, context)
    expected = torch.zeros(3)
    for rows in (slice(0, 3), slice(3, 6)):
        loss = functional.cross_entropy(model(images[rows]), labels[rows])
        slopes = torch.autograd.grad(loss, [model.first.weight, model.second.weight])
        for layer, slope in zip((model.first, model.second), slopes, strict=True):
            for channel in range(3):
                effects = (slope[channel] * layer.weight[channel]).detach().flatten().tolist()
                expected[channel] += sum(effect**2 for effect in effects)
    torch.testing.assert_close(scores["first"], expected)


@pytest.mark.parametrize("producer", [FilterL1(scope="coupled"), FilterL2(scope="coupled")], ids=["l1", "l2"])
@pytest.mark.parametrize(("name", "table"), NETWORKS, ids=str)
def test_torch_prunings_group_importance_agrees(
    network: Network, context: Context, name: str, table: dict[str, Any], producer: FilterProducer
) -> None:
    """Its sum over the layers whose outputs go; it would add those whose inputs go, too."""
    model, power = network(name, **table), 1 if isinstance(producer, FilterL1) else 2
    groups = producer.groups(model, context)
    scores = producer.scores(model, groups, context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning

        graph = torch_pruning.DependencyGraph().build_dependency(copy.deepcopy(model), torch.rand(1, *SHAPE))
        importance = torch_pruning.importance.MagnitudeImportance(
            p=power, group_reduction="sum", normalizer=None, target_types=[nn.Conv2d]
        )
        for layer, score in scores.items():
            conv = graph.model.get_submodule(layer)
            group = graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, [*range(len(score))])
            outputs = torch_pruning.Group()
            outputs._DG = graph
            for item in group:
                if graph.is_out_channel_pruning_fn(item.dep.handler):
                    outputs.add_dep(item.dep, item.idxs)
                    outputs[len(outputs) - 1].root_idxs = item.root_idxs
            torch.testing.assert_close(score**power, importance(outputs).detach(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("name", "table", "producer"),
    [*((*NETWORKS[1], one) for one in ALL), *((*other, ALL[0]) for other in NETWORKS[2:])],
    ids=lambda value: (
        f"{type(value).__name__}-{value.schedule}" if isinstance(value, FilterProducer) else str(value)
    ),
)
def test_torch_pruning_removes_the_same_channels_to_the_same_weights(
    network: Network,
    context: Context,
    kept_channels: list[Mapping[str, Tensor]],
    torch_pruned: Callable[..., nn.Module],
    name: str,
    table: dict[str, Any],
    producer: FilterProducer,
) -> None:
    parent = network(name, **table)
    (model,) = producer.produce(parent, (0.5,), context)
    images = torch.rand(3, *SHAPE)
    other = torch_pruned(parent, kept_channels[0], images)
    selections = [module for module in other.modules() if hasattr(module, "indexes")]
    state = model.state_dict()
    expected = {key: value for key, value in other.state_dict().items() if not key.endswith("indexes")}
    assert all(torch.equal(value, state[key]) for key, value in expected.items())
    assert len(expected) == len(state) - len(selections)  # it does not know selections of channels
    assert sum(map(len, kept_channels[0].values())) < sum(
        group.channels for group in coupled_groups(parent, SHAPE)
    )
    if not selections:
        with torch.inference_mode():
            assert torch.equal(other(images), model(images))


def sizes(parent: nn.Module) -> list[int]:
    """Parameters that are left at every set of widths that one share gives, rounded half up, at least one each."""
    groups = {group.conv: group for group in coupled_groups(parent, SHAPE)}
    full = {group.channels for group in groups.values()}
    shares = sorted({Fraction(2 * count + 1, 2 * width) for width in full for count in range(width)})
    result = []
    for share in [Fraction(0), *shares]:
        keep = {
            name: torch.arange(max(1, int(share * group.channels + Fraction(1, 2))))
            for name, group in groups.items()
        }
        left = remove_channels(parent, keep, groups)
        result.append(sum(parameter.numel() for parameter in left.parameters()))
    return result


@pytest.mark.usefixtures("pruned_only")
@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(("name", "table"), NETWORKS, ids=str)
def test_ratios_are_reached_as_near_as_whole_channels_allow(
    network: Network, context: Context, name: str, table: dict[str, Any], allocation: Any
) -> None:
    parent = network(name, **table)
    before, total = weights_digest(parent), count_nonzero(parent)
    ratios = (0.1, 0.5, 0.9)
    producer = FilterL1(scope="coupled", allocation=allocation)
    models = [copy.deepcopy(model) for model in producer.produce(parent, ratios, context)]
    assert weights_digest(parent) == before
    for low, high in pairwise(cost(model, SHAPE) for model in (parent, *models)):
        assert low.macs is not None
        assert high.macs is not None
        assert high.macs < low.macs
        assert high.parameters < low.parameters
    possible = sizes(parent) if (name, allocation) == ("resnet20", "uniform") else None
    for ratio, model in zip(ratios, models, strict=True):
        assert count_nonzero(model) == sum(
            parameter.numel() for parameter in model.parameters()
        )  # no zeros stay
        miss = abs(count_nonzero(model) - (1 - ratio) * total)
        assert miss < 0.03 * total
        if possible:
            assert miss == pytest.approx(min(abs(size - (1 - ratio) * total) for size in possible), abs=1e-6)
        assert min(group.channels for group in coupled_groups(model, SHAPE)) >= 1
        assert len([*prunable_layers(model).values()][-1].get_parameter("weight")) == 10
        assert model(torch.rand(2, *SHAPE)).shape == (2, 10)


@pytest.mark.usefixtures("pruned_only")
def test_half_of_all_channels_reach_a_ratio_that_channels_inside_the_blocks_never_do(
    network: Network, context: Context
) -> None:
    """Channel share .5 of a ResNet-20 is .748 of its parameters; inside the blocks it is about .5."""
    parent = network("resnet20", shortcut="B")
    total = count_nonzero(parent)
    shares = {}
    for producer in (FilterL1(), FilterL1(scope="coupled")):
        groups = producer.groups(parent, context)
        keep = {name: torch.arange(group.channels // 2) for name, group in groups.items()}
        shares[producer.scope] = 1 - count_nonzero(remove_channels(parent, keep, groups)) / total
    assert shares["coupled"] == pytest.approx(0.748, abs=6e-4)
    assert shares["inside"] == pytest.approx(0.5, abs=0.01)
    (model,) = FilterL1(scope="coupled").produce(parent, (0.748,), context)
    widths = {group.conv: group.channels for group in coupled_groups(model, SHAPE)}
    parent_widths = {group.conv: group.channels for group in coupled_groups(parent, SHAPE)}
    assert all(2 * widths[name] == parent_widths[name] for name in parent_widths)


@pytest.mark.usefixtures("pruned_only")
def test_plain_networks_have_the_same_channels_in_both_scopes(network: Network, context: Context) -> None:
    first, second = (
        [
            weights_digest(model)
            for model in FilterL1(scope=scope).produce(network("small-cnn"), (0.3, 0.8), context)
        ]
        for scope in ("inside", "coupled")
    )
    assert first == second


@pytest.mark.parametrize(
    "producer", [FilterL1(scope="coupled"), ProvableFilterPruning(scope="coupled", images=4)]
)
def test_zero_padding_shortcuts_are_refused_before_anything_is_trained(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch, producer: Any
) -> None:
    monkeypatch.setattr(Context, "retrain", lambda *_: pytest.fail("trained"))
    with pytest.raises(
        UserError, match=r"^channels that convolutions share cannot be removed here: .*\"inside\"\)$"
    ):
        [*producer.produce(network("resnet20", shortcut="A"), (0.5,), context)]


def test_a_killed_run_goes_on_from_its_last_candidate(network: Network, context: Context) -> None:
    parent = network("resnet20", shortcut="B")
    producer = FilterL2(scope="coupled")
    uninterrupted = [copy.deepcopy(model) for model in producer.produce(parent, (0.4, 0.8), context)]
    resumed = Context(context.train, context.recipe, seed=3, previous=uninterrupted[0])
    (again,) = producer.produce(parent, (0.8,), resumed)
    assert weights_digest(again) == weights_digest(uninterrupted[1])


class Readers(nn.Module):
    """A shared channel that two layers read, one of them behind a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.aside = nn.Conv2d(2, 3, 1)
        self.left, self.right = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(7, 5, 2, stride=2)
        self.linear = nn.Linear(10, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = (self.first(images) + self.second(images)).relu()
        right = self.right(torch.cat([self.aside(images).relu(), maps], 1))
        logits: Tensor = self.linear(
            torch.cat([self.left(maps).relu().mean((2, 3)), right.relu().mean((2, 3))], 1)
        )
        return logits


def test_the_most_sensitive_reader_of_a_shared_channel_counts() -> None:
    torch.manual_seed(1)
    model, images = Readers().eval(), torch.rand(5, 2, 4, 4)
    groups = {group.conv: group for group in coupled_groups(model, (2, 4, 4))}
    sensitivities = channel_sensitivities(model, groups, images)
    with torch.no_grad():
        maps = (model.first(images) + model.second(images)).relu()
        joined = torch.cat([model.aside(images).relu(), maps], 1)
    left = channel_shares(LayerInputs(model.left, 9, maps)).double()
    right = channel_shares(LayerInputs(model.right, 4, joined)).double()
    torch.testing.assert_close(sensitivities["first"].channels, torch.maximum(left, right[3:]))
    torch.testing.assert_close(sensitivities["aside"].channels, right[:3])
    assert (sensitivities["first"].patches, sensitivities["first"].kernel) == (16, 9)
    assert (sensitivities["aside"].patches, sensitivities["aside"].kernel) == (4, 4)


def test_pfp_prunes_the_residual_stream_too(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "retrain", lambda *_: None)
    parent = network("resnet20", shortcut="B")
    (model,) = ProvableFilterPruning(scope="coupled", images=8).produce(parent, (0.7,), context)
    assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(0.7, abs=0.03)
    inside = {group.conv for group in channel_groups(parent)}
    before = {group.conv: group.channels for group in coupled_groups(parent, SHAPE)}
    after = {group.conv: group.channels for group in coupled_groups(model, SHAPE)}
    assert any(after[name] < before[name] for name in before if name not in inside)


def test_the_default_scope_is_what_it_was() -> None:
    assert {ChannelScope().scope, FilterL1().scope, ProvableFilterPruning().scope} == {"inside"}
