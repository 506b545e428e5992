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
from evalsuite.models.cost import nonzero
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.sensitivity import Reduction, sensitivities
from evalsuite.producers.unstructured.global_threshold import alive, allowed, best, weights_of
from evalsuite.producers.unstructured.sipp import (
    Groups,
    Sipp,
    SippHybrid,
    SippRandom,
    expected,
    grouped,
    samples,
    where_better,
)

Network = Callable[..., nn.Module]


def shares(patch: list[float], weights: list[float]) -> list[float]:
    """Share of each weight in what its filter sums up, for one patch of one sign."""
    found = []
    for j, weight in enumerate(weights):
        own = [k for k, other in enumerate(weights) if other * weight > 0]
        total = sum(abs(weights[k]) * patch[k] for k in own)
        found.append(abs(weight) * patch[j] / total if total > np.finfo(np.float32).eps else 0.0)
    return found


def slow_layer(inputs: Any, layer: nn.Module, reduction: Reduction) -> Any:
    """Sensitivity by the definition, weight by weight, patch by patch, image by image."""
    weight = layer.get_parameter("weight").detach().double().numpy()
    filters = weight.reshape(len(weight), -1)
    result = np.zeros_like(filters)
    for image in inputs.double().numpy():
        for sign in (1, -1):
            patches = [patch.ravel().tolist() for patch in cut(np.clip(sign * image, 0, None), layer)]
            for f, own in enumerate(filters.tolist()):
                each = np.array([shares(patch, own) for patch in patches])
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
    found = sensitivities(model, images, reduction=reduction)
    inputs = images
    for name, layer in model.named_children():
        if name in found:
            expected_ = slow_layer(inputs.detach(), layer, reduction)
            np.testing.assert_allclose(found[name].values.numpy(), expected_, rtol=2e-5, atol=1e-7)
            assert found[name].patches == {"0": 16, "2": 4, "5": 1}[name]
        inputs = layer(inputs)


def test_sensitivities_by_hand() -> None:
    """Weights 1, 3 and -2, inputs 1, 1 and 1: the positive ones share 1 to 3, the negative one has no company."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 3.0, -2.0]])
    images = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    found = sensitivities(model, images[:1], reduction="mean")["0"].values
    assert found.flatten().tolist() == pytest.approx([0.25, 0.75, 1.0])
    found = sensitivities(model, images, reduction="mean")["0"].values  # alone on some image: all of it
    assert found.flatten().tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_other_padding_is_skipped() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(SkippedError, match="a convolution pads with 'reflect'"):
        sensitivities(model, torch.rand(1, 1, 4, 4), reduction="mean")
    same, ones = nn.Sequential(nn.Conv2d(1, 1, 3, padding="same", bias=False)), torch.ones(1, 1, 4, 4)
    plain = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False))
    plain.load_state_dict(same.state_dict())
    first, second = (sensitivities(one, ones, reduction="mean")["0"].values for one in (same, plain))
    assert torch.equal(first, second)


def test_sipp_keeps_the_most_sensitive_weights(small_context: Context, small_parent: nn.Module) -> None:
    images, _ = small_context.batch(20, "sipp")
    found = sensitivities(small_parent, images, reduction="mean")
    masks = Sipp(images=20).masks(small_parent, 300, small_context)
    expected_ = best(small_parent, {name: one.values for name, one in found.items()}, 300)
    assert all(torch.equal(masks[name], expected_[name]) for name in masks)
    assert sum(int(mask.sum()) for mask in masks.values()) == 300


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("producer", [Sipp(images=8), SippRandom(images=8), SippHybrid(images=8)], ids=repr)
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_ratios_are_exact(network: Network, small_context: Context, producer: Producer, name: str) -> None:
    parent = network(name)
    for ratio, model in zip((0.4, 0.9), producer.produce(parent, (0.4, 0.9), small_context), strict=True):
        assert nonzero(model) == allowed(parent, ratio)
        assert min(alive(model).values()) > 0


def some_groups() -> Groups:
    rng = np.random.default_rng(0)
    sizes = [3, 8, 20, 40]
    values = np.concatenate([rng.uniform(0.01, 1, size) for size in sizes])
    of = np.repeat(np.arange(4), sizes)
    return Groups(values, of, slack=np.array([5.0, 9, 2, 7]), weight=np.array([0.5, 0.5, 0.25, 0.25]))


def everything(groups: Groups, _: Any) -> Any:
    return np.ones(len(groups.sums), dtype=np.bool_)


@pytest.mark.parametrize("keep", [5, 15, 25])
def test_the_budget_is_that_of_a_general_solver(keep: int) -> None:
    """Minimise the sum of bounds over samples, with the limits; the sum of samples is what ours found."""
    groups = some_groups()
    counts = samples(groups, keep, everything)
    assert expected(groups, counts, everything(groups, counts)) == pytest.approx(keep, rel=1e-6)

    def bound(m: Any) -> float:
        part = groups.slack * groups.sums / 3 / m
        return float((groups.weight * (part + np.sqrt(part**2 + 6 * part)) / 2).sum())

    limits = [(1e-3, float(size)) for size in groups.alive]
    total: Any = {"type": "eq", "fun": lambda m: m.sum() - counts.sum()}
    start: Any = np.minimum(counts.sum() / 4, groups.alive)
    solved = minimize(bound, start, bounds=limits, constraints=total, options={"ftol": 1e-12, "maxiter": 500})
    assert solved.success
    assert bound(counts) <= solved.fun * (1 + 1e-6)
    np.testing.assert_allclose(counts, solved.x, rtol=0.02)


def test_expected_weights_are_what_sampling_finds() -> None:
    groups = some_groups()
    counts = np.array([2.0, 3, 10, 20])
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        total = 0
        for g, count in enumerate(counts):  # a Poisson number of draws, as exp(-m p) says
            own = groups.shares[groups.of == g]
            total += len(set(rng.choice(len(own), rng.poisson(count), p=own)))
        found.append(total)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected(groups, counts, everything(groups, counts))) < 5 * error


def wide(count: int = 60) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(count, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)
    )
    return model, torch.rand(20, count, 1, 1)


def test_sampling_keeps_what_neurons_sum_up_on_average(small_context: Context) -> None:
    """Over many draws the mean of a pruned and rescaled weight is the weight."""
    model, images = wide()
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    own = replace(small_context.train, images=images.numpy(), labels=np.arange(20) % 3, classes=3)
    runs = 150
    found = []
    for seed in range(runs):
        one = copy.deepcopy(model)
        masks = SippRandom(images=20).masks(
            one, 120, replace(small_context, train=own, seed=seed, origin=None)
        )
        assert sum(int(mask.sum()) for mask in masks.values()) == 120
        found.append(weights_of(one)["1"] * masks["1.weight"])
    stacked = torch.stack(found)
    error = stacked.std(0) / runs**0.5
    apart = (stacked.mean(0) - before["1"]).abs() / error.clamp_min(1e-6)
    assert float(apart.max()) < 5  # of 240 weights
    scale = torch.where(stacked != 0, stacked / before["1"], 1.0)
    assert float(scale.min()) > 1 - 1e-5  # what stays only grows
    assert float(scale.max()) > 1.2


def test_hybrid_takes_the_smaller_bound() -> None:
    """One group whose weight is in few entries keeps its best; a long tail of equal ones is sampled."""
    few_matter = np.array([1.0, 1.0, 1e-4, 1e-4])
    equal = np.full(3000, 0.5)
    groups = Groups(
        np.concatenate([few_matter, equal]), np.repeat([0, 1], [4, 3000]), np.array([2.0, 2.0]), np.ones(2)
    )
    counts = np.array([2.0, 500.0])
    assert where_better(groups, counts).tolist() == [False, True]
    for g, (kept, values) in enumerate(((2, few_matter), (500, equal))):
        part = 2.0 * values.sum() / 3 / kept
        random = (part + math.sqrt(part**2 + 6 * part)) / 2
        assert (3 * np.sort(values)[: len(values) - kept].sum() > random) == [False, True][g]


def test_groups_are_filters_by_sign() -> None:
    model, images = wide(5)
    found = sensitivities(model, images, reduction="max")
    groups = grouped(model, found)
    weights = weights_of(model)
    assert len(groups.sums) == 2 * 4 + 2 * 3
    for f in range(4):
        for sign in (0, 1):
            own = (weights["1"][f] < 0) == bool(sign)
            assert groups.sums[2 * f + sign] == pytest.approx(
                float(found["1"].values[f][own].sum()), rel=1e-5
            )
    assert groups.slack[0] == pytest.approx(2 * 3 * math.log(8 * 2 * 1 / 1e-16))
    assert groups.weight.tolist() == [1 / 4] * 8 + [1 / 3] * 6
    for g in range(len(groups.sums)):
        own = groups.of == g
        order = np.argsort(-groups.values[own], kind="stable")
        assert groups.order[own][order].tolist() == list(range(own.sum()))
