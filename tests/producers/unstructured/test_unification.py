"""Weight unification: blocks of one magnitude, kept through training, as many as a share of packed bytes takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import count_nonzero, weight_cost, weights_digest
from evalsuite.producers.base import Context
from evalsuite.producers.unstructured.base import prunable_weights
from evalsuite.producers.unstructured.unification import (
    Admm,
    UnifiedBlocks,
    Unify,
    moves_for_budget,
    search_falling,
)
from evalsuite.training import checkpoint
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
Fits = list[dict[str, Any]]
FAMILIES = ("small-cnn", "resnet20")


@pytest.fixture
def context(few: ImageSet, quick: Recipe) -> Context:
    return Context(few, quick, seed=3)


def rows_of(weight: Tensor, size: int) -> list[list[list[float]]]:
    """The blocks of each row, by slicing."""
    return [
        [row[start : start + size] for start in range(0, len(row), size)]
        for row in weight.detach().flatten(1).double().tolist()
    ]


def variance(block: list[float]) -> float:
    sizes = [abs(value) for value in block if value]
    mean = sum(sizes) / max(len(sizes), 1)
    return sum((size - mean) ** 2 for size in sizes) / max(len(sizes), 1)


WORKED = {
    "first": torch.tensor([[1.0, -3.0, 0.5, -0.5, 7.0], [2.0, 2.5, -1.0, 1.5, -0.25]]),
    "last": torch.tensor([[4.0, -8.0], [0.0, 6.0]]),
}
"""With blocks of two, variances: first (1, 0, 0), (0.0625, 0.0625, 0); last (4), (0); means: first (2, 0.5, 7),
(2.25, 1.25, 0.25); last (6), (6)."""


@pytest.mark.parametrize(
    ("count", "first", "last"),
    [
        pytest.param(0, WORKED["first"].tolist(), WORKED["last"].tolist(), id="nothing"),
        pytest.param(
            4, WORKED["first"].tolist(), WORKED["last"].tolist(), id="what is one magnitude already"
        ),
        pytest.param(
            5,
            [[1, -3, 0.5, -0.5, 7], [2.25, 2.25, -1, 1.5, -0.25]],
            WORKED["last"].tolist(),
            id="of two with one variance the earlier",
        ),
        pytest.param(
            8,
            [[2, -2, 0.5, -0.5, 7], [2.25, 2.25, -1.25, 1.25, -0.25]],
            [[6, -6], [0, 6]],
            id="all of one magnitude, and a zero stays one",
        ),
        pytest.param(
            10,
            [[2, -2, 0, 0, 7], [2.25, 2.25, -1.25, 1.25, 0]],
            [[6, -6], [0, 6]],
            id="the two of least magnitude are zero",
        ),
        pytest.param(14, [[0, 0, 0, 0, 7], [0, 0, 0, 0, 0]], [[6, -6], [0, 0]], id="one of each layer stays"),
    ],
)
def test_worked_example(count: int, first: list[list[float]], last: list[list[float]]) -> None:
    unified = UnifiedBlocks.of(WORKED, 2, count).nearest(WORKED)
    assert unified["first"].tolist() == first
    assert unified["last"].tolist() == last


def test_every_move_is_to_the_block_whose_magnitudes_differ_least(network: Network) -> None:
    """Against loops, with rows that no block divides; ties are no matter in a trained network."""
    weights = prunable_weights(network("small-cnn"))
    size, count = 7, 100
    ranked = sorted(
        (variance(block), name, i, j)
        for name, weight in weights.items()
        for i, row in enumerate(rows_of(weight, size))
        for j, block in enumerate(row)
    )
    shared = {(name, i, j) for _, name, i, j in ranked[:count]}
    unified = UnifiedBlocks.of(weights, size, count).nearest(weights)
    for name, weight in weights.items():
        for i, row in enumerate(rows_of(weight, size)):
            expected = []
            for j, block in enumerate(row):
                mean = sum(map(abs, block)) / len(block)
                is_shared = (name, i, j) in shared
                expected += [mean if value > 0 else -mean for value in block] if is_shared else block
            assert unified[name].flatten(1)[i].tolist() == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4), st.floats(-1, 1))
def test_no_point_of_one_magnitude_is_nearer(block: list[float], move: float) -> None:
    weights = {"layer": torch.tensor([block], dtype=torch.float64)}
    (unified,) = UnifiedBlocks.of(weights, 4, 1).nearest(weights).values()
    other = unified + move * unified.sign()
    assert (unified - weights["layer"]).square().sum() <= (other - weights["layer"]).square().sum() + 1e-12


def one_magnitude(model: nn.Module, size: int) -> int:
    """How many blocks of at least two weights have one magnitude, which is not zero."""
    count = 0
    for weight in prunable_weights(model).values():
        for row in rows_of(weight, size):
            count += sum(len(block) > 1 and len(set(map(abs, block))) == 1 and block[0] != 0 for block in row)
    return count


@pytest.mark.parametrize("name", FAMILIES)
def test_the_share_of_packed_bytes_is_reached_and_nothing_is_zero_before_all_is_unified(
    network: Network, context: Context, name: str
) -> None:
    parent = network(name)
    before = weights_digest(parent)
    parent_bytes = weight_cost(parent, "packed")
    models = [copy.deepcopy(one) for one in Unify().produce(parent, (0.3, 0.6, 0.95), context)]
    assert [1 - weight_cost(one, "packed") / parent_bytes for one in models] == pytest.approx(
        [0.3, 0.6, 0.95], abs=0.01
    )
    assert [count_nonzero(one) for one in models[:2]] == [count_nonzero(parent)] * 2
    assert count_nonzero(models[2]) < 0.5 * count_nonzero(parent)
    assert weights_digest(parent) == before
    shared = [one_magnitude(one, 8) for one in models]
    assert 0 < shared[0] < shared[1]
    assert all(weight.any() for weight in prunable_weights(models[2]).values())


def test_training_moves_the_magnitudes_and_keeps_them_shared(network: Network, context: Context) -> None:
    parent = network("small-cnn")
    (model,) = Unify(rho=0.0).produce(parent, (0.6,), context)
    count = moves_for_budget(parent, 8, *budget(parent, 0.6))
    projected = copy.deepcopy(parent)
    UnifiedBlocks.of(prunable_weights(parent), 8, count).project(projected)
    assert one_magnitude(model, 8) == one_magnitude(projected, 8) > 50
    changed = [
        not torch.equal(trained, untrained)
        for trained, untrained in zip(
            prunable_weights(model).values(), prunable_weights(projected).values(), strict=True
        )
    ]
    assert all(changed)


def budget(parent: nn.Module, ratio: float) -> tuple[int, int]:
    parent_bytes = weight_cost(parent, "packed")
    return parent_bytes - round(ratio * parent_bytes), round(0.0005 * parent_bytes)


def test_a_step_is_the_mean_gradient_of_the_magnitude() -> None:
    """By hand: two weights 2 and -2, gradients 1 and 3, rate 0.1: along (1, -1) the mean gradient is -1."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -2.0]]))
    blocks = UnifiedBlocks.of({"": layer.weight.detach()}, 2, 1)
    with torch.no_grad():
        layer.weight -= 0.1 * torch.tensor([[1.0, 3.0]])
    blocks.step(layer, 0.0, 1)
    assert layer.weight.tolist() == [[pytest.approx(2.1), pytest.approx(-2.1)]]


def test_a_magnitude_may_pass_through_zero() -> None:
    weights = {"layer": torch.tensor([[1.0, -1.0]])}
    blocks = UnifiedBlocks.of(weights, 2, 1)
    assert blocks.nearest({"layer": torch.tensor([[-0.5, 0.25]])})["layer"].tolist() == [[-0.375, 0.375]]


def test_the_multipliers_are_those_of_the_scaled_form() -> None:
    """By hand, one block: W = (1, 3) gives Z = (2, 2); then W moves to (2, 3)."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 3.0]]))
    admm = Admm(2, 1, 0.5)
    admm.start(layer)
    layer.weight.grad = torch.tensor([[10.0, 10.0]])
    admm.pull(layer, 0.0)
    assert layer.weight.grad.tolist() == [[10 + 0.5 * (1 - 2), 10 + 0.5 * (3 - 2)]]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 3.0]]))
    admm.update(layer, 1)
    assert {name: value.tolist() for name, value in admm.state.items()} == {
        "/target": [[2.5, 2.5]],
        "/dual": [[-0.5, 0.5]],
    }
    admm.update(layer, 2)  # W + U is now (1.5, 3.5)
    assert admm.state["/target"].tolist() == [[2.5, 2.5]]
    assert admm.state["/dual"].tolist() == [[-1.0, 1.0]]


def apart(model: nn.Module, count: int) -> float:
    """Squared distance of a model from its nearest unified one."""
    weights = prunable_weights(model)
    nearest = UnifiedBlocks.of(weights, 8, count).nearest(weights)
    return sum(float((weights[name] - nearest[name]).square().sum()) for name in weights)


def test_the_pull_brings_weights_to_where_they_will_be(
    network: Network, few: ImageSet, quick: Recipe
) -> None:
    parent = network("small-cnn")
    count = moves_for_budget(parent, 8, *budget(parent, 0.6))
    distances = {}
    for rho in (0.0, 0.1, 1.0):
        model = copy.deepcopy(parent)
        admm = Admm(8, count, rho)
        admm.start(model)
        hooks = Hooks(before_step=admm.pull, after_epoch=admm.update, state=admm.state)
        recipe = replace(quick, epochs=10, learning_rate=0.02)
        Context(few, recipe, seed=3).fit(model, 0.6, hooks=hooks)
        distances[rho] = apart(model, count)
    assert distances[1.0] < 0.5 * distances[0.1] < 0.5 * distances[0.0]


def test_no_strength_is_no_training(network: Network, context: Context, fits: Fits) -> None:
    for rho, phases in ((0.0, ["retraining"]), (0.1, ["pruning", "retraining"])):
        fits.clear()
        list(Unify(rho=rho).produce(network("small-cnn"), (0.5,), context))
        assert [fit["hooks"].phase for fit in fits] == phases
        assert set(fits[0]["hooks"].state) >= (
            {"network.linear/target", "network.linear/dual"} if rho else set()
        )


def test_a_killed_pull_goes_on_to_the_same_weights(
    network: Network, few: ImageSet, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Z and U are saved with the progress of the training."""
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    recipe = replace(quick, epochs=3, ema=0.5)

    def digest(folder: Path) -> str:
        context = Context(few, recipe, seed=3, progress=TrainingCheckpoint(folder, "d"))
        (model,) = Unify(rho=1.0).produce(network("small-cnn"), (0.6,), context)
        assert one_magnitude(model, 8) > 50  # the average of the weights is unified as well
        return weights_digest(model)

    update = Admm.update

    def killed(self: Admm, model: nn.Module, epochs: int) -> None:
        if epochs == 3:
            raise KeyboardInterrupt
        update(self, model, epochs)

    with monkeypatch.context() as patched:
        patched.setattr(Admm, "update", killed)
        with pytest.raises(KeyboardInterrupt):
            digest(tmp_path / "killed")
    assert list((tmp_path / "killed").iterdir())
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


@given(st.lists(st.integers(1, 50), min_size=2, max_size=60), st.floats(0, 1), st.integers(1, 20))
def test_the_result_of_the_search_is_allowed_and_near(falls: list[int], share: float, slack: int) -> None:
    sizes = [sum(falls[place:]) for place in range(len(falls) + 1)]
    allowed = round(share * sizes[0])
    evaluated: list[int] = []

    def size(place: int) -> int:
        evaluated.append(place)
        return sizes[place]

    result = search_falling(size, (0, len(falls)), allowed, slack)
    assert sizes[result] <= allowed
    near = sizes[result] >= allowed - slack
    assert near or result == 0 or sizes[result - 1] > allowed
    assert len(evaluated) <= 2 + 2 * 7  # every other evaluation halves the interval


def test_a_ratio_that_signs_alone_exceed_is_refused(network: Network, context: Context) -> None:
    with pytest.raises(
        UserError, match=r"too high a ratio: of \d+ packed bytes that may stay, \d+ are taken when"
    ):
        list(Unify().produce(network("small-cnn"), (0.999,), context))


@pytest.mark.parametrize(
    "wrong", [{"block_size": 1}, {"rho": -1.0}, {"rho": float("nan")}, {"rho": float("inf")}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SuiteError, match="unify: found block_size = "):
        Unify(**wrong)
