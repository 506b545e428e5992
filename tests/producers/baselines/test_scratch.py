from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.errors import SkippedError
from evalsuite.models.cost import cost, count_nonzero, weights_digest
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.baselines.scratch import ScratchB, ScratchE, redraw_weights, stretch_recipe
from evalsuite.producers.unstructured.base import nonzero_budget, nonzero_masks, prunable_weights
from evalsuite.producers.unstructured.magnitude import Magnitude
from evalsuite.training.history import history
from evalsuite.training.recipe import Recipe

Network = Callable[..., nn.Module]


def one_shot(producer: Producer, parent: nn.Module, ratio: float, context: Context) -> nn.Module:
    return copy.deepcopy(next(iter(producer.produce(parent, (ratio,), context))))


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_the_mask_is_found_and_the_weights_are_new(
    network: Network, small_context: Context, name: str
) -> None:
    parent = network(name)
    before = weights_digest(parent)
    scratch, magnitude = (one_shot(one, parent, 0.7, small_context) for one in (ScratchE(), Magnitude()))
    assert all(
        torch.equal(mask, nonzero_masks(magnitude)[layer]) for layer, mask in nonzero_masks(scratch).items()
    )
    for layer, weight in prunable_weights(scratch).items():
        nonzero = weight != 0
        assert not bool((weight[nonzero] == prunable_weights(magnitude)[layer][nonzero]).any())
        surviving = int(nonzero.sum()) / weight.shape[0]
        count = int(nonzero.sum())
        if count > 400:  # variance of a normal, five standard errors
            ratio = float(weight[nonzero].double().square().mean()) * surviving / 2
            assert abs(ratio - 1) < 5 * (2 / count) ** 0.5, layer
    assert weights_digest(parent) == before


def test_norms_and_statistics_start_over(small_parent: nn.Module) -> None:
    model = copy.deepcopy(small_parent)
    redraw_weights(model, nonzero_masks(model), 5)
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(norms) == 4
    for norm in norms:
        assert bool((norm.weight == 1).all())
        assert norm.running_mean is not None
        assert bool((norm.running_mean == 0).all())
    again = copy.deepcopy(small_parent)
    state = torch.get_rng_state()
    redraw_weights(again, nonzero_masks(again), 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_digest(again) == weights_digest(model)
    redraw_weights(again, nonzero_masks(again), 6)
    assert weights_digest(again) != weights_digest(model)


def test_a_layer_without_reset_parameters_is_skipped() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

    model = nn.Sequential(nn.Linear(2, 2), Scale())
    with pytest.raises(SkippedError, match=r"^layer 1 has parameters, but no reset_parameters\(\)"):
        redraw_weights(model, nonzero_masks(model), 0)


@pytest.mark.usefixtures("fits")
def test_smaller_networks_stay_small_and_dense(small_context: Context, small_parent: nn.Module) -> None:
    model = one_shot(ScratchE(of="filter-l1"), small_parent, 0.5, small_context)
    assert sum(p.numel() for p in model.parameters()) < 0.6 * sum(
        p.numel() for p in small_parent.parameters()
    )
    assert all(bool(mask.all()) for mask in nonzero_masks(model).values())


def test_scratch_is_trained_from_nothing(small_context: Context, small_parent: nn.Module) -> None:
    assert small_context.origin is not None
    longer = replace(small_context.origin, recipe=replace(small_context.recipe, epochs=2))
    context = replace(small_context, origin=longer)
    model = one_shot(ScratchE(), small_parent, 0.5, context)
    assert [(phase.what, phase.epochs) for phase in history(model) or ()] == [("retraining", 2)]
    assert abs(count_nonzero(model) - nonzero_budget(small_parent, 0.5)) <= 1


@pytest.mark.parametrize(
    ("settings", "extra", "most"),
    [({}, 0, 1e9), ({"formula": "wang"}, 3, 1e9), ({"max_speedup": 2.0}, 0, 2.0)],
    ids=str,
)
def test_scratch_b_gets_the_parents_compute(
    small_context: Context,
    small_parent: nn.Module,
    fits: list[dict[str, Any]],
    settings: Any,
    extra: int,
    most: float,
) -> None:
    assert small_context.origin is not None
    first = Recipe(epochs=20, schedule="step", milestones=(10, 15), warmup_epochs=1.0)
    context = replace(
        small_context, origin=replace(small_context.origin, recipe=first), recipe=Recipe(epochs=3)
    )
    model = one_shot(ScratchB(**settings), small_parent, 0.7, context)
    dense, sparse = (cost(one, (3, 32, 32)).macs_nonzero or 0 for one in (small_parent, model))
    assert dense / sparse > 2
    recipe = fits[0]["recipe"]
    assert recipe.epochs == int(20 * min(dense / sparse, most) + extra)
    assert recipe.milestones == (round(recipe.epochs / 2), round(recipe.epochs * 0.75))
    assert recipe.warmup_epochs == pytest.approx(recipe.epochs / 20)


@pytest.mark.parametrize(("parent", "pruned", "epochs"), [(125.485, 112.435, 178), (125.485, 90.907, 220),
                                                          (313.197, 206.143, 243)])  # fmt: skip
def test_published_budgets(parent: float, pruned: float, epochs: int) -> None:
    """ResNet-56-A, ResNet-56-B and VGG16-A of Liu et al.: 160 epochs, steps at a half and three quarters."""
    recipe = Recipe(epochs=160, schedule="step", milestones=(80, 120))
    stretched = stretch_recipe(recipe, int(160 * parent / pruned))
    assert stretched.epochs == epochs
    assert stretched.milestones == (round(epochs / 2), round(epochs * 3 / 4))
