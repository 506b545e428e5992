from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from evalsuite.errors import SkippedError
from evalsuite.models.cost import count_nonzero
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.sensitivity import Reduction, weight_sensitivities
from evalsuite.producers.unstructured.base import (
    global_masks,
    nonzero_budget,
    nonzero_per_layer,
    prunable_weights,
)
from evalsuite.producers.unstructured.sipp import (
    SignGroups,
    Sipp,
    SippHybrid,
    SippRandom,
    expected_kept,
    optimal_sample_counts,
    sample_where_better,
    sign_groups,
)

Network = Callable[..., nn.Module]


def shares(patch: list[float], weights: list[float]) -> list[float]:
    """Share of each weight in the sum of its filter, for one patch of one sign."""
    result = []
    for j, weight in enumerate(weights):
        same_sign = [k for k, other in enumerate(weights) if other * weight > 0]
        total = sum(abs(weights[k]) * patch[k] for k in same_sign)
        result.append(abs(weight) * patch[j] / total if total > np.finfo(np.float32).eps else 0.0)
    return result


def slow_layer(inputs: Any, layer: nn.Module, reduction: Reduction) -> Any:
    """Sensitivity by the definition, weight by weight, patch by patch, image by image."""
    weight = layer.get_parameter("weight").detach().double().numpy()
    filters = weight.reshape(len(weight), -1)
    result = np.zeros_like(filters)
    for image in inputs.double().numpy():
        for sign in (1, -1):
            patches = [patch.ravel().tolist() for patch in cut(np.clip(sign * image, 0, None), layer)]
            for f, row in enumerate(filters.tolist()):
                each = np.array([shares(patch, row) for patch in patches])
                reduced = each.mean(0) if reduction == "mean" else each.max(0)
                result[f] = np.maximum(result[f], reduced)
    return result.reshape(weight.shape)


def cut(image: Any, layer: nn.Module) -> list[Any]:
    if isinstance(layer, nn.Linear):
        return [image]
    assert isinstance(layer, nn.Conv2d)
    (kernel, _), (stride, _) = layer.kernel_size, layer.stride
    pad = int(layer.padding[0])
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    starts = range(0, padded.shape[1] - kernel + 1, stride)
    return [padded[:, y : y + kernel, x : x + kernel] for y in starts for x in starts]


def tiny() -> nn.Module:
    """Inputs of both signs reach a strided, a padded and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 2, stride=2, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_sensitivities_equal_the_definition(reduction: Reduction) -> None:
    model, images = tiny(), torch.rand(11, 2, 4, 4) - 0.3  # two chunks
    sensitivities = weight_sensitivities(model, images, reduction=reduction)
    inputs = images
    for name, layer in model.named_children():
        if name in sensitivities:
            definition = slow_layer(inputs.detach(), layer, reduction)
            np.testing.assert_allclose(sensitivities[name].values.numpy(), definition, rtol=2e-5, atol=1e-7)
            assert sensitivities[name].patches == {"0": 16, "2": 4, "5": 1}[name]
        inputs = layer(inputs)


def test_sensitivities_by_hand() -> None:
    """Weights 1, 3 and -2, inputs 1, 1 and 1: the positive ones share 1 to 3, the negative one is alone."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 3.0, -2.0]])
    images = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    values = weight_sensitivities(model, images[:1], reduction="mean")["0"].values
    assert values.flatten().tolist() == pytest.approx([0.25, 0.75, 1.0])
    values = weight_sensitivities(model, images, reduction="mean")[
        "0"
    ].values  # alone on some image: all of it
    assert values.flatten().tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_other_padding_is_skipped() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(SkippedError, match="a convolution pads with 'reflect'"):
        weight_sensitivities(model, torch.rand(1, 1, 4, 4), reduction="mean")
    same, ones = nn.Sequential(nn.Conv2d(1, 1, 3, padding="same", bias=False)), torch.ones(1, 1, 4, 4)
    plain = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False))
    plain.load_state_dict(same.state_dict())
    first, second = (weight_sensitivities(one, ones, reduction="mean")["0"].values for one in (same, plain))
    assert torch.equal(first, second)


def test_sipp_keeps_the_most_sensitive_weights(small_context: Context, small_parent: nn.Module) -> None:
    images, _ = small_context.batch(20, "sipp")
    sensitivities = weight_sensitivities(small_parent, images, reduction="mean")
    masks = Sipp(images=20).masks(small_parent, 300, small_context)
    expected = global_masks(small_parent, {name: one.values for name, one in sensitivities.items()}, 300)
    assert all(torch.equal(masks[name], expected[name]) for name in masks)
    assert sum(int(mask.sum()) for mask in masks.values()) == 300


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("producer", [Sipp(images=8), SippRandom(images=8), SippHybrid(images=8)], ids=repr)
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_ratios_are_exact(network: Network, small_context: Context, producer: Producer, name: str) -> None:
    parent = network(name)
    for ratio, model in zip((0.4, 0.9), producer.produce(parent, (0.4, 0.9), small_context), strict=True):
        assert count_nonzero(model) == nonzero_budget(parent, ratio)
        assert min(nonzero_per_layer(model).values()) > 0


def some_groups() -> SignGroups:
    rng = np.random.default_rng(0)
    sizes = [3, 8, 20, 40]
    values = np.concatenate([rng.uniform(0.01, 1, size) for size in sizes])
    index = np.repeat(np.arange(4), sizes)
    return SignGroups(values, index, slack=np.array([5.0, 9, 2, 7]), weight=np.array([0.5, 0.5, 0.25, 0.25]))


def everything(groups: SignGroups, _: Any) -> Any:
    return np.ones(len(groups.sums), dtype=np.bool_)


@pytest.mark.parametrize("keep", [5, 15, 25])
def test_the_sample_counts_are_those_of_a_general_solver(keep: int) -> None:
    """Minimise the sum of bounds over samples, with the limits; the sum of samples is that of ours."""
    groups = some_groups()
    counts = optimal_sample_counts(groups, keep, everything)
    assert expected_kept(groups, counts, everything(groups, counts)) == pytest.approx(keep, rel=1e-6)

    def bound(m: Any) -> float:
        part = groups.slack * groups.sums / 3 / m
        return float((groups.weight * (part + np.sqrt(part**2 + 6 * part)) / 2).sum())

    limits = [(1e-3, float(size)) for size in groups.nonzero]
    total: Any = {"type": "eq", "fun": lambda m: m.sum() - counts.sum()}
    start: Any = np.minimum(counts.sum() / 4, groups.nonzero)
    solved = minimize(bound, start, bounds=limits, constraints=total, options={"ftol": 1e-12, "maxiter": 500})
    assert solved.success
    assert bound(counts) <= solved.fun * (1 + 1e-6)
    np.testing.assert_allclose(counts, solved.x, rtol=0.02)


def test_expected_weights_are_those_of_sampling() -> None:
    groups = some_groups()
    counts = np.array([2.0, 3, 10, 20])
    rng = np.random.default_rng(1)
    counts_drawn = []
    for _ in range(400):
        total = 0
        for g, count in enumerate(counts):  # a Poisson number of draws, as exp(-m p) says
            probabilities = groups.shares[groups.index == g]
            total += len(set(rng.choice(len(probabilities), rng.poisson(count), p=probabilities)))
        counts_drawn.append(total)
    error = np.std(counts_drawn) / math.sqrt(len(counts_drawn))
    assert abs(np.mean(counts_drawn) - expected_kept(groups, counts, everything(groups, counts))) < 5 * error


def wide(count: int = 60) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(count, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)
    )
    return model, torch.rand(20, count, 1, 1)


def test_sampling_keeps_the_sums_of_neurons_on_average(small_context: Context) -> None:
    """Over many draws the mean of a pruned and rescaled weight is the weight."""
    model, images = wide()
    before = {name: weight.clone() for name, weight in prunable_weights(model).items()}
    train = replace(small_context.train, images=images.numpy(), labels=np.arange(20) % 3, classes=3)
    runs = 150
    samples = []
    for seed in range(runs):
        pruned = copy.deepcopy(model)
        masks = SippRandom(images=20).masks(
            pruned, 120, replace(small_context, train=train, seed=seed, origin=None)
        )
        assert sum(int(mask.sum()) for mask in masks.values()) == 120
        samples.append(prunable_weights(pruned)["1"] * masks["1.weight"])
    stacked = torch.stack(samples)
    error = stacked.std(0) / runs**0.5
    deviations = (stacked.mean(0) - before["1"]).abs() / error.clamp_min(1e-6)
    assert float(deviations.max()) < 5  # of 240 weights
    scale = torch.where(stacked != 0, stacked / before["1"], 1.0)
    assert float(scale.min()) > 1 - 1e-5  # what stays only grows
    assert float(scale.max()) > 1.2


def test_hybrid_takes_the_smaller_bound() -> None:
    """One group whose weight is in few entries keeps its best; a long tail of equal ones is sampled."""
    few_matter = np.array([1.0, 1.0, 1e-4, 1e-4])
    equal = np.full(3000, 0.5)
    groups = SignGroups(
        np.concatenate([few_matter, equal]), np.repeat([0, 1], [4, 3000]), np.array([2.0, 2.0]), np.ones(2)
    )
    counts = np.array([2.0, 500.0])
    assert sample_where_better(groups, counts).tolist() == [False, True]
    for g, (count, values) in enumerate(((2, few_matter), (500, equal))):
        part = 2.0 * values.sum() / 3 / count
        random = (part + math.sqrt(part**2 + 6 * part)) / 2
        assert (3 * np.sort(values)[: len(values) - count].sum() > random) == [False, True][g]


def test_groups_are_filters_by_sign() -> None:
    model, images = wide(5)
    sensitivities = weight_sensitivities(model, images, reduction="max")
    groups = sign_groups(model, sensitivities)
    weights = prunable_weights(model)
    assert len(groups.sums) == 2 * 4 + 2 * 3
    for f in range(4):
        for sign in (0, 1):
            members = (weights["1"][f] < 0) == bool(sign)
            assert groups.sums[2 * f + sign] == pytest.approx(
                float(sensitivities["1"].values[f][members].sum()), rel=1e-5
            )
    assert groups.slack[0] == pytest.approx(2 * 3 * math.log(8 * 2 * 1 / 1e-16))
    assert groups.weight.tolist() == [1 / 4] * 8 + [1 / 3] * 6
    for g in range(len(groups.sums)):
        members = groups.index == g
        order = np.argsort(-groups.values[members], kind="stable")
        assert groups.order[members][order].tolist() == list(range(members.sum()))
