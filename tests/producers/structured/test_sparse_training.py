from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.models.cost import count_nonzero
from evalsuite.models.surgery.channel_removal import channel_groups
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.sparse_training import (
    Slimming,
    SoftFilter,
    SparseStructure,
    proximal_hooks,
    soft_threshold,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
FAMILIES = ("small-cnn", "resnet20")
ONE_STEP = Recipe(
    epochs=1, batch_size=96, learning_rate=0.1, momentum=0.0, weight_decay=0.0, schedule="constant"
)


def scales(model: nn.Module) -> dict[str, nn.Parameter]:
    """Scales of the batch norms behind filters that can be removed."""
    return {
        group.conv: model.get_submodule(group.norms[0].name).get_parameter("weight")
        for group in channel_groups(model)
    }


def filters(model: nn.Module, name: str) -> Tensor:
    return model.get_submodule(name).get_parameter("weight").detach()


def planted(parent: nn.Module) -> nn.Module:
    """A copy whose scales are of both signs and all different."""
    model = copy.deepcopy(parent)
    with torch.no_grad():
        for place, scale in enumerate(scales(model).values()):
            steps = torch.arange(len(scale), dtype=torch.float32)
            scale.copy_((0.3 + 0.01 * place + steps / len(scale)) * (-1) ** steps)
    return model


def with_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gives every parameter a gradient and returns copies."""
    draws = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draws)
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.fixture
def context(few: ImageSet, quick: Recipe) -> Context:
    return Context(few, quick, seed=3)


def first_hooks(producer: Producer, parent: nn.Module, context: Context, fits: list[dict[str, Any]]) -> Hooks:
    """The hooks of the training before the removal; nothing was trained."""
    next(iter(producer.produce(parent, (0.5,), context)))
    hooks = fits[0]["hooks"]
    assert isinstance(hooks, Hooks)
    assert [("hooks" in fit, fit["ratio"]) for fit in fits] == [
        (True, 0.5),
        (False, 0.5),
    ]  # then the retraining
    return hooks


@pytest.mark.parametrize("name", FAMILIES)
def test_slimming_adds_the_sign_of_the_scales_to_their_gradients_and_to_no_others(
    network: Network, context: Context, fits: list[dict[str, Any]], name: str
) -> None:
    parent = planted(network(name))
    hooks = first_hooks(Slimming(sparsity=0.25), parent, context, fits)
    before = with_gradients(parent)
    assert hooks.before_step is not None
    hooks.before_step(parent, 0.0)
    penalised = {id(scale) for scale in scales(parent).values()}
    assert len(penalised) == {"small-cnn": 4, "resnet20": 9}[name]
    for key, parameter in parent.named_parameters():
        extra = 0.25 * np.sign(parameter.detach().numpy()) if id(parameter) in penalised else 0.0
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), before[key].numpy() + extra, rtol=1e-6)


def test_one_step_of_sparse_training_moves_each_scale_by_rate_times_sparsity(
    network: Network, few: ImageSet, fits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = planted(network("small-cnn"))
    context = Context(few, ONE_STEP, seed=3)
    hooks = first_hooks(Slimming(sparsity=0.5), parent, context, fits)
    monkeypatch.undo()
    free, penalised = copy.deepcopy(parent), copy.deepcopy(parent)
    context.fit(free, 0.5)
    Context(few, ONE_STEP, seed=3).fit(penalised, 0.5, hooks=hooks)
    for key, scale in scales(parent).items():
        difference = scales(penalised)[key].detach() - scales(free)[key].detach()
        torch.testing.assert_close(difference, -0.05 * scale.detach().sign(), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("kind", [Slimming, SparseStructure])
@pytest.mark.parametrize("name", FAMILIES)
def test_one_threshold_on_the_scales_holds_for_all_layers(
    network: Network, context: Context, name: str, kind: type[Producer]
) -> None:
    parent = planted(network(name))
    (model,) = kind().produce(parent, (0.4,), context)
    before, after = scales(parent), scales(model)
    remaining = {key: scale.detach().abs() for key, scale in after.items()}
    least_kept = min(float(one.min()) for one in remaining.values() if len(one) > 1)
    removed = [
        float(value)
        for key, scale in before.items()
        for value in scale.detach().abs()
        if not bool((remaining[key] == value).any())
    ]
    assert removed
    assert max(removed) < least_kept
    assert sum(len(one) for one in remaining.values()) + len(removed) == sum(
        len(one) for one in before.values()
    )
    assert abs(1 - count_nonzero(model) / count_nonzero(parent) - 0.4) < 0.02


def test_defaults_of_slimming_are_those_of_its_paper_for_plain_networks() -> None:
    assert Slimming().sparsity == 1e-4


def test_the_proximal_step_follows_the_worked_example() -> None:
    """Rate 0.1 and sparsity 1: the threshold is 0.1; momentum 0.5, two steps by hand."""
    model = nn.Sequential(nn.BatchNorm2d(2))
    scale = model.get_parameter("0.weight")
    with torch.no_grad():
        scale.copy_(torch.tensor([1.0, -0.05]))
    hooks = proximal_hooks(["0"], replace(ONE_STEP, learning_rate=0.1), sparsity=1.0, momentum=0.5)
    assert hooks.before_step is not None
    assert hooks.after_step is not None
    for slope, expected in (([0.5, 0.0], [0.775, 0.025]), ([0.0, 0.0], [0.5875, 0.0])):
        scale.grad = torch.tensor(slope)
        hooks.before_step(model, 0.5)
        assert model.get_parameter("0.weight").grad is None  # for the optimiser
        hooks.after_step(model, 0.5, 1)
        np.testing.assert_allclose(scale.detach().numpy(), expected, atol=1e-7)


def test_the_velocity_of_the_scales_is_in_the_state_of_the_hooks() -> None:
    def stepped(steps: int, state: dict[str, Tensor], start: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        model = nn.Sequential(nn.BatchNorm2d(3))
        hooks = proximal_hooks(["0"], ONE_STEP, sparsity=0.1, momentum=0.9)
        hooks.state.update({name: tensor.clone() for name, tensor in state.items()})
        scale = model.get_parameter("0.weight")
        with torch.no_grad():
            scale.copy_(start)
        for step in range(steps):
            scale.grad = torch.tensor([1.0, -1.0, 0.5])
            assert hooks.before_step is not None
            assert hooks.after_step is not None
            hooks.before_step(model, 0.5)
            hooks.after_step(model, 0.5, step)
        return scale.detach(), hooks.state

    uninterrupted, _ = stepped(4, {}, torch.ones(3))
    half, state = stepped(2, {}, torch.ones(3))
    assert torch.equal(stepped(2, state, half)[0], uninterrupted)
    assert not torch.equal(stepped(2, {}, half)[0], uninterrupted)


def test_without_momentum_a_training_soft_thresholds_the_scales_and_decays_only_the_others(
    network: Network, few: ImageSet
) -> None:
    parent = planted(network("small-cnn"))
    names = [group.norms[0].name for group in channel_groups(parent)]
    gradients: dict[str, Tensor] = {}

    def trained(recipe: Recipe, hooks: Hooks) -> nn.Module:
        model = copy.deepcopy(parent)
        Context(few, recipe, seed=3).fit(model, 0.5, hooks=hooks)
        return model

    def note(model: nn.Module, at: float) -> None:  # noqa: ARG001  # the hook's signature
        for key, scale in scales(model).items():
            assert scale.grad is not None
            gradients[key] = scale.grad.clone()

    trained(ONE_STEP, Hooks(before_step=note))
    moved = [
        trained(
            replace(ONE_STEP, weight_decay=decay), proximal_hooks(names, ONE_STEP, sparsity=4.0, momentum=0.0)
        )
        for decay in (0.0, 0.5)
    ]
    for key, scale in scales(parent).items():
        x = (scale.detach() - 0.1 * gradients[key]).numpy()
        expected = np.where(x > 0.4, x - 0.4, np.where(x < -0.4, x + 0.4, 0.0))
        assert (expected == 0).any()
        for model in moved:
            np.testing.assert_allclose(scales(model)[key].detach().numpy(), expected, atol=1e-6)
        assert not torch.equal(filters(moved[0], key), filters(moved[1], key))


def test_soft_thresholds_shrink_to_zero_and_never_across() -> None:
    values = soft_threshold(torch.tensor([-1.0, -0.25, 0.0, 0.25, 1.0]), 0.25)
    assert values.tolist() == [-0.75, 0.0, 0.0, 0.0, 0.75]


@pytest.mark.parametrize("name", FAMILIES)
def test_filters_of_least_norm_are_zero_after_each_epoch_and_may_grow_back(
    network: Network, context: Context, fits: list[dict[str, Any]], name: str
) -> None:
    parent = network(name)
    hooks = first_hooks(SoftFilter(), parent, context, fits)
    assert hooks.after_epoch is not None
    model = copy.deepcopy(parent)
    key = channel_groups(model)[1].conv
    zeroed = []
    for epoch in (1, 2):
        norms = filters(model, key).square().sum((1, 2, 3)).numpy()
        hooks.after_epoch(model, epoch)
        now = filters(model, key).abs().sum((1, 2, 3)).numpy()
        zeroed.append(set(np.flatnonzero(now == 0)))
        assert 0 < len(zeroed[-1]) < len(norms)
        assert zeroed[-1] == set(np.argsort(norms)[: len(zeroed[-1])])
        with torch.no_grad():  # the next epoch: what was zero comes to more than all the others
            filters(model, key)[sorted(zeroed[-1])] = 10.0
            others = [one for one in range(len(norms)) if one not in zeroed[-1]]
            filters(model, key)[others] = torch.linspace(0.1, 0.2, len(others)).view(-1, 1, 1, 1)
    assert not zeroed[0] & zeroed[1]
    assert len(zeroed[0]) == len(zeroed[1])


def test_soft_filters_train_between_the_epochs_and_the_zeros_are_removed(
    network: Network, few: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, zeros = network("small-cnn"), []
    key = channel_groups(parent)[1].conv
    fit = Context.fit

    def watched(self: Context, model: nn.Module, ratio: float, **options: Any) -> None:
        if "hooks" not in options:  # the retraining
            return
        zero = options["hooks"].after_epoch

        def count() -> int:
            return int((filters(model, key).abs().sum((1, 2, 3)) == 0).sum())

        def after(trained: nn.Module, epochs: int) -> None:
            zeros.append(count())
            zero(trained, epochs)
            zeros.append(count())

        fit(self, model, ratio, recipe=options["recipe"], hooks=Hooks(after_epoch=after))

    monkeypatch.setattr(Context, "fit", watched)
    context = Context(few, Recipe(epochs=2, batch_size=32, learning_rate=0.05), seed=3)
    (model,) = SoftFilter().produce(parent, (0.5,), context)
    width = len(filters(model, key))
    removed = len(filters(parent, key)) - width
    assert removed > 0
    assert zeros == [0, removed, 0, removed]  # both times all had grown back by the end of the epoch
    assert bool((filters(model, key).abs().sum((1, 2, 3)) > 0).all())


def test_soft_epochs_have_lower_learning_rates_throughout(
    network: Network, few: ImageSet, fits: list[dict[str, Any]]
) -> None:
    steps = Recipe(epochs=4, learning_rate=0.5, schedule="piecewise", milestones=(2,), rates=(0.25,))
    for recipe in (steps, Recipe(epochs=4, learning_rate=0.5, floor=0.125)):
        fits.clear()
        next(
            iter(
                SoftFilter(learning_rate_factor=0.5).produce(
                    network("small-cnn"), (0.5,), Context(few, recipe, seed=3)
                )
            )
        )
        soft_epochs = fits[0]["recipe"]
        assert soft_epochs.learning_rate == 0.25
        assert soft_epochs.rates == tuple(rate / 2 for rate in recipe.rates)
        assert soft_epochs.floor == recipe.floor / 2
        assert "recipe" not in fits[1]  # the retraining takes the full rate


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (Slimming, {"sparsity": 0.0}, "found sparsity = 0.0, expected a number above 0"),
        (SparseStructure, {"sparsity": float("inf")}, "found sparsity = inf, expected a number above 0"),
        (SparseStructure, {"momentum": 1.0}, "sss: found momentum = 1.0, expected at least 0 and below 1"),
        (
            SoftFilter,
            {"learning_rate_factor": 0.0},
            "soft-filter: found learning_rate_factor = 0.0, expected above 0 and at most 1",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    kind: type[Producer], settings: dict[str, float], sentence: str
) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}$"):
        kind(**settings)
