from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.producers.base import Context
from evalsuite.producers.unstructured.base import nonzero_masks, prunable_weights
from evalsuite.producers.unstructured.n_m_sparsity import NM
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]


def produced(parent: nn.Module, context: Context, ratios: Sequence[float], m: int) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in NM(m=m).produce(parent, ratios, context)]


def two_linears(first: list[list[float]], second: list[list[float]]) -> nn.Sequential:
    layers = [nn.Linear(len(matrix[0]), len(matrix), bias=False) for matrix in (first, second)]
    for layer, matrix in zip(layers, (first, second), strict=True):
        layer.weight.data = torch.tensor(matrix, dtype=torch.float32)
    return nn.Sequential(*layers)


def test_n_of_m_by_hand(few: ImageSet, quick: Recipe, fits: list[object]) -> None:
    model = two_linears([[1, -4, 3, 2, 5, 5, 5, 5]], [[1], [2]])
    (pruned,) = produced(model, Context(few, quick, seed=0), (0.4,), 4)
    assert prunable_weights(pruned)["0"].tolist() == [[0, -4, 3, 0, 5, 5, 0, 0]]  # ties: the earlier
    assert prunable_weights(pruned)["1"].tolist() == [[1], [2]]  # one input: 4 does not divide it
    assert len(fits) == 1


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_every_group_of_m_inputs_keeps_n(network: Network, small_context: Context, name: str) -> None:
    parent = network(name)
    models = produced(parent, small_context, (0.37, 0.74, 0.87), 8)
    for n, model in zip((5, 2, 1), models, strict=True):
        for weight in prunable_weights(model).values():
            if weight.shape[1] % 8 == 0:
                groups = (weight != 0).view(len(weight), -1, 8, *weight.shape[2:]).sum(2)
                assert bool((groups == n).all())
            else:
                assert bool((weight != 0).all())
    for low, high in pairwise(map(nonzero_masks, models)):
        assert all(bool((low[layer] | ~high[layer]).all()) for layer in low)


@pytest.mark.usefixtures("fits")
def test_n_of_m_refuses_what_no_pattern_has(network: Network, small_context: Context) -> None:
    with pytest.raises(
        UserError, match=r"^no pattern of 4 is within 0\.05 of ratio 0\.6; this network has 0\.2449"
    ):
        produced(network("small-cnn"), small_context, (0.6,), 4)
    with pytest.raises(UserError, match=r"^ratio 0\.5 has the same pattern of N out of 4 as the one before"):
        produced(network("small-cnn"), small_context, (0.48, 0.5), 4)
    with pytest.raises(SuiteError, match="expected m >= 2"):
        NM(m=1)
