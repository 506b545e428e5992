from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.errors import SuiteError
from evalsuite.models.cost import count_nonzero
from evalsuite.producers.base import Context
from evalsuite.producers.unstructured.base import (
    global_masks,
    magnitudes,
    nonzero_budget,
    nonzero_masks,
    nonzero_per_layer,
    prunable_weights,
    weight_budget,
)
from evalsuite.producers.unstructured.gradual import (
    GradR,
    GradualMagnitude,
    Rewiring,
    SparsityRamp,
    laplace_mean,
)
from evalsuite.training.history import history
from evalsuite.training.recipe import Recipe

LONG = Recipe(epochs=4, batch_size=32, learning_rate=0.05)


@pytest.fixture
def context(small_context: Context) -> Context:
    """Twelve steps."""
    return replace(small_context, recipe=LONG)


def test_the_cubic_is_that_of_the_paper() -> None:
    """Equation 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, in shares of zeros."""
    ramp = SparsityRamp(GradualMagnitude(begin=0.25, end=0.75), 100, first=10_000, last=1_000)
    for at in (25, 30, 50, 74):
        zeros = 0.9 + (0.0 - 0.9) * (1 - (at - 25) / 50) ** 3
        assert ramp.kept(at) == pytest.approx(10_000 * (1 - zeros), abs=1)
    assert [ramp.kept(at) for at in (0, 25, 75, 100)] == [10_000, 10_000, 1_000, 1_000]


def test_pruning_steps_have_even_distances() -> None:
    """t is t_0, t_0 + dt, ..., t_0 + n dt in equation 1: here n is 4 and dt 2 epochs."""
    ramp = SparsityRamp(GradualMagnitude(begin=0.1, end=0.9, pruning_steps=4), 10, first=1_000, last=0)
    counts = [ramp.kept(at) for at in (0.9, 2.9, 3.0, 4.9, 5.0, 6.9, 7.0, 8.9, 9.0)]
    assert counts == [1_000, 1_000, 422, 422, 125, 125, 16, 16, 0]


def test_a_short_training_is_pruned_gradually_too(
    context: Context, small_parent: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twelve steps nine lie before three quarters of the way: each takes some weights, the ninth less than one."""
    counts = []
    step = SparsityRamp.step

    def watched(self: SparsityRamp, model: nn.Module, at: float, number: int) -> None:
        step(self, model, at, number)
        counts.append(sum(nonzero_per_layer(model).values()))

    monkeypatch.setattr(SparsityRamp, "step", watched)
    next(iter(GradualMagnitude().produce(small_parent, (0.9,), context)))
    assert len(counts) == 12
    assert len(set(counts[:8])) == 8


def test_zeros_grow_during_training_and_never_shrink(
    context: Context, small_parent: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[float, int]] = []
    step = SparsityRamp.step

    def watched(self: SparsityRamp, model: nn.Module, at: float, number: int) -> None:
        before = dict(self.masks)
        step(self, model, at, number)
        assert all(bool((before[name] | ~mask).all()) for name, mask in self.masks.items() if name in before)
        counts.append((at, sum(nonzero_per_layer(model).values())))

    monkeypatch.setattr(SparsityRamp, "step", watched)
    (model,) = GradualMagnitude(pruning_steps=1000, end=0.5).produce(small_parent, (0.8,), context)
    ramp = SparsityRamp(
        GradualMagnitude(pruning_steps=1000, end=0.5), 4, sum(nonzero_per_layer(small_parent).values()),
        weight_budget(small_parent, nonzero_budget(small_parent, 0.8)),
    )  # fmt: skip
    assert [count for _, count in counts] == [ramp.kept(at) for at, _ in counts]
    assert len({count for _, count in counts}) > 4
    assert abs(count_nonzero(model) - nonzero_budget(small_parent, 0.8)) <= 1
    assert [phase.what for phase in history(model) or ()] == ["pretraining", "pruning"]


@pytest.mark.parametrize(
    "producer",
    [GradualMagnitude(), GradualMagnitude(start="scratch", pruning_steps=5), GradualMagnitude(end=1.0), GradR(),
     GradR(start="parent")],
    ids=repr,
)  # fmt: skip
def test_ratios_are_reached(context: Context, small_parent: nn.Module, producer: Any) -> None:
    for recipe in (LONG, replace(LONG, ema=0.9)):
        selecting = replace(context, recipe=recipe)
        (model,) = producer.produce(small_parent, (0.85,), selecting)
        assert abs(count_nonzero(model) - nonzero_budget(small_parent, 0.85)) <= 1
        assert min(nonzero_per_layer(model).values()) > 0


def test_a_share_of_zeros_below_a_half(context: Context, small_parent: nn.Module) -> None:
    (model,) = GradR().produce(small_parent, (0.2,), context)
    assert abs(count_nonzero(model) - nonzero_budget(small_parent, 0.2)) <= 1
    assert [phase.what for phase in history(model) or ()] == ["pruning", "retraining"]


def test_the_prior_has_the_wanted_mass_above_zero() -> None:
    for share in (0.01, 0.3, 0.5, 0.8):
        center, alpha = laplace_mean(share, 2.0), 2.0
        below = (
            0.5 * math.exp(alpha * (0 - center)) if center > 0 else 1 - 0.5 * math.exp(-alpha * (0 - center))
        )
        assert 1 - below == pytest.approx(share)


def test_rewiring_by_hand() -> None:
    """A weight is pushed over zero, sleeps, and grows back with its old sign; rate 0.1, alpha 0.5, center -1."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    weight = prunable_weights(model)["0"]
    weight.copy_(torch.tensor([[0.5, -0.4]]))
    flat = Recipe(epochs=10, learning_rate=0.1, schedule="constant")
    wires = Rewiring(flat, 0.5, -1.0, Rewiring.of(model, flat, 0.5, 0.1).state)

    def moved(first: float, second: float) -> tuple[list[float], list[float]]:
        weight.add_(torch.tensor([[first, second]]))
        wires.step(model, 1.0, 1)
        return weight[0].tolist(), wires.thetas()["0"][0].tolist()

    weights, thetas = moved(-0.7, -0.1)  # theta: 0.5 - 0.7 - 0.05 and 0.4 + 0.1 - 0.05
    assert weights == pytest.approx([0, -0.45])
    assert thetas == pytest.approx([-0.25, 0.45])
    weights, thetas = moved(0.2, 0.0)  # still asleep
    assert weights == pytest.approx([0, -0.4])
    assert thetas == pytest.approx([-0.1, 0.4])
    weights, thetas = moved(0.35, 1.5)  # one wakes, the other would change its sign
    assert weights == pytest.approx([0.2, 0])
    assert thetas == pytest.approx([0.2, -1.15])
    _, thetas = moved(0.0, 0.0)  # below the center the prior pulls up
    assert thetas == pytest.approx([0.15, -1.1])


def test_the_final_mask_is_of_the_largest_theta(
    context: Context, small_parent: nn.Module, fits: list[dict[str, Any]]
) -> None:
    """Without training theta is the absolute weight, so the mask is that of global magnitude."""
    (model,) = GradR(start="parent").produce(small_parent, (0.6,), context)
    keep = weight_budget(small_parent, nonzero_budget(small_parent, 0.6))
    expected = global_masks(small_parent, magnitudes(small_parent), keep)
    assert all(torch.equal(mask, expected[name]) for name, mask in nonzero_masks(model).items())
    assert len(fits) == 2


def test_weights_that_are_zero_may_stay(context: Context, small_parent: nn.Module) -> None:
    """With a prior that sets nearly all to zero the mask is exact all the same."""
    (model,) = GradR(start="parent", alpha=50.0).produce(small_parent, (0.5,), context)
    assert abs(count_nonzero(model) - nonzero_budget(small_parent, 0.5)) <= 1


def test_a_ramp_goes_on_from_its_masks(small_parent: nn.Module) -> None:
    """A killed training restores the masks alone: the second half of the steps needs nothing else."""
    settings = GradualMagnitude(pruning_steps=1000, end=1.0)
    first, resumed = SparsityRamp(settings, 4, 900, 100), SparsityRamp(settings, 4, 900, 100)
    model = copy.deepcopy(small_parent)
    for number in range(1, 5):
        first.step(model, number / 4, number)
    copied = copy.deepcopy(model)
    resumed.masks.update({name: mask.clone() for name, mask in first.masks.items()})
    for network, ramp in ((model, first), (copied, resumed)):
        for weight in prunable_weights(network).values():
            weight.add_(0.01)  # an optimiser moves pruned weights as well
        ramp.step(network, 2.0, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters(), strict=True))


def test_settings_are_checked() -> None:
    with pytest.raises(SuiteError, match="expected 0 <= begin < end <= 1 and pruning_steps > 0"):
        GradualMagnitude(begin=0.8, end=0.5)
    with pytest.raises(SuiteError, match=r"found begin = 0, end = 0\.75, pruning_steps = 0; "):
        GradualMagnitude(pruning_steps=0)
    with pytest.raises(SuiteError, match="expected a number above 0"):
        GradR(alpha=0)
