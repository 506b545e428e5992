from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError
from evalsuite.models.surgery.channel_removal import channel_groups
from evalsuite.producers.base import Context
from evalsuite.producers.structured.reconstruction import (
    ChannelRegression,
    ThiNet,
    greedy_removal,
    lasso_order,
)

Network = Callable[..., nn.Module]
EVERYTHING = {"images": 6, "positions": 10_000}


def contributions(parent: nn.Module, reader: str, images: Tensor) -> Tensor:
    """The contribution of each channel to the outputs of a layer, a forward pass each: (channels, outputs)."""
    layer, inputs_seen = parent.get_submodule(reader), list[Tensor]()
    handle = layer.register_forward_hook(lambda _, inputs, __: inputs_seen.append(inputs[0]))
    with torch.no_grad():
        parent(images)
    handle.remove()
    weight = layer.get_parameter("weight").detach().double()
    parts = []
    for channel in range(inputs_seen[0].shape[1]):
        alone = torch.zeros_like(inputs_seen[0]).double()
        alone[:, channel] = inputs_seen[0][:, channel].double()
        if isinstance(layer, nn.Conv2d):
            out = functional.conv2d(alone, weight, stride=layer.stride, padding=layer.padding)
        else:
            out = alone @ weight.T
        parts.append(out.flatten())
    return torch.stack(parts)


def slow_greedy(parts: Tensor) -> list[int]:
    """Algorithm 1 of ThiNet, with the sums written out."""
    removed: list[int] = []
    while len(removed) < len(parts):
        rest = [channel for channel in range(len(parts)) if channel not in removed]
        sums = {channel: float(parts[[*removed, channel]].sum(0).square().sum()) for channel in rest}
        removed.append(min(rest, key=lambda channel: sums[channel]))
    return removed


def test_greedy_removal_by_hand() -> None:
    """The first and the last cancel each other: alone they count 9 and 8.41, together .01, and the small one 1."""
    parts = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.9, 0.0]])
    assert greedy_removal(parts @ parts.T) == slow_greedy(parts) == [1, 2, 0]
    assert greedy_removal(torch.diag(torch.tensor([4.0, 1.0, 9.0]))) == [1, 0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_removal_equals_the_algorithm(seed: int) -> None:
    parts = torch.randn(9, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert greedy_removal(parts @ parts.T) == slow_greedy(parts)


@pytest.mark.parametrize(("name", "ratio"), [("small-cnn", 0.5), ("resnet2b", 0.03)])
def test_thinet_keeps_and_rescales_as_in_the_paper(
    network: Network,
    small_context: Context,
    kept_channels: list[Mapping[str, Tensor]],
    name: str,
    ratio: float,
) -> None:
    parent = network(name, **({"widths": (6, 8, 8, 8)} if name == "small-cnn" else {}))
    (model,) = ThiNet(**EVERYTHING).produce(parent, (ratio,), small_context)
    images, _ = small_context.batch(6, "channels")
    for group in channel_groups(parent):
        channels = kept_channels[0][group.conv]
        each = {one.name: contributions(parent, one.name, images) for one in group.consumers}
        order = slow_greedy(torch.cat([*each.values()], dim=1))
        assert channels.tolist() == sorted(order[len(order) - len(channels) :])
        assert 0 < len(channels) < group.channels
        for reader, parts in each.items():
            factors = torch.linalg.lstsq(parts[channels].T, parts.sum(0)[:, None]).solution[:, 0]
            old = parent.get_parameter(f"{reader}.weight").detach()[:, channels]
            expected = old * factors.view(1, -1, *[1] * (old.dim() - 2)).float()
            expected = expected[kept_channels[0][reader]] if reader in kept_channels[0] else expected
            weight = model.get_parameter(f"{reader}.weight").detach()
            torch.testing.assert_close(weight, expected, rtol=2e-3, atol=2e-4)
            assert float((factors - 1).abs().max()) > 0.01


def test_regression_weights_are_those_of_least_squares(
    network: Network, small_context: Context, kept_channels: list[Mapping[str, Tensor]]
) -> None:
    parent = network("small-cnn", widths=(3, 4, 4, 6))
    parent = copy.deepcopy(parent).requires_grad_(False)
    (model,) = ChannelRegression(**EVERYTHING).produce(parent, (0.5,), small_context)
    images, _ = small_context.batch(6, "channels")
    for group in channel_groups(parent):
        channels, reader = kept_channels[0][group.conv], group.consumers[0].name
        layer, recorded = parent.get_submodule(reader), list[Tensor]()
        handle = layer.register_forward_hook(lambda _, args, __, into=recorded: into.append(args[0].double()))
        with torch.no_grad():
            parent(images)
        handle.remove()
        columns, target = (
            recorded[0],
            recorded[0] @ layer.get_parameter("weight").double().T if recorded[0].dim() == 2 else None,
        )
        if isinstance(layer, nn.Conv2d):
            target = functional.conv2d(recorded[0], layer.weight.double(), None, layer.stride, layer.padding)
            target = target.flatten(2).transpose(1, 2).flatten(0, 1)
            columns = functional.unfold(
                recorded[0][:, channels],
                layer.kernel_size,
                padding=int(layer.padding[0]),
                stride=layer.stride,
            )
            columns = columns.transpose(1, 2).flatten(0, 1)
        else:
            columns = columns[:, channels]
        assert target is not None
        best = torch.linalg.lstsq(columns, target, driver="gelsd").solution
        rows = kept_channels[0].get(reader, torch.arange(target.shape[1]))
        weight = model.get_parameter(f"{reader}.weight").detach().double().flatten(1)
        least_error = float((columns @ best - target)[:, rows].square().sum())
        error = float((columns @ weight.T - target[:, rows]).square().sum())
        unfitted = layer.get_parameter("weight").detach().double()[rows][:, channels].flatten(1)
        removed_only = float((columns @ unfitted.T - target[:, rows]).square().sum())
        assert error == pytest.approx(least_error, rel=1e-3, abs=1e-6 * float(target.square().sum()))
        assert error < 0.98 * removed_only


@pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")
@pytest.mark.parametrize("seed", range(4))
def test_the_lasso_order_is_that_of_coordinate_descent(seed: int) -> None:
    """Against coordinate descent at one penalty after the other."""
    draws = np.random.default_rng(seed)
    parts = draws.normal(size=(6, 200)) * np.array([5, 3, 2, 1, 0.5, 0.25])[:, None]
    order = lasso_order(torch.from_numpy(parts @ parts.T))
    inside = [
        Lasso(alpha=alpha, fit_intercept=False, tol=1e-10, max_iter=20_000).fit(parts.T, parts.sum(0)).coef_
        != 0
        for alpha in np.logspace(2, -4, 400)
    ]
    last_out = [max([-1, *np.flatnonzero(~row)]) for row in np.array(inside).T]
    assert order == sorted(range(6), key=lambda channel: last_out[channel])


def test_the_lasso_by_hand() -> None:
    """Orthogonal channels enter by their size; of two copies one is enough, and a channel of zeros is last."""
    assert lasso_order(torch.diag(torch.tensor([4.0, 1.0, 9.0]).double())) == [2, 0, 1]
    parts = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 0.0]]).double()
    order = lasso_order(parts @ parts.T)
    assert sorted(order) == [0, 1, 2, 3]
    assert order[0] in (1, 3)
    assert order.index(0) > order.index(2)


@pytest.mark.usefixtures("pruned_only")
def test_half_of_the_channels_is_enough_if_the_others_are_copies(
    network: Network, small_context: Context
) -> None:
    twin = copy.deepcopy(network("small-cnn", widths=(4, 4, 4, 8)))
    with torch.no_grad():
        for group in channel_groups(twin):
            for name in (group.conv, *(norm.name for norm in group.norms)):
                for tensor in twin.get_submodule(name).state_dict(keep_vars=True).values():
                    if tensor.dim():
                        tensor[1::2] = tensor[::2].clone()
            weight = twin.get_parameter(f"{group.consumers[0].name}.weight")
            weight[:, 1::2] = weight[:, ::2].clone()
    size = 48 * 2 + 9 * (4 + 4 + 8) + 2 * 10 + 50
    total = sum(p.numel() for p in twin.parameters())
    (model,) = ChannelRegression(**EVERYTHING).produce(twin, (1 - size / total,), small_context)
    assert sum(p.numel() for p in model.parameters()) == size
    images, _ = small_context.batch(6, "channels")
    with torch.inference_mode():
        before, after = twin(images), model(images)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def test_positions_are_drawn_by_the_seed(
    network: Network, small_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = network("small-cnn"), small_context.batch(4)
    monkeypatch.setattr(Context, "batch", lambda *_: batch)
    groups = {group.conv: group for group in channel_groups(model)}

    def second(seed: int, positions: int) -> Tensor:
        producer = ThiNet(images=4, positions=positions)
        moments = producer._moments(model, groups, replace(small_context, seed=seed))
        return moments["network.layer1.conv"].second_moments

    assert torch.equal(second(1, 3), second(1, 3))
    assert not torch.equal(second(1, 3), second(2, 3))
    assert float(second(1, 3).trace()) < float(second(1, 64).trace())


def test_bad_settings() -> None:
    with pytest.raises(
        SuiteError, match=r"^found images = 128 and positions = 0, expected 1 or more of each$"
    ):
        ThiNet(positions=0)
