from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.errors import SkippedError, SuiteError, UserError
from evalsuite.models.cost import cost, count_nonzero, count_parameters, weights_digest
from evalsuite.models.surgery.width_scaling import scalable_widths
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.thin import Thin
from evalsuite.training.history import history

Network = Callable[..., nn.Module]
SHAPE = (3, 32, 32)


def thinned(producer: Thin, parent: nn.Module, ratio: float, context: Context) -> nn.Module:
    (model,) = producer.produce(parent, (ratio,), context)
    return model


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize(
    ("name", "widths", "size"),
    [
        # 48 * 12 + 9 (12 * 24 + 24 * 32 + 32 * 32) + 2 * 100 + 33 * 10
        ("small-cnn", (12, 24, 32, 32), 576 + 18_720 + 200 + 330),
        # 27 * 8 + 9 (6 * 8 * 8 + 8 * 16 + 5 * 16 * 16 + 16 * 32 + 5 * 32 * 32) + 2 (7 * 8 + 6 * 16 + 6 * 32) + 330
        ("resnet20", (8,) * 7 + (16,) * 6 + (32,) * 6, 216 + 66_816 + 688 + 330),
    ],
    ids=["small-cnn", "resnet20"],
)
def test_half_the_width_by_hand(
    network: Network, small_context: Context, name: str, widths: tuple[int, ...], size: int
) -> None:
    parent = network(name)
    before = weights_digest(parent)
    model = thinned(Thin(), parent, 1 - size / count_nonzero(parent), small_context)
    assert count_parameters(model) == size
    assert tuple(scalable_widths(model, SHAPE).values()) == widths
    assert model(torch.rand(2, *SHAPE)).shape == (2, 10)
    assert weights_digest(parent) == before


@pytest.mark.usefixtures("fits")
def test_no_other_share_comes_nearer(network: Network, small_context: Context) -> None:
    parent, total = network("small-cnn"), count_nonzero(network("small-cnn"))
    full = (24, 48, 64, 64)
    sizes = set()
    for thousandth in range(1001):
        a, b, c, d = (max(1, int(thousandth * width / 1000 + 0.5)) for width in full)
        sizes.add(48 * a + 9 * (a * b + b * c + c * d) + 2 * (a + b + c + d) + 10 * d + 10)
    for ratio in (0.1, 0.37, 0.62, 0.85, 0.97):
        model = thinned(Thin(), parent, ratio, small_context)
        miss = abs(count_parameters(model) - (1 - ratio) * total)
        assert miss == pytest.approx(min(abs(size - (1 - ratio) * total) for size in sizes))


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("of", ["magnitude", {"name": "filter-l1", "schedule": "one-shot"}], ids=str)
def test_it_has_the_multiply_accumulates_of_the_other_methods_model(
    network: Network, small_context: Context, of: str | dict[str, Any]
) -> None:
    parent = network("resnet20")
    producer = Thin(of=of, match="macs")
    other = copy.deepcopy(next(iter(producer.inner.produce(parent, (0.6,), small_context))))
    expected = cost(other, SHAPE).macs_nonzero
    assert expected is not None
    macs = cost(thinned(producer, parent, 0.6, small_context), SHAPE).macs
    assert macs == pytest.approx(expected, rel=0.03)
    parameters = count_parameters(thinned(Thin(of=of), parent, 0.6, small_context))
    assert parameters == pytest.approx(count_nonzero(other), rel=0.03)
    assert (
        abs(parameters - count_parameters(thinned(producer, parent, 0.6, small_context))) > 0.03 * parameters
    )


@pytest.mark.usefixtures("fits")
def test_weights_are_drawn_for_the_width_they_have(network: Network, small_context: Context) -> None:
    parent = network("resnet20")
    model, again = (thinned(Thin(), parent, 0.7, small_context) for _ in range(2))
    other = thinned(Thin(), parent, 0.7, replace(small_context, seed=4))
    assert weights_digest(model) == weights_digest(again) != weights_digest(other)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 400:
            count, inputs = layer.weight.numel(), layer.weight[0].numel()
            variance = float(layer.weight.detach().double().square().mean())
            assert abs(variance * inputs / 2 - 1) < 5 * (2 / count) ** 0.5
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all())


def test_it_is_trained_as_the_parent_was_and_from_nothing(
    small_context: Context, small_parent: nn.Module
) -> None:
    assert small_context.origin is not None
    longer = replace(small_context.origin, recipe=replace(small_context.recipe, epochs=2))
    context = replace(small_context, origin=longer, initial_history=history(small_parent) or ())
    model = thinned(Thin(of="magnitude", match="macs"), small_parent, 0.5, context)
    assert [(phase.what, phase.epochs) for phase in history(model) or ()] == [("retraining", 2)]
    steps = next(one for name, one in model.named_buffers() if name.endswith("num_batches_tracked"))
    assert int(steps) == 6


@pytest.mark.usefixtures("fits")
def test_what_is_refused(network: Network, small_context: Context) -> None:
    with pytest.raises(
        UserError, match=r"^too high a prune ratio: a thin network may have the size \d+, but "
    ):
        thinned(Thin(), network("small-cnn"), 0.9999, small_context)
    with pytest.raises(SuiteError, match=r"^thin: found match = 'macs' without of, expected the name"):
        Thin(match="macs")
    with pytest.raises(SuiteError, match="a control of 'scratch-e'"):
        Thin(of="scratch-e")
    grouped = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(7200, 10))
    with pytest.raises(SkippedError, match=r"^layer 1 is a GroupNorm"):
        thinned(Thin(), grouped, 0.5, small_context)
