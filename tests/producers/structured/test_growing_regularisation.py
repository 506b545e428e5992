from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError
from evalsuite.models.cost import count_nonzero, weights_digest
from evalsuite.models.surgery.channel_removal import channel_groups, remove_channels
from evalsuite.producers.base import Context
from evalsuite.producers.structured.growing_regularisation import (
    GReg1,
    GReg2,
    GrowingPenalty,
    GrowthLimit,
    TrainabilityPreserving,
    correlation,
    penalty_hook,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
Fits = list[dict[str, Any]]
FAMILIES = ("small-cnn", "resnet20")
RECIPE = Recipe(
    epochs=11, batch_size=32, learning_rate=0.05, milestones=(3,), schedule="step", warmup_epochs=1
)
RATIO = 0.5


@pytest.fixture
def context(few: ImageSet) -> Context:
    return Context(few, RECIPE, seed=3)


def filters(model: nn.Module, name: str) -> Tensor:
    return model.get_submodule(name).get_parameter("weight").detach()


def removed_filters(parent: nn.Module, model: nn.Module) -> dict[str, list[int]]:
    """Filters of least mean |w| of each layer of `parent`: as many as `model` lacks."""
    names = [group.conv for group in channel_groups(parent)]
    return {
        name: sorted(
            np.argsort(filters(parent, name).abs().double().mean((1, 2, 3)).numpy())[
                : len(filters(parent, name)) - len(filters(model, name))
            ].tolist()
        )
        for name in names
    }


def without(model: nn.Module, removed: dict[str, list[int]]) -> nn.Module:
    """A smaller copy."""
    keep = {
        name: torch.tensor([one for one in range(len(filters(model, name))) if one not in filters_out])
        for name, filters_out in removed.items()
    }
    return remove_channels(model, keep)


def added_gradients(model: nn.Module, hooks: Hooks, at: float) -> dict[str, Tensor]:
    """What the hook adds to gradients of one everywhere."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert hooks.before_step is not None
    hooks.before_step(model, at)
    return {name: one.grad - 1 for name, one in model.named_parameters() if one.grad is not None}


def pruned(
    producer: GReg1 | GReg2 | TrainabilityPreserving, parent: nn.Module, context: Context
) -> nn.Module:
    (model,) = producer.produce(parent, (RATIO,), context)
    return model


def check_gradients(model: nn.Module, gradients: dict[str, Tensor], factors: dict[str, Tensor]) -> None:
    """Compares with factor times weight: `factors` by parameter, one per filter; none means 0."""
    for name, parameter in model.named_parameters():
        factor = factors.get(name, torch.zeros(len(parameter)))
        expected = factor.view(-1, *[1] * (parameter.dim() - 1)) * parameter.detach()
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=2e-7)


def on(length: int, chosen: list[int], value: float, other: float = 0.0) -> Tensor:
    factors = torch.full((length,), other)
    factors[chosen] = value
    return factors


def test_the_factor_grows_evenly_to_the_largest_and_is_held() -> None:
    factor = GrowingPenalty(max_penalty=2.0, hold=0.2).factor(10)
    assert [factor(at) for at in (0, 2, 4, 8, 9, 10)] == pytest.approx([0, 0.5, 1, 2, 2, 2])
    assert GrowingPenalty(hold=0.0).factor(4, start=0.2)(2) == pytest.approx(0.6)


def test_by_default_the_factor_is_the_published_one_on_110_000_steps() -> None:
    """1e-4 every 10 steps up to 1, then 10 000 steps more."""
    factor = GReg1().factor(110_000)
    for step in (0, 10, 12_340, 99_990, 100_000, 105_000, 110_000):
        assert factor(step) == pytest.approx(min(1.0, 1e-4 * (step // 10)))
    assert GReg1().learning_rate == 1e-3
    assert (GReg2().pick_penalty, GReg2().kept_penalty) == (1e-2, -1e-4)
    assert TrainabilityPreserving().decorrelation == 1000


def test_the_penalty_is_on_the_chosen_filters_and_their_biases_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1))
    model[0].weight.data = torch.tensor([3.0, 5.0]).view(2, 1, 1, 1)
    model[0].bias.data = torch.tensor([7.0, 9.0])
    penalty = penalty_hook({"0": torch.tensor([False, True])}, lambda at: at / 4)
    gradients = added_gradients(model, Hooks(before_step=penalty), 2.0)
    assert gradients["0.weight"].flatten().tolist() == [0, 2.5]
    assert gradients["0.bias"].tolist() == [0, 4.5]
    assert not gradients["1.weight"].any()
    assert not gradients["1.bias"].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_greg_1_penalises_the_filters_of_least_mean_magnitude_and_removes_them(
    network: Network, context: Context, fits: Fits, name: str
) -> None:
    parent = network(name)
    before = weights_digest(parent)
    model = pruned(GReg1(), parent, context)
    removed = removed_filters(parent, model)
    assert all(removed.values())
    assert abs(1 - count_nonzero(model) / count_nonzero(parent) - RATIO) < 0.03
    assert weights_digest(model) == weights_digest(without(parent, removed))
    for at, factor in ((2.5, 0.25), (10.0, 1.0), (10.9, 1.0)):
        fresh = copy.deepcopy(parent)
        factors = {
            f"{key}.weight": on(len(filters(parent, key)), indices, factor)
            for key, indices in removed.items()
        }
        check_gradients(fresh, added_gradients(fresh, fits[0]["hooks"], at), factors)
    assert weights_digest(parent) == before


def test_the_phase_is_as_long_as_the_retraining_at_a_constant_rate_by_default(
    network: Network, context: Context, fits: Fits
) -> None:
    parent = network("small-cnn")
    pruned(GReg1(), parent, context)
    pruned(GReg1(epochs=3, learning_rate=0.0), parent, context)
    phase, retraining, scheduled, _ = fits
    assert phase["recipe"] == Recipe(epochs=11, batch_size=32, learning_rate=1e-3, schedule="constant")
    assert retraining == {"ratio": RATIO, "masks": None}
    assert scheduled["recipe"] == replace(RECIPE, epochs=3)


def test_penalised_filters_vanish_in_training(network: Network, few: ImageSet) -> None:
    parent, shares = network("small-cnn"), []
    key = channel_groups(parent)[2].conv
    fit = Context.fit

    class Watched(Context):
        def fit(self, model: nn.Module, ratio: float, **options: Any) -> None:
            start = filters(model, key).flatten(1).norm(dim=1)
            fit(self, model, ratio, **options)
            if "recipe" in options:
                shares.append((filters(model, key).flatten(1).norm(dim=1) / start).numpy())

    context = Watched(few, Recipe(epochs=1, batch_size=32, learning_rate=0.05), seed=3)
    model = pruned(GReg1(epochs=6, learning_rate=0.1), parent, context)
    removed = removed_filters(parent, model)[key]
    remaining = [one for one in range(len(shares[0])) if one not in removed]
    assert shares[0][removed].max() < 0.5
    assert shares[0][remaining].min() > 0.7


def sized(*rows: list[float]) -> nn.Module:
    """Linear layers of one input; each filter is one weight."""
    layers = [nn.Linear(1, len(row), bias=False) for row in rows]
    for layer, row in zip(layers, rows, strict=True):
        layer.weight.data = torch.tensor(row)[:, None]
    return nn.Sequential(*layers)


def test_the_growth_limit_follows_the_worked_example() -> None:
    """Kept over penalised: 10 / 1, and 10 / 0.001 in the next step, of which a tenth counts: 0.9 * 10 + 0.1 * 10000."""
    first, last = torch.tensor([False, True]), torch.tensor([True, False])
    masks = {"0": first, "1": last}

    def factors(limit: GrowthLimit, model: nn.Module, grown: float) -> list[float]:
        return [round(float(one), 6) for one in limit.factors(model, masks, grown).values()]

    for together, expected in ((False, [0.2, 0.3]), (True, [0.3, 0.3])):
        limit = GrowthLimit(limit=1000.0, together=together)
        assert factors(limit, sized([10.0, 1.0], [1.0, 10.0]), 0.1) == [0.1, 0.1]
        near = sized([10.0, 0.001], [1.0, 10.0])
        assert factors(limit, near, 0.2) == [0.2, 0.2]  # 1009: the first has vanished, the other has not
        assert factors(limit, near, 0.3) == expected
        assert limit.state["0/ratio"].item() == pytest.approx(0.9 * 1009 + 0.1 * 10_000, rel=1e-5)
    zeroed = sized([10.0, 0.0], [0.0, 10.0])  # 10 / 0: both at once
    assert factors(limit, zeroed, 0.4) == [0.4, 0.4]
    assert factors(limit, sized([10.0, 1.0], [1.0, 10.0]), 0.9) == [0.4, 0.4]  # and so it stays


def test_a_layer_that_loses_nothing_stops_no_other() -> None:
    masks = {"0": torch.tensor([False, False]), "1": torch.tensor([True, False])}
    limit = GrowthLimit(limit=1000.0, together=True)
    for grown in (0.25, 0.5):
        factors = limit.factors(sized([3.0, 4.0], [0.001, 10.0]), masks, grown)
    assert [float(one) for one in factors.values()] == [0.25, 0.25]


def test_a_growth_limit_goes_on_from_its_state() -> None:
    masks = {"0": torch.tensor([False, True])}
    steps = [([10.0, size], 0.1 * number) for number, size in enumerate((1.0, 0.05, 0.004, 0.0001, 0.2), 1)]
    uninterrupted, resumed = (
        GrowthLimit(limit=500.0, together=False),
        GrowthLimit(limit=500.0, together=False),
    )
    expected = [float(uninterrupted.factors(sized(row), masks, grown)["0"]) for row, grown in steps]
    interrupted = GrowthLimit(limit=500.0, together=False)
    for row, grown in steps[:3]:
        interrupted.factors(sized(row), masks, grown)
    resumed.state.update({name: value.clone() for name, value in interrupted.state.items()})
    assert [float(resumed.factors(sized(row), masks, grown)["0"]) for row, grown in steps[3:]] == expected[3:]
    assert expected[-1] == pytest.approx(0.4)


@pytest.mark.parametrize(("kind", "after"), [(GReg1, 0), (GReg2, 1)])
@pytest.mark.parametrize("limit", [1000.0, 0.5])
def test_the_penalty_stops_growing_when_the_penalised_filters_have_vanished(
    network: Network, context: Context, fits: Fits, kind: Any, after: int, limit: float
) -> None:
    """Below a limit that every layer is beyond from the start, the first factor is the last."""
    parent = network("small-cnn")
    model = pruned(kind(magnitude_ratio_limit=limit), parent, context)
    hooks = fits[after]["hooks"]
    fresh = copy.deepcopy(parent)
    key, indices = next((key, indices) for key, indices in removed_filters(parent, model).items() if indices)
    factors = [
        (added_gradients(fresh, hooks, at)[f"{key}.weight"][indices] / filters(parent, key)[indices]).median()
        for at in (2.0, 8.0)
    ]
    assert (float(factors[1]) > 1.5 * float(factors[0])) == (limit > 1)
    assert set(hooks.state) >= {f"{key}/ratio", f"{key}/held"}


def test_tpp_has_no_early_stop(network: Network, context: Context, fits: Fits) -> None:
    pruned(TrainabilityPreserving(), network("small-cnn"), context)
    assert fits[0]["hooks"].state == {}


@pytest.mark.parametrize("name", FAMILIES)
def test_greg_2_picks_after_all_have_been_penalised_and_lets_the_kept_ones_grow(
    network: Network, few: ImageSet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first phase reverses the order of the filters here: the largest ones must be removed."""
    parent, trainings = network(name), []
    names = [group.conv for group in channel_groups(parent)]

    def reversed_order(_: Context, model: nn.Module, ratio: float, **options: Any) -> None:
        trainings.append((ratio, options, copy.deepcopy(model)))
        if len(trainings) == 1:
            for layer in names:
                weight = filters(model, layer)
                weight.div_(weight.abs().mean((1, 2, 3), keepdim=True) ** 2)

    monkeypatch.setattr(Context, "fit", reversed_order)
    model = pruned(GReg2(), parent, Context(few, replace(RECIPE, epochs=12), seed=3))
    (_, first, before), (_, second, penalised), (_, last, _) = trainings
    assert (first["recipe"].epochs, second["recipe"].epochs, "recipe" in last) == (1, 11, False)
    removed = removed_filters(penalised, model)
    assert removed != removed_filters(before, model)
    assert weights_digest(model) == weights_digest(without(penalised, removed))
    all_filters = {f"{layer}.weight": torch.full((len(filters(parent, layer)),), 0.005) for layer in names}
    check_gradients(before, added_gradients(before, first["hooks"], 0.5), all_filters)
    for at, factor in ((0.0, 0.01), (5.0, 0.01 + 0.99 / 2), (10.5, 1.0)):
        factors = {
            f"{layer}.weight": on(len(filters(penalised, layer)), removed[layer], factor, -1e-4)
            for layer in names
        }
        check_gradients(penalised, added_gradients(penalised, second["hooks"], at), factors)


def test_the_gram_penalty_of_a_worked_example() -> None:
    """W W^T of [[1, 0], [1, 1]] is [[1, 1], [1, 2]]; without row and column 1 that leaves 1 + 1 + 4 of 4 entries."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    second, none = torch.tensor([False, True]), torch.tensor([False, False])
    assert correlation(model, {"0": second}).item() == 1.5
    assert correlation(model, {"0": none}).item() == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_tpp_decorrelates_picked_filters_from_all_others_and_penalises_them_with_their_norms(
    network: Network, context: Context, fits: Fits, name: str
) -> None:
    parent = network(name)
    model = pruned(TrainabilityPreserving(decorrelation=8.0), parent, context)
    removed = removed_filters(parent, model)
    fresh = copy.deepcopy(parent)
    groups = {group.conv: group for group in channel_groups(parent)}
    changes = added_gradients(fresh, fits[0]["hooks"], 5.0)  # the factor is 0.5
    expected: dict[str, Tensor] = {}
    for key, indices in removed.items():
        weight = fresh.get_submodule(key).get_parameter("weight").detach().flatten(1).requires_grad_()
        gram = weight @ weight.T
        target = gram.detach().clone()
        target[indices, :] = 0
        target[:, indices] = 0
        (slope,) = torch.autograd.grad(8.0 * 0.5 * functional.mse_loss(gram, target), weight)
        chosen = on(len(weight), indices, 0.5)
        total = slope + chosen[:, None] * weight.detach()
        expected[f"{key}.weight"] = total.view_as(filters(fresh, key))
        for part in ("weight", "bias"):
            norm = f"{groups[key].norms[0].name}.{part}"
            expected[norm] = chosen * dict(fresh.named_parameters())[norm].detach()
    for key, change in changes.items():
        torch.testing.assert_close(
            change, expected.get(key, torch.zeros_like(change)), rtol=1e-3, atol=1e-5, msg=key
        )
    assert abs(1 - count_nonzero(model) / count_nonzero(parent) - RATIO) < 0.03


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (GReg1, {"epochs": -1}, "found epochs = -1, max_penalty = 1, "),
        (GReg1, {"hold": 1.0}, "found epochs = 0, max_penalty = 1, hold = 1 and "),
        (GReg1, {"max_penalty": 0.0}, "found epochs = 0, max_penalty = 0, "),
        (TrainabilityPreserving, {"learning_rate": -0.1}, "found epochs = 0, .* learning_rate = -0.1, "),
        (TrainabilityPreserving, {"decorrelation": -1.0}, "tpp: found decorrelation = -1.0, "),
        (
            GReg1,
            {"magnitude_ratio_limit": 0.0},
            "greg-1: found magnitude_ratio_limit = 0, expected a number above 0",
        ),
        (
            GReg2,
            {"magnitude_ratio_limit": -1.0},
            "greg-2: found magnitude_ratio_limit = -1, expected a number above 0",
        ),
        (GReg2, {"pick_penalty": 1.0}, "greg-2: found pick_penalty = 1 and pick_share = 0.08"),
        (GReg2, {"pick_share": 0.0}, "greg-2: found pick_penalty = 0.01 and pick_share = 0,"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    kind: type[GrowingPenalty], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}"):
        kind(**settings)
