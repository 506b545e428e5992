from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import count_nonzero, prunable_layers, weights_digest
from evalsuite.models.surgery.low_rank_factors import factor_pairs, factored_weight, factorize_layer
from evalsuite.producers.base import Context
from evalsuite.producers.low_rank.decomposition import (
    Alds,
    Decomposition,
    Svd,
    decompose,
    decompose_and_retrain,
    equal_error_ranks,
    factorise,
    largest_error,
    layer_spectra,
)
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
FAMILIES = ("small-cnn", "resnet20")


@pytest.fixture
def context(few: ImageSet, quick: Recipe) -> Context:
    return Context(few, quick, seed=3)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(weight: Tensor, **settings: Any) -> nn.Sequential:
    """A network that is one convolution."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], bias=False, **settings)
    layer.weight.data = weight.clone()
    return nn.Sequential(layer)


def rebuilt(weight: Tensor, groups: int, rank: int) -> Tensor:
    """The product of both factors."""
    network = conv(weight)
    return factored_weight(factorize_layer(network[0], *factorise(weight, groups, rank)))


def norm(matrix: Tensor) -> float:
    return float(np.linalg.norm(matrix.flatten(1).numpy(), 2))


def of_low_rank(groups: int, rank: int) -> Tensor:
    """(8, 4, 3, 3): each of `groups` groups of input channels has rank `rank`."""
    parts = [drawn(8, rank, seed=one) @ drawn(rank, 4 // groups * 9, seed=10 + one) for one in range(groups)]
    return torch.cat([part.view(8, -1, 3, 3) for part in parts], dim=1)


@pytest.mark.parametrize(("groups", "rank"), [(1, 1), (1, 3), (2, 2), (4, 1)])
def test_a_layer_of_known_rank_is_exact_at_that_rank_and_not_below(groups: int, rank: int) -> None:
    weight = of_low_rank(groups, rank)
    torch.testing.assert_close(rebuilt(weight, groups, rank), weight)
    (layer,) = layer_spectra(conv(weight), max_groups=4)
    assert layer.errors[groups][rank] < 1e-6
    assert layer.errors[groups][rank - 1] > 1e-2
    if rank > 1:
        assert norm(rebuilt(weight, groups, rank - 1) - weight) > 0.1


def test_without_groups_the_error_is_that_of_the_best_matrix_of_the_rank() -> None:
    weight = drawn(6, 4, 3, 3)
    (layer,) = layer_spectra(conv(weight), max_groups=1)
    left, values, right = np.linalg.svd(weight.flatten(1).numpy(), full_matrices=False)
    for rank in range(1, 7):
        best = left[:, :rank] * values[:rank] @ right[:rank]
        np.testing.assert_allclose(rebuilt(weight, 1, rank).flatten(1).numpy(), best, atol=1e-12)
        residual = np.linalg.norm(weight.flatten(1).numpy() - best, 2) / values[0]
        assert layer.errors[1][rank] == pytest.approx(residual, abs=1e-7)
    assert [*layer.errors] == [1]
    assert layer.errors[1][0] == pytest.approx(1)


def test_the_bound_is_tight_where_all_groups_are_alike() -> None:
    """[D D] with D = diag(3, 1): rank 1 leaves [diag(0, 1) diag(0, 1)], a third of the norm, which is the bound."""
    half = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    weight = torch.cat([half, half], dim=1).view(2, 4, 1, 1)
    (layer,) = layer_spectra(conv(weight), max_groups=2)
    assert layer.errors[2].tolist() == pytest.approx([1, 1 / 3, 0])
    assert norm(rebuilt(weight, 2, 1) - weight) / norm(weight) == pytest.approx(1 / 3)
    assert layer.weights(2, 1) == 8  # no smaller than the layer: it is not decomposed


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 6]), st.integers(2, 7), st.sampled_from([1, 3]))
def test_no_decomposition_is_further_off_than_its_bound(seed: int, groups: int, out: int, side: int) -> None:
    weight = drawn(out, 6, side, side, seed=seed)
    (layer,) = layer_spectra(conv(weight), max_groups=6)
    assert [*layer.errors] == [1, 2, 3, 6]
    bounds = layer.errors[groups]
    assert len(bounds) == min(out, 6 // groups * side**2) + 1
    for rank in range(1, len(bounds)):
        error = norm(rebuilt(weight, groups, rank) - weight) / norm(weight)
        assert error <= bounds[rank] + 1e-6
    assert bool((np.diff(bounds) <= 1e-12).all())


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", FAMILIES)
def test_with_one_group_alds_is_svd(network: Network, context: Context, name: str) -> None:
    parent = network(name)
    ratios = (0.4, 0.8)
    for svd, alds in zip(
        trail(Svd(), parent, context, ratios), trail(ONE, parent, context, ratios), strict=True
    ):
        assert factor_pairs(svd)
        assert weights_digest(svd) == weights_digest(alds)


ONE = Alds(max_groups=1)


def trail(
    producer: Svd | Alds, parent: nn.Module, context: Context, ratios: Sequence[float]
) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in producer.produce(parent, ratios, context)]


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_of_svd_is_the_best_of_its_rank_and_all_errors_keep_to_one_threshold(
    network: Network, context: Context, name: str
) -> None:
    parent = network(name)
    before = weights_digest(parent)
    (model,) = trail(Svd(), parent, context, (0.6,))
    assert weights_digest(parent) == before
    assert abs(1 - count_nonzero(model) / count_nonzero(parent) - 0.6) < 0.02
    errors, errors_at_lower_rank = [], []
    pairs = factor_pairs(model)
    assert len(pairs) > 2
    for key, pair in pairs.items():
        weight = (
            parent.get_submodule(key).get_parameter("weight").detach().flatten(1).numpy().astype(np.float64)
        )
        rank = len(pair.get_submodule("reduce").get_parameter("weight"))
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        best = left[:, :rank] * values[:rank] @ right[:rank]
        np.testing.assert_allclose(factored_weight(pair).flatten(1).numpy(), best, atol=1e-5)
        errors.append(values[rank] / values[0])
        errors_at_lower_rank.append(values[rank - 1] / values[0] if rank > 1 else np.inf)
    assert max(errors) < min(errors_at_lower_rank) + 1e-6  # no layer could be smaller without being the worst
    assert pairs.keys() < prunable_layers(parent).keys() | {""}


@pytest.mark.usefixtures("fits")
def test_what_alds_finds_is_never_worse_than_what_it_starts_from(network: Network, context: Context) -> None:
    parent = network("resnet20")
    for ratio in (0.5, 0.97):  # at the second one most random starts have too many weights at rank 1
        budget = (1 - ratio) * count_nonzero(parent)
        layers = layer_spectra(parent, max_groups=16)
        alds = Alds()
        starts = alds._starts(layers, context, budget)
        assert starts[0] == {one.name: 1 for one in layers}
        assert starts[1] == {one.name: max(k for k in (1, 2, 3) if k in one.errors) for one in layers}
        least = min(largest_error(layers, alds._search(layers, start, budget)) for start in starts)
        assert least <= min(
            largest_error(layers, equal_error_ranks(layers, start, budget)) for start in starts
        )
        assert (len(starts) == 16) == (ratio == 0.5)
        (model,) = trail(alds, parent, context, (ratio,))
        assert abs(1 - count_nonzero(model) / count_nonzero(parent) - ratio) < 0.01


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("producer", [Svd(), Alds(max_groups=4, random_starts=2)], ids=["svd", "alds"])
def test_a_later_ratio_starts_from_the_factors_of_the_last_one(
    network: Network, context: Context, producer: Svd | Alds
) -> None:
    """Nothing is trained here: decomposing twice is as good as once where the ranks fall."""
    parent = network("small-cnn")
    once = trail(producer, parent, context, (0.8,))[0]
    twice = trail(producer, parent, context, (0.5, 0.8))[1]
    assert count_nonzero(twice) == pytest.approx(count_nonzero(once), rel=0.02)
    for key, pair in factor_pairs(twice).items():
        assert not any(factor_pairs(part) for part in pair)
        assert not isinstance(parent.get_submodule(key), nn.Sequential)


@pytest.mark.parametrize("producer", [Svd(), ONE], ids=["svd", "alds"])
def test_what_retraining_made_of_the_factors_is_what_is_decomposed_next(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch, producer: Svd | Alds
) -> None:
    def tripled(_: Context, model: nn.Module, ratio: float, **how: Any) -> None:  # noqa: ARG001  # the context's
        for pair in factor_pairs(model).values():
            pair.get_submodule("expand").get_parameter("weight").detach().mul_(3)

    monkeypatch.setattr(Context, "fit", tripled)
    parent, key = network("small-cnn"), "network.layer2.conv"
    largest = np.linalg.norm(parent.get_submodule(key).get_parameter("weight").detach().flatten(1).numpy(), 2)
    for model, factor in zip(trail(producer, parent, context, (0.5, 0.6, 0.7)), (3, 9, 27), strict=True):
        value = np.linalg.norm(factored_weight(factor_pairs(model)[key]).flatten(1).numpy(), 2)
        assert value == pytest.approx(factor * largest, rel=1e-4)  # the largest singular value is always kept


@pytest.mark.usefixtures("fits")
def test_the_budget_is_what_norms_and_biases_leave(context: Context) -> None:
    """288 + 32 weights that may be decomposed, 8 + 16 + 4 other parameters: half of 348 leaves 146."""
    budgets: list[float] = []

    def choose(dense: nn.Module, budget: float) -> Decomposition:  # noqa: ARG001  # the producers'
        budgets.append(budget)
        return {}

    parent = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    for parameter in parent.parameters():
        parameter.data.fill_(1)
    next(decompose_and_retrain(parent, (0.5,), context, choose))
    assert budgets == [146]


def test_grouped_convolutions_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16, 4))
    assert [one.name for one in layer_spectra(network, max_groups=4)] == ["1", "3"]
    assert [[*one.errors] for one in layer_spectra(network, max_groups=4)] == [[1, 2, 4], [1]]
    smaller = decompose(network, {"1": (2, 3), "3": (1, 9)})
    assert [*factor_pairs(smaller)] == ["1"]  # rank 9 of a 4 x 16 layer would be larger than the layer


def test_a_parent_in_factors_is_refused(network: Network, context: Context) -> None:
    parent = decompose(network("small-cnn"), {"network.layer2.conv": (1, 2)})
    with pytest.raises(
        UserError, match=r"^the parent has 1 layers in factors already, 'network.layer2.conv' first;"
    ):
        next(Svd().produce(parent, (0.5,), context))


def test_a_ratio_below_rank_1_is_refused(network: Network, context: Context) -> None:
    for producer in (Svd(), Alds()):
        with pytest.raises(UserError, match=r"^too high a prune ratio: "):
            next(producer.produce(network("small-cnn"), (0.999,), context))


@pytest.mark.parametrize(
    "wrong", [{"max_groups": 0}, {"rounds": 0}, {"start_groups": 0}, {"random_starts": -1}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SuiteError, match=r"^alds: found max_groups = "):
        Alds(**wrong)
