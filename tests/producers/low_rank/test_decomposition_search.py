"""How the budget is divided among the layers, against worked examples and brute force."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import UserError
from evalsuite.producers.base import Context
from evalsuite.producers.low_rank.decomposition import (
    Alds,
    DecomposableLayer,
    Decomposition,
    equal_error_ranks,
    largest_error,
    layer_spectra,
    least_error_groups,
)
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array, ImageSet


@pytest.fixture
def context(few: ImageSet, quick: Recipe) -> Context:
    return Context(few, quick, seed=3)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(weight: Tensor) -> nn.Module:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], bias=False)
    layer.weight.data = weight.clone()
    return layer


def plain(name: str, outputs: int, columns: int, *errors: float) -> DecomposableLayer:
    return DecomposableLayer(name, outputs, columns, {1: np.array(errors)})


def test_one_error_divides_the_budget_as_in_a_worked_example() -> None:
    """Weights per rank: 20 in `flat`, 30 in `steep`. An error of 0.4 needs ranks 3 and 1: 60 + 30."""
    flat = plain("flat", 10, 10, 1.0, 0.9, 0.8, 0.4, 0.3, 0.0)
    steep = plain("steep", 10, 20, 1.0, 0.2, 0.1, 0.05, 0.01, 0.0)
    both, once = (flat, steep), {"flat": 1, "steep": 1}
    for budget, ranks in (
        (90, (3, 1)),
        (50, (1, 1)),
        (112, (4, 1)),
        (141, (5, 1)),
        (150, (5, 2)),
        (900, (5, 5)),
    ):
        assert equal_error_ranks(both, once, budget) == {"flat": (1, ranks[0]), "steep": (1, ranks[1])}
    assert largest_error(both, {"flat": (1, 3), "steep": (1, 1)}) == 0.4
    assert flat.weights(1, 5) == 100  # never more than the layer itself
    assert flat.error(1, 5) == 0
    sentence = (
        r"^too high a prune ratio: 49 weights may stay in 2 layers, but with rank 1 in each 50 are left;"
    )
    with pytest.raises(UserError, match=sentence):
        equal_error_ranks(both, once, 49)


def small_layers() -> list[DecomposableLayer]:
    square, wide = drawn(6, 6, 1, 1), drawn(8, 6, 3, 3, seed=1)
    blocks = torch.zeros_like(wide)
    for group in range(3):  # each pair of channels has a rank of its own: groups pay
        pair = drawn(8, 1, seed=20 + group) @ drawn(1, 18, seed=30 + group)
        blocks[:, 2 * group : 2 * group + 2] = pair.view(8, 2, 3, 3)
    network = nn.Sequential(conv(square), conv(wide), conv(blocks + 0.05 * wide))
    return layer_spectra(network, max_groups=6)


def every_shape(layers: Sequence[DecomposableLayer]) -> list[Decomposition]:
    """All groups and ranks of all layers, by brute force."""
    single = [
        [(one.name, (k, j)) for k, errors in one.errors.items() for j in range(1, len(errors))]
        for one in layers
    ]
    return [dict(shape) for shape in product(*single)]


def size(layers: Sequence[DecomposableLayer], shape: Decomposition) -> int:
    return sum(one.weights(*shape[one.name]) for one in layers)


@pytest.mark.parametrize("budget", [62, 78, 160, 240])
def test_on_one_layer_the_search_finds_what_brute_force_finds(context: Context, budget: int) -> None:
    (_, _, layer) = small_layers()
    result = searched([layer], context, budget)
    rivals = [shape for shape in every_shape([layer]) if size([layer], shape) <= size([layer], result)]
    assert largest_error([layer], result) == min(largest_error([layer], shape) for shape in rivals)
    assert budget != 78 or result["2"] == (3, 1)


@pytest.mark.parametrize("budget", [250, 300, 360])
def test_on_three_layers_no_smaller_shape_has_less_error_than_the_search(
    context: Context, budget: int
) -> None:
    layers = small_layers()
    result = searched(layers, context, budget)
    rivals = [shape for shape in every_shape(layers) if size(layers, shape) <= size(layers, result)]
    assert len(rivals) > 50
    least = min(largest_error(layers, shape) for shape in rivals)
    assert largest_error(layers, result) <= 1.05 * least
    svd = equal_error_ranks(layers, {one.name: 1 for one in layers}, budget)
    assert (largest_error(layers, result) < largest_error(layers, svd)) == (budget > 250)


def searched(layers: Sequence[DecomposableLayer], context: Context, budget: float) -> Decomposition:
    alds = Alds(max_groups=6)
    starts = alds._starts(layers, context, budget)
    return min(
        (alds._search(layers, start, budget) for start in starts),
        key=lambda decomposition: largest_error(layers, decomposition),
    )


def test_groups_of_the_same_size_are_compared_by_their_error() -> None:
    """10 x 12: rank 4 of one group costs 4 (10 + 12) = 88, which pays rank 2 of two groups (2 (20 + 12) = 64)."""
    errors: dict[int, Array] = {
        1: np.array([1, 0.9, 0.8, 0.7, 0.6, 0.0]),
        2: np.array([1.2, 0.7, 0.5, 0.4, 0.0]),
    }
    layer = DecomposableLayer("one", 10, 12, errors)
    assert least_error_groups(layer, 1, 4) == 2
    assert least_error_groups(layer, 1, 1) == 1  # 22 weights pay no rank of two groups
    assert least_error_groups(layer, 1, 5) == 1  # exact
