from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.models.surgery.channel_removal import channel_groups
from evalsuite.producers.base import Context
from evalsuite.producers.structured.base import removable_groups
from evalsuite.producers.structured.layer_inputs import LayerInputs
from evalsuite.producers.structured.pfp import (
    ChannelSensitivity,
    ProvableFilterPruning,
    channel_sensitivities,
    channel_shares,
    expected_widths,
    widths_by_error,
)

Network = Callable[..., nn.Module]


def slow_shares(layer: nn.Module, maps: Tensor) -> list[float]:
    """Definition 1, product by product: sensitivity of each channel that `layer` reads."""
    if isinstance(layer, nn.Linear):
        weight = layer.weight.detach().double().reshape(layer.out_features, maps.shape[1], -1).numpy()
        patches = [image.double().reshape(maps.shape[1], -1).numpy() for image in maps]
    else:
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight.detach().double().flatten(2).numpy()
        (high, wide), (step, _) = layer.kernel_size, layer.stride
        pad = int(layer.padding[0])
        padded = np.pad(maps.double().numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        patches = [
            image[:, y : y + high, x : x + wide].reshape(maps.shape[1], -1)
            for image in padded
            for y in range(0, padded.shape[2] - high + 1, step)
            for x in range(0, padded.shape[3] - wide + 1, step)
        ]
    best = [0.0] * maps.shape[1]
    for patch in patches:
        for row in weight:
            products = row * patch
            for sign_w in (1, -1):
                for sign_a in (1, -1):
                    part = np.where((sign_w * row > 0) & (sign_a * patch > 0), np.abs(products), 0.0)
                    if (total := part.sum()) > 0:
                        best = [
                            max(old, float(new.max() / total)) for old, new in zip(best, part, strict=True)
                        ]
    return best


def slow_width(sensitivity: ChannelSensitivity, error: float) -> int:
    """Theorem 2, as torchprune computes it."""
    values: list[float] = sensitivity.channels.tolist()
    constant = 6 * sum(values) * math.log(8 * (sensitivity.patches + 1) * sensitivity.kernel / 1e-16)
    draws = math.ceil(3 * (6 + 2 * error) * constant / error**2)
    return max(1, round(sum(1 - (1 - value / sum(values)) ** draws for value in values)))


def tiny() -> nn.Module:
    """Inputs of both signs reach a strided, a padded and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 2, stride=2, bias=False),
        nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1), nn.Flatten(), nn.Linear(12, 3),
    ).eval()  # fmt: skip


def test_sensitivities_equal_the_definition() -> None:
    model, images = tiny(), torch.rand(5, 2, 4, 4)
    sensitivities = channel_sensitivities(model, removable_groups(model), images)
    maps = images
    readers = {2: "0", 4: "2", 6: "4"}
    for place, layer in enumerate(model.children()):
        if place in readers:
            inputs = maps.view(5, 3, 4) if place == 6 else maps
            slow = slow_shares(layer, inputs)
            sensitivity = sensitivities[readers[place]]
            np.testing.assert_allclose(sensitivity.channels.numpy(), slow, rtol=2e-5)
            assert (sensitivity.patches, sensitivity.kernel) == {2: (4, 4), 4: (4, 9), 6: (1, 4)}[place]
        maps = layer(maps).detach()
    assert len(sensitivities) == 3


def test_sums_of_almost_zero_have_no_shares() -> None:
    """As torchprune: a sum that is no larger than the rounding of float32 counts as zero, and zero has no shares."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0]])
    maps = torch.tensor([[3.0, 1.0], [0.0, 1e-7]])
    assert channel_shares(LayerInputs(layer, 1, maps)).tolist() == [0.75, 0.25]
    assert channel_shares(LayerInputs(layer, 1, 2 * maps)).tolist() == [0.75, 1.0]


class Fork(nn.Module):
    """Two layers read the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 1)
        self.left = nn.Conv2d(6, 2, 3, stride=2, padding=1)
        self.right = nn.Conv2d(6, 2, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images).relu()
        logits: Tensor = (self.left(maps) + self.right(maps)).mean((2, 3))
        return logits


def test_of_several_readers_the_most_sensitive_one_counts() -> None:
    torch.manual_seed(3)
    model, images = Fork(), torch.rand(3, 2, 4, 4)
    with torch.no_grad():
        for parameter in model.first.parameters():
            parameter.abs_()  # no channel is ever zero
        model.left.weight[:, :3] *= 0.01  # each reader cares about other channels
        model.right.weight[:, 3:] *= 0.01
        maps = model.first(images).relu()
    sensitivities = channel_sensitivities(model, removable_groups(model), images)
    left, right = slow_shares(model.left, maps), slow_shares(model.right, maps)
    assert [*sensitivities] == ["first"]
    np.testing.assert_allclose(sensitivities["first"].channels.numpy(), np.maximum(left, right), rtol=2e-5)
    assert any(parameter > other + 0.01 for parameter, other in zip(left, right, strict=True))
    assert any(other > parameter + 0.01 for parameter, other in zip(left, right, strict=True))
    assert (sensitivities["first"].patches, sensitivities["first"].kernel) == (4, 9)


def test_channel_shares_by_hand() -> None:
    """Weights 1, 3, -2 on inputs 1: of 4 in the positive ones 1 and 3; the negative one is alone with its sign."""
    linear = nn.Linear(3, 1)
    linear.weight.data = torch.tensor([[1.0, 3.0, -2.0]])
    assert channel_shares(LayerInputs(linear, 1, torch.ones(1, 3))).tolist() == [0.25, 0.75, 1.0]
    mixed = torch.tensor([[1.0, -1.0, 0.0]])  # each is alone with its sign
    assert channel_shares(LayerInputs(linear, 1, mixed)).tolist() == [1.0, 1.0, 0.0]


def test_widths_equal_the_theorem() -> None:
    draws = torch.Generator().manual_seed(1)
    errors = torch.logspace(-3, 7, 150, dtype=torch.float64)
    for count in (1, 7, 64):
        channels = torch.rand(count, generator=draws, dtype=torch.float64) ** 4
        sensitivity = ChannelSensitivity(channels, patches=81, kernel=9)
        widths = expected_widths(sensitivity, errors).tolist()
        assert widths == [slow_width(sensitivity, error) for error in errors.tolist()]
        assert count == 1 or len({*widths}) > 5


def test_a_layer_without_sensitivity_keeps_one_channel() -> None:
    dead = ChannelSensitivity(torch.zeros(5, dtype=torch.float64), patches=4, kernel=9)
    assert expected_widths(dead, torch.tensor([1e-6, 1.0])).tolist() == [1, 1]


def test_one_error_sets_the_widths_of_all_layers() -> None:
    draws = torch.Generator().manual_seed(2)
    sensitivities = {
        name: ChannelSensitivity(torch.rand(width, generator=draws).double() ** power, 16, 9)
        for name, width, power in (("a", 12, 1), ("b", 30, 6))
    }
    choices = [tuple(widths.values()) for widths in widths_by_error(sensitivities)]
    assert choices[0] == (1, 1)
    assert choices[-1] == (12, 30)
    assert all(low[0] <= high[0] and low[1] <= high[1] for low, high in pairwise(choices))
    for error in (0.5, 50.0, 5e3, 1e5):
        assert tuple(slow_width(one, error) for one in sensitivities.values()) in choices


@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_the_least_sensitive_channels_are_removed_and_one_error_explains_all_widths(
    network: Network, small_context: Context, kept_channels: list[Mapping[str, Tensor]], ratio: float
) -> None:
    parent = network("small-cnn", widths=(6, 8, 8, 8))
    (model,) = ProvableFilterPruning(images=4).produce(parent, (ratio,), small_context)
    total = sum(p.numel() for p in parent.parameters())
    assert 1 - sum(p.numel() for p in model.parameters()) / total == pytest.approx(ratio, abs=0.05)
    images, _ = small_context.batch(4, "pfp")
    slow: dict[str, ChannelSensitivity] = {}
    for group in channel_groups(parent):
        reader, recorded = parent.get_submodule(group.consumers[0].name), list[Tensor]()
        handle = reader.register_forward_hook(lambda _, args, __, into=recorded: into.append(args[0]))
        with torch.no_grad():
            parent(images)
        handle.remove()
        maps = recorded[0]
        patches = 1 if isinstance(reader, nn.Linear) else int(reader(maps)[0, 0].numel())
        kernel = int(reader.get_parameter("weight")[0, 0].numel())
        channels = torch.tensor(slow_shares(reader, maps if maps.dim() == 4 else maps[:, :, None]))
        slow[group.conv] = ChannelSensitivity(channels.double(), patches, kernel)
    for name, sensitivity in slow.items():
        best = sensitivity.channels.argsort(descending=True, stable=True)[: len(kept_channels[0][name])]
        assert kept_channels[0][name].tolist() == sorted(best.tolist())
    widths = {name: len(channels) for name, channels in kept_channels[0].items()}
    low, high = -6.0, 12.0
    for _ in range(60):  # the error at which as many channels stay
        middle = (low + high) / 2
        explained = {name: slow_width(sensitivity, 10**middle) for name, sensitivity in slow.items()}
        if sum(explained.values()) == sum(widths.values()):
            break
        low, high = (middle, high) if sum(explained.values()) > sum(widths.values()) else (low, middle)
    assert explained == widths


def test_a_channel_that_is_always_zero_is_removed_first(
    small_context: Context, small_parent: nn.Module
) -> None:
    parent = copy.deepcopy(small_parent)
    group = channel_groups(parent)[2]
    with torch.no_grad():
        for key in ("weight", "bias"):
            parent.get_parameter(f"{group.norms[0].name}.{key}")[3] = 0
    sensitivities = channel_sensitivities(parent, removable_groups(parent), small_context.batch(8, "pfp")[0])[
        group.conv
    ].channels
    assert int(sensitivities.argmin()) == 3
    assert float(sensitivities[3]) == 0


def test_bad_settings() -> None:
    with pytest.raises(SuiteError, match=r"^pfp: found images = 0, expected 1 or more$"):
        ProvableFilterPruning(images=0)
