"""Scores of filters against worked examples, slow definitions and Torch-Pruning."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.surgery.channel_removal import channel_groups
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.random_pruning import FilterRandom
from evalsuite.producers.structured.base import ChannelScores, FilterProducer
from evalsuite.producers.structured.filter_scores import BatchNormScale, FilterL1, FilterL2, Fpgm, Taylor

Network = Callable[..., nn.Module]
ALL: list[FilterProducer] = [
    FilterL1(),
    FilterL2(),
    Fpgm(),
    BatchNormScale(),
    Taylor(images=8),
    FilterRandom(),
]


def filtered(*rows: Sequence[float]) -> nn.Module:
    """A 1 x 1 convolution of these filters, a norm and a linear layer."""
    conv = nn.Conv2d(len(rows[0]), len(rows), 1, bias=False)
    conv.weight.data = torch.tensor(rows)[:, :, None, None]
    return nn.Sequential(conv, nn.BatchNorm2d(len(rows)), nn.Flatten(), nn.Linear(len(rows), 2)).eval()


def scored(producer: FilterProducer, model: nn.Module, context: Context) -> ChannelScores:
    return producer.scores(model, producer.groups(model, context), context)


@pytest.mark.parametrize(
    ("producer", "rows", "scores"),
    [
        (FilterL1(), [[3.0, -3.0], [5.0, 0.0], [1.0, 1.0]], [6.0, 5.0, 2.0]),
        (FilterL2(), [[3.0, -4.0], [5.5, 0.0], [1.0, 1.0]], [5.0, 5.5, math.sqrt(2)]),
        (Fpgm(), [[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [-6.0, -8.0]], [25.0, 25.0, 35.0, 45.0]),
        (Fpgm(), [[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], [4.0, 2.0, 2.0]),  # signs count
    ],
    ids=["l1", "l2", "fpgm", "fpgm-signs"],
)
def test_scores_by_hand(
    small_context: Context, producer: FilterProducer, rows: list[list[float]], scores: list[float]
) -> None:
    result = scored(producer, filtered(*rows), small_context)
    assert [*result] == ["0"]
    assert result["0"].tolist() == pytest.approx(scores)


def test_the_filter_nearest_to_all_others_goes_first(
    small_context: Context, kept_channels: list[Mapping[str, Tensor]]
) -> None:
    model = filtered([9.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 9.0, 0.0], [1.0, 1.0, 1.0])
    [*Fpgm().produce(model, (0.2,), small_context)]
    assert kept_channels[0]["0"].tolist() == [0, 1, 2]  # not the smallest: it is further from the others


@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_fpgm_equals_the_definition(network: Network, small_context: Context, name: str) -> None:
    model = network(name)
    for layer, score in scored(Fpgm(), model, small_context).items():
        rows = model.get_parameter(f"{layer}.weight").detach().double().flatten(1).tolist()
        slow = [sum(math.dist(one, other) for other in rows) for one in rows]
        np.testing.assert_allclose(score.numpy(), slow, rtol=1e-9)


def test_batch_norm_scales_share_one_threshold(
    network: Network, small_context: Context, kept_channels: list[Mapping[str, Tensor]]
) -> None:
    parent = copy.deepcopy(network("small-cnn", widths=(4, 4, 4, 4)))
    scales = [[9.0, -8.0, 7.0, 6.0], [0.3, 0.2, -0.4, 0.1], [5.0, 0.5, 4.0, -3.0], [1.0, 2.0, 3.0, 4.0]]
    names = [group.conv for group in channel_groups(parent)]
    with torch.no_grad():
        for group, row in zip(channel_groups(parent), scales, strict=True):
            parent.get_parameter(f"{group.norms[0].name}.weight").copy_(torch.tensor(row))
    # without filters 0, 1 and 3 of the second layer (.1 to .3) and filter 1 of the third (.5): 48 * 4 + 9 (4 + 3 + 12)
    size = 192 + 171 + 2 * (4 + 1 + 3 + 4) + 50
    total = 192 + 9 * 48 + 2 * 16 + 50
    (model,) = BatchNormScale().produce(parent, (1 - size / total,), small_context)
    assert sum(p.numel() for p in model.parameters()) == size
    assert [kept_channels[0][name].tolist() for name in names] == [[0, 1, 2, 3], [2], [0, 2, 3], [0, 1, 2, 3]]
    (even,) = BatchNormScale(allocation="uniform").produce(parent, (0.6,), small_context)
    assert [kept_channels[1][name].tolist() for name in names] == [[0, 1], [0, 2], [0, 2], [2, 3]]
    assert even(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_convolution_without_a_norm_has_no_scale(small_context: Context) -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"^the convolution '0' has no batch norm behind it with a scale "):
        scored(BatchNormScale(), bare, small_context)


def test_taylor_by_hand(small_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters w on one pixel x, logits w x and 0: the derivative of the loss by w_0 is (p_0 - 1) x if 0 is right."""
    conv = nn.Conv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    model = nn.Sequential(conv, nn.Flatten(), linear)
    images, labels = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    monkeypatch.setattr(Context, "batch", lambda *_: (images, labels))
    chance = [1 / (1 + math.exp(-value)) for value in (1.0, 3.0)]  # logit (2 - 1) x
    slopes = [(chance[0] - 1) * 1, chance[1] * 3]
    sum_of_squares = sum(slope**2 for slope in slopes)
    importance = scored(Taylor(images=2, batch_size=1), model, small_context)["0"]
    assert importance.tolist() == pytest.approx([4 * sum_of_squares, sum_of_squares], rel=1e-5)
    square_of_mean = (sum(slopes) / 2) ** 2
    importance = scored(Taylor(images=2, batch_size=2), model, small_context)["0"]
    assert importance.tolist() == pytest.approx([4 * square_of_mean, square_of_mean], rel=1e-5)


def test_taylor_equals_finite_differences(network: Network, small_context: Context) -> None:
    parent = network("small-cnn", widths=(2, 2, 3, 2))
    producer = Taylor(images=12, batch_size=6)
    scores = scored(producer, parent, small_context)
    model = copy.deepcopy(parent).double()
    images, labels = small_context.batch(12, "taylor")

    def loss(rows: slice) -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(model(images[rows].double()), labels[rows]))

    for name, score in scores.items():
        weight = model.get_parameter(f"{name}.weight").data
        for place, filter_ in enumerate(weight):
            flat, slow = filter_.view(-1), 0.0
            for rows in (slice(0, 6), slice(6, 12)):
                for index in range(len(flat)):
                    value, losses = float(flat[index]), []
                    for shift in (1e-4, -1e-4):
                        flat[index] = value + shift
                        losses.append(loss(rows))
                    flat[index] = value
                    slow += ((losses[0] - losses[1]) / 2e-4 * value) ** 2
            assert float(score[place]) == pytest.approx(slow, rel=2e-3, abs=1e-9)


def test_random_filters_do_not_depend_on_weights(network: Network, small_context: Context) -> None:
    models = [network("small-cnn"), copy.deepcopy(network("small-cnn"))]
    nn.init.normal_(models[1].get_parameter("network.stem.conv.weight"))
    first, second = (scored(FilterRandom(), model, small_context) for model in models)
    other = scored(FilterRandom(), models[0], replace(small_context, seed=4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(bool((first[name] == other[name]).any()) for name in first)
    means = [
        float(score.mean())
        for seed in range(30)
        for score in scored(FilterRandom(), models[0], replace(small_context, seed=seed)).values()
    ]
    assert abs(float(np.mean(means)) - 0.5) < 5 / math.sqrt(12 * 30 * 200)  # uniform: 200 filters in all
    assert min(float(score.min()) for score in first.values()) >= 0


@pytest.mark.usefixtures("biases_raised")
@pytest.mark.parametrize("schedule", ["iterative", "one-shot"])
def test_where_each_ratio_starts(network: Network, small_context: Context, schedule: Any) -> None:
    models = FilterL1(schedule=schedule).produce(network("small-cnn"), (0.3, 0.6), small_context)
    biases = [float(model.get_parameter("network.linear.bias").detach().mean()) for model in models]
    step = 100 if schedule == "iterative" else 0
    assert biases == pytest.approx([100, 100 + step], abs=2)


@pytest.mark.parametrize("producer", ALL, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(("name", "table"), [("small-cnn", {}), ("resnet20", {"shortcut": "B"})], ids=str)
def test_torch_pruning_removes_the_same_channels_to_the_same_outputs(
    network: Network,
    small_context: Context,
    kept_channels: list[Mapping[str, Tensor]],
    torch_pruned: Callable[..., nn.Module],
    name: str,
    table: dict[str, Any],
    producer: FilterProducer,
) -> None:
    parent = network(name, **table)
    (model,) = producer.produce(parent, (0.5,), small_context)
    images = torch.rand(3, 3, 32, 32)
    other = torch_pruned(parent, kept_channels[0], images)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    assert sum(map(len, kept_channels[0].values())) < sum(group.channels for group in channel_groups(parent))
    with torch.inference_mode():
        assert torch.equal(other(images), model(images))


@pytest.mark.parametrize(("producer", "power"), [(FilterL1(), 1), (FilterL2(), 2)], ids=["l1", "l2"])
def test_torch_pruning_agrees_on_norms(
    network: Network, small_context: Context, producer: FilterProducer, power: int
) -> None:
    parent = network("resnet20", shortcut="B")
    scores = scored(producer, parent, small_context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning

        graph = torch_pruning.DependencyGraph().build_dependency(parent, torch.rand(1, 3, 32, 32))
        importance = torch_pruning.importance.MagnitudeImportance(
            p=power, group_reduction="first", normalizer=None, target_types=[nn.Conv2d]
        )
        for layer, score in scores.items():
            group = graph.get_pruning_group(
                parent.get_submodule(layer), torch_pruning.prune_conv_out_channels, [*range(len(score))]
            )
            torch.testing.assert_close(score**power, importance(group).detach())


def test_bad_settings() -> None:
    with pytest.raises(
        SuiteError, match=r"^taylor: found images = 0 and batch_size = 64, expected 1 or more$"
    ):
        Taylor(images=0)
