from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import nonzero
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.allocation import apportioned, layer_counts
from evalsuite.producers.unstructured.global_threshold import (
    Magnitude,
    alive,
    allowed,
    masks_of,
    room,
    weights_of,
)
from evalsuite.producers.unstructured.layerwise import (
    NM,
    Erk,
    GradientMagnitude,
    Lamp,
    MagnitudeLayerwise,
    UniformPlus,
)
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
RATIOS = (0.3, 0.6, 0.9)
FREE = {
    "layerwise": MagnitudeLayerwise(), "uniform+": UniformPlus(), "erk": Erk(), "lamp": Lamp(),
    "gradient": GradientMagnitude(images=16), "one-shot": Magnitude(schedule="one-shot"),
}  # fmt: skip


def produced(
    producer: Producer, parent: nn.Module, context: Context, ratios: Sequence[float] = RATIOS
) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in producer.produce(parent, ratios, context)]


def linears(*rows: Sequence[Sequence[float]]) -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(len(one[0]), len(one), bias=False) for one in rows))
    for layer, one in zip(model, rows, strict=True):
        layer.weight.data = torch.tensor(one, dtype=torch.float32)
    return model


def zeros(*shapes: tuple[int, ...]) -> nn.Module:
    """Layers of these shapes, all weights one."""
    layers = [nn.Conv2d(s[1], s[0], s[2]) if len(s) == 4 else nn.Linear(s[1], s[0]) for s in shapes]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers)


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("producer", FREE.values(), ids=FREE)
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_ratios_are_exact_and_masks_nested(
    network: Network, small_context: Context, producer: Producer, name: str
) -> None:
    parent = network(name)
    models = produced(producer, parent, small_context)
    for ratio, model in zip(RATIOS, models, strict=True):
        assert nonzero(model) == allowed(parent, ratio)
        assert min(alive(model).values()) > 0
    for low, high in pairwise(map(masks_of, models)):
        assert all(bool((low[layer] | ~high[layer]).all()) for layer in low)


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_every_layer_keeps_its_largest_weights(network: Network, small_context: Context, name: str) -> None:
    parent = network(name)
    (model,) = produced(MagnitudeLayerwise(), parent, small_context, (0.7,))
    keep = room(parent, allowed(parent, 0.7))
    density = keep / sum(alive(parent).values())
    for layer, weight in weights_of(parent).items():
        values = weight.flatten().tolist()
        mask = masks_of(model)[f"{layer}.weight"].flatten().tolist()
        count = sum(mask)
        assert abs(count - density * len(values)) < 1
        order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
        assert {i for i, kept in enumerate(mask) if kept} == set(order[:count])


def test_allocations_worked_by_hand() -> None:
    model = zeros((10, 10), (2, 2))
    assert [*layer_counts(model, "erk", 12).values()] == [10, 2]  # 20 and 4 parts
    assert [*layer_counts(model, "erk", 30).values()] == [26, 4]  # 25 and 5, but the second has 4
    assert [*layer_counts(model, "uniform", 52).values()] == [50, 2]
    convs = zeros((4, 3, 3, 3), (8, 4, 3, 3), (10, 8))  # 108, 288 and 80 weights
    assert [*layer_counts(convs, "uniform-plus", 200).values()] == [108, 72, 20]  # 92 left, 288 to 80
    assert [*layer_counts(convs, "uniform-plus", 140).values()] == [108, 16, 16]  # a fifth of 80 stays
    shares = np.array([4 + 3 + 3 + 3, 8 + 4 + 3 + 3, 10 + 8])
    assert [*layer_counts(convs, "erk", 98).values()] == (shares * 2).tolist()
    with pytest.raises(
        UserError, match=r"^too high a prune ratio for allocation 'uniform-plus': 124 weights may"
    ):
        layer_counts(convs, "uniform-plus", 124)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 50)), min_size=1, max_size=8), st.floats(0, 1))
def test_apportioned_numbers_add_up(layers: list[tuple[int, int]], share: float) -> None:
    most, shares = [limit for limit, _ in layers], [weight for _, weight in layers]
    keep = len(most) + int(share * (sum(most) - len(most)))
    found = apportioned(shares, [1] * len(most), most, keep)
    assert sum(found) == keep
    assert all(1 <= count <= limit for count, limit in zip(found, most, strict=True))
    free = [(c, s) for c, s, limit in zip(found, shares, most, strict=True) if 1 < c < limit]
    for (one, first), (other, second) in pairwise(free):  # those within bounds are in proportion
        assert (one - 1) / first < (other + 1) / second
        assert (one + 1) / first > (other - 1) / second


def test_lamp_follows_the_formula(network: Network, small_context: Context) -> None:
    """Score of u: its square over the sum of the squares of all v that are not smaller."""
    for name, weight in weights_of(network("small-cnn")).items():
        scores = Lamp().scores(network("small-cnn"), small_context)[name].flatten().tolist()
        values = weight.flatten().tolist()
        order = sorted(range(len(values)), key=lambda i: (abs(values[i]), -i))
        for place in range(0, len(order), max(1, len(order) // 20)):
            below = sum(values[v] ** 2 for v in order[place:])
            assert scores[order[place]] == pytest.approx(values[order[place]] ** 2 / below, rel=1e-9)


def test_lamp_by_hand(few: ImageSet, quick: Recipe) -> None:
    model = linears([[3, -1, 2]], [[10], [-10]])
    scores = Lamp().scores(model, Context(few, quick, seed=0))
    assert scores["0"].flatten().tolist() == pytest.approx([1, 1 / 14, 4 / 13])
    assert scores["1"].flatten().tolist() == pytest.approx(
        [1, 1 / 2]
    )  # the earlier of two equal ones is larger
    masks = Lamp().masks(model, 3, Context(few, quick, seed=0))
    assert [mask.flatten().int().tolist() for mask in masks.values()] == [[1, 0, 0], [1, 1]]


def test_gradient_magnitude_by_hand(quick: Recipe) -> None:
    """One linear layer and one image: the gradient of the loss is (p - y) x."""
    model = nn.Sequential(nn.Flatten(), *linears([[1, 2, 0.5], [0, -1, 3]]))
    image = np.array([0.2, 0.4, 1.0], dtype=np.float32).reshape(1, 3, 1, 1)
    context = Context(ImageSet("one", image, np.array([1]), 2), quick, seed=0)
    found = GradientMagnitude().scores(model, context)["1"]
    logits = (0.2 + 0.8 + 0.5, -0.4 + 3.0)
    p = math.exp(logits[0]) / sum(map(math.exp, logits))
    expected = [[1 * p * 0.2, 2 * p * 0.4, 0.5 * p], [0, 1 * p * 0.4, 3 * p]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert found.requires_grad is False


def test_n_of_m_by_hand(few: ImageSet, quick: Recipe, fits: list[object]) -> None:
    model = linears([[1, -4, 3, 2, 5, 5, 5, 5]], [[1], [2]])
    (found,) = produced(NM(m=4), model, Context(few, quick, seed=0), (0.4,))
    assert weights_of(found)["0"].tolist() == [[0, -4, 3, 0, 5, 5, 0, 0]]  # ties: the earlier
    assert weights_of(found)["1"].tolist() == [[1], [2]]  # one input: 4 does not divide it
    assert len(fits) == 1


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_every_group_of_m_inputs_keeps_n(network: Network, small_context: Context, name: str) -> None:
    parent = network(name)
    models = produced(NM(m=8), parent, small_context, (0.37, 0.74, 0.87))
    for n, model in zip((5, 2, 1), models, strict=True):
        for weight in weights_of(model).values():
            if weight.shape[1] % 8 == 0:
                groups = (weight != 0).view(len(weight), -1, 8, *weight.shape[2:]).sum(2)
                assert bool((groups == n).all())
            else:
                assert bool((weight != 0).all())
    for low, high in pairwise(map(masks_of, models)):
        assert all(bool((low[layer] | ~high[layer]).all()) for layer in low)


@pytest.mark.usefixtures("fits")
def test_n_of_m_refuses_what_no_pattern_has(network: Network, small_context: Context) -> None:
    with pytest.raises(
        UserError, match=r"^no pattern of 4 is within 0\.05 of ratio 0\.6; this network has 0\.2449"
    ):
        produced(NM(m=4), network("small-cnn"), small_context, (0.6,))
    with pytest.raises(UserError, match=r"^ratio 0\.5 has the same pattern of N out of 4 as the one before"):
        produced(NM(m=4), network("small-cnn"), small_context, (0.48, 0.5))
    with pytest.raises(SuiteError, match="expected m >= 2"):
        NM(m=1)


@pytest.mark.usefixtures("fits")
def test_one_shot_starts_from_the_parent(small_context: Context, small_parent: nn.Module) -> None:
    class Shifting(Magnitude):
        """Adds to what stays, as a retraining would."""

        def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
            masks = super().masks(model, keep, context)
            for weight in weights_of(model).values():
                weight.add_(1)
            return masks

    largest = max(float(weight.max()) for weight in weights_of(small_parent).values())
    for schedule, added in (("iterative", 2), ("one-shot", 1)):
        *_, last = produced(Shifting(schedule=schedule), small_parent, small_context, (0.3, 0.6))  # type: ignore[arg-type]  # one of both
        assert max(float(w.max()) for w in weights_of(last).values()) == pytest.approx(
            largest + added, rel=1e-5
        )
