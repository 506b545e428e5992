"""Channels that convolutions share: found, proved, removed without a change of the outputs; or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import UserError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import load_weights
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import cost
from evalsuite.models.surgery.channel_removal import (
    ChannelGroup,
    ChannelSlice,
    channel_groups,
    remove_channels,
)
from evalsuite.models.surgery.coupled_channels import coupled_groups
from evalsuite.models.surgery.width_inference import resize_like

Build = Callable[..., nn.Module]

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("small-cnn", {}),
    *((f"resnet{depth}", {"shortcut": "B"}) for depth in (8, 20, 32, 44, 56, 110)),
    ("resnet2b", {}),
    ("resnet4b", {}),
    ("vgg16-bn", {}),
    ("vgg19-bn", {"bias": False}),
    ("wide-resnet", {"depth": 16, "width": 2}),
    ("densenet22", {}),
    ("bottleneck-resnet56", {}),
    ("bottleneck-resnet110", {}),
    ("resnext29", {}),
    ("densenet40", {}),
    ("densenet100", {}),
    ("lenet-5", {}),
    ("preresnet", {"depth": 20}),
    ("preresnet", {"depth": 29, "selection": False}),
    ("robustbench:Wong2020Fast", {}),
    ("timm:resnet10t", {}),
    ("torchvision.models:resnet18", {}),
    ("torchvision:resnet18", {}),
    ("torchvision:resnet50", {}),
    ("torchvision:densenet121", {}),
    ("torchvision:mobilenet_v2", {}),
    ("torchvision:mobilenet_v3_small", {}),
    ("torchvision:efficientnet_b0", {}),
    ("torchvision:googlenet", {}),
    ("torchvision:squeezenet1_1", {}),
    ("torchvision:regnet_y_400mf", {}),
]
"""With vgg11_bn, which is large, in a test of its own."""

SHIFTED: dict[str, tuple[str, dict[str, Any]]] = {
    f"resnet{depth}": (f"resnet{depth}", {"shortcut": "A"}) for depth in (8, 20, 32, 44, 56, 110)
}

KILLED = ("weight", "bias")


def some(group: ChannelGroup) -> Tensor:
    """The channels that stay: every third is dead, and the first."""
    dead = {0, *range(2, group.channels, 3)} if group.channels > 1 else set()
    return torch.tensor([one for one in range(group.channels) if one not in dead])


def kill(model: nn.Module, group: ChannelGroup, keep: Tensor) -> None:
    """Zeroes what makes each channel but `keep`: filters, biases, scales and shifts; entry by entry."""
    for channel in {*range(group.channels)} - {*keep.tolist()}:
        for part in (*group.filters, *group.norms):
            layer = model.get_submodule(part.name)
            first = part.start + channel * part.columns
            for name, parameter in layer.named_parameters(recurse=False):
                assert name in KILLED
                parameter.data[first : first + part.columns] = 0


def killed(model: nn.Module, groups: Sequence[ChannelGroup]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy in double precision whose weights keep the scale of what goes through, with some dead channels."""
    dead, random = copy.deepcopy(model).double(), torch.Generator().manual_seed(5)
    for layer in dead.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5, generator=random)
    keep = {group.conv: some(group) for group in groups}
    for group in groups:
        kill(dead, group, keep[group.conv])
    return dead, keep


def same_outputs(smaller: nn.Module, dead: nn.Module, side: int) -> bool:
    images = torch.rand(3, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        before, after = dead(images), smaller(images)
    spread = float((before - before.mean(0)).abs().max())
    return spread > 0 and float((after - before).abs().max()) <= 1e-9 * spread


def cut(dead: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> nn.Module:
    by_name = {group.conv: group for group in groups}
    return remove_channels(dead, {name: keep[name] for name in by_name}, by_name)


def alike(group: ChannelGroup) -> tuple[object, ...]:
    parts = (group.filters, group.norms, group.consumers)
    return (group.conv, group.channels, *(frozenset(one) for one in parts))


def side_of(name: str) -> int:
    return 64 if name.startswith("torchvision:") else 32


def weights_of(model: nn.Module) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(("name", "table"), NETWORKS, ids=str)
def test_removing_dead_channels_changes_no_output(build: Build, name: str, table: dict[str, Any]) -> None:
    model, side = build(name, **table), side_of(name)
    groups = coupled_groups(model, (3, side, side))
    dead, keep = killed(model, groups)
    smaller = cut(dead, groups, keep)
    assert same_outputs(smaller, dead, side)
    limit = {"torchvision:regnet_y_400mf": 0.75, "resnext29": 0.85}.get(
        name, 0.55
    )  # (2/3)^2 = .44; groups stay
    assert weights_of(smaller) < limit * weights_of(model)
    inside = {group.conv: group for group in channel_groups(model)}
    assert {alike(one) for one in inside.values()} <= {alike(one) for one in groups}  # both ways agree
    assert len(groups) > len(inside) or name in ("small-cnn", "vgg16-bn", "vgg19-bn", "lenet-5")


def test_no_architecture_is_left_out() -> None:
    named = [*NETWORKS, *SHIFTED.values()]
    # Not those that other tests register.
    ours = {entry.name for entry in MODELS.entries() if entry.defined.startswith("evalsuite.")}
    tested = {to_settings(architecture_from_uri(name, **table))["name"] for name, table in named}
    # A folder has networks of any kind; a network without convolutions has no channels.
    assert tested == ours - {"hf", "lenet-300-100"}


def test_removing_dead_channels_of_vgg11(build: Build) -> None:
    model = build("torchvision:vgg11_bn")
    head: Any = model.get_submodule("network.classifier")  # its 124 million weights are not needed
    head[0], head[3], head[6] = nn.Linear(25088, 16), nn.Linear(16, 16), nn.Linear(16, 10)
    groups = coupled_groups(model, (3, 64, 64))
    assert groups[-1].consumers == (ChannelSlice("network.classifier.0", 49),)
    dead, keep = killed(model, groups)
    assert same_outputs(cut(dead, groups, keep), dead, 64)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("resnet20", {"shortcut": "B"}),
        ("densenet22", {}),
        ("preresnet", {"depth": 20}),
        ("torchvision:mobilenet_v2", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("own_first", [True, False], ids=["own surgery first", "Torch-Pruning first"])
def test_both_ways_one_after_the_other_change_no_output(
    build: Build, name: str, table: dict[str, Any], own_first: bool
) -> None:
    model, side = build(name, **table), side_of(name)
    groups = coupled_groups(model, (3, side, side))
    inside = [group.conv for group in channel_groups(model)]

    def shared(network: nn.Module) -> list[ChannelGroup]:
        remaining = coupled_groups(network, (3, side, side))
        return [group for group in remaining if group.conv not in inside]

    dead, keep = killed(model, groups)
    ways = [channel_groups, shared] if own_first else [shared, channel_groups]
    smaller = dead
    for way in ways:
        remaining = way(smaller)
        assert remaining
        smaller = cut(smaller, remaining, keep)
    assert same_outputs(smaller, dead, side)
    at_once = cut(dead, groups, keep).state_dict()
    assert all(torch.equal(one, at_once[key]) for key, one in smaller.state_dict().items())


@pytest.mark.parametrize(("name", "table"), SHIFTED.values(), ids=SHIFTED)
def test_zero_padding_shortcuts_are_refused_and_single_convolutions_are_right(
    build: Build, name: str, table: dict[str, Any]
) -> None:
    model = build(name, **table)
    with pytest.raises(
        UserError,
        match=r"^channels that convolutions share cannot be removed here: when zeroed ones of 'conv1' are "
        r"removed as Torch-Pruning computes them, the outputs change \(.*\); remove the channels inside its blocks "
        r"alone \(scope = \"inside\"\)$",
    ):
        coupled_groups(model, (3, 32, 32))
    groups = channel_groups(model)
    dead, keep = killed(model, groups)
    assert same_outputs(cut(dead, groups, keep), dead, 32)
    assert len(groups) == (int(name[6:]) - 2) / 2


class Shifted(nn.Module):
    """Adds channels to their neighbours but one: every shape fits whatever goes, and every removal is wrong."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5)
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        moved = functional.pad(self.first(images), (0, 0, 0, 0, self.shift, -self.shift))
        logits: Tensor = self.linear((moved + self.second(images)).relu().mean((2, 3)))
        return logits


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_a_wrong_graph_with_fitting_shapes_is_detected(shift: int) -> None:
    assert [one.conv for one in coupled_groups(Shifted(0), (3, 8, 8))] == ["first"]
    with pytest.raises(UserError, match=r"zeroed ones of 'first' are removed as"):
        coupled_groups(Shifted(shift), (3, 8, 8))


def test_dead_weights_hide_no_mistake() -> None:
    """Of a network whose layers give nothing, every removal leaves the outputs alone."""
    model = Shifted(2)
    with torch.no_grad():
        for parameter in (*model.first.parameters(), *model.linear.parameters()):
            parameter.zero_()
    with pytest.raises(UserError, match=r"zeroed ones of 'first' are removed as"):
        coupled_groups(model, (3, 8, 8))


class Meeting(nn.Module):
    """A convolution whose channels meet something, and one behind it that none of it touches."""

    def __init__(self, change: Callable[[Tensor], Tensor], *, between: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.between = between or nn.Identity()
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.linear = nn.Linear(6, 4)
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        maps = self.second(self.change(self.between(self.first(images).relu()))).relu()
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.factor


def same(maps: Tensor) -> Tensor:
    return maps


LEFT_OUT: dict[str, nn.Module] = {
    "convolution of two groups": nn.Conv2d(8, 8, 3, padding=1, groups=2),
    "two outputs per channel": nn.Sequential(nn.Conv2d(8, 16, 1, groups=8), nn.Conv2d(16, 8, 1)),
    "group norm": nn.GroupNorm(2, 8),
    "slope per channel": nn.PReLU(8),
    "transposed convolution": nn.ConvTranspose2d(8, 8, 1),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_cannot_lose_single_entries_is_left_out(kind: str) -> None:
    assert [one.conv for one in coupled_groups(Meeting(same), (3, 8, 8))] == ["first", "second"]
    names = [one.conv for one in coupled_groups(Meeting(same, between=LEFT_OUT[kind]), (3, 8, 8))]
    assert names[-1] == "second"
    assert "first" not in names


def test_hooks_and_loose_parameters_leave_a_group_out() -> None:
    model = Meeting(same)
    model.first.register_forward_hook(lambda *_: None)
    assert [one.conv for one in coupled_groups(model, (3, 8, 8))] == ["second"]
    assert [one.conv for one in coupled_groups(Meeting(same, between=Scale()), (3, 8, 8))] == ["second"]
    masked = Meeting(same)
    torch.nn.utils.parametrizations.weight_norm(masked.second)
    assert "second" not in [one.conv for one in coupled_groups(masked, (3, 8, 8))]


def test_the_outputs_are_no_group() -> None:
    assert coupled_groups(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), (3, 8, 8)) == []
    last = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 8), nn.Flatten())
    assert [one.conv for one in coupled_groups(last, (3, 8, 8))] == ["0"]


def test_what_does_not_stay_zero_is_refused() -> None:
    with pytest.raises(UserError, match="zeroed ones of 'first' are removed as"):
        coupled_groups(Meeting(torch.sigmoid), (3, 8, 8))


def test_groups_of_a_residual_network(build: Build) -> None:
    groups = {group.conv: group for group in coupled_groups(build("resnet20", shortcut="B"), (3, 32, 32))}
    stream = groups["network.layer2.0.conv2"]
    blocks = ("0.conv2", "0.shortcut.0", "1.conv2", "2.conv2")
    assert {part.name for part in stream.filters} == {f"network.layer2.{one}" for one in blocks}
    assert {part.name for part in stream.norms} == {
        f"network.layer2.{one}" for one in ("0.bn2", "0.shortcut.1", "1.bn2", "2.bn2")
    }
    readers = ("layer2.1.conv1", "layer2.2.conv1", "layer3.0.conv1", "layer3.0.shortcut.0")
    assert {part.name for part in stream.consumers} == {f"network.{one}" for one in readers}
    assert [group.channels for group in groups.values() if len(group.filters) > 1] == [16, 32, 64]
    assert len(groups) == 9 + 3


def test_channels_behind_concatenations_keep_their_places(build: Build) -> None:
    groups = {group.conv: group for group in coupled_groups(build("densenet22"), (3, 32, 32))}
    second = groups["network.dense1.1.conv2"]
    assert second.channels == 12
    assert ChannelSlice("network.trans1.bn1", 1, 24 + 12) in second.norms
    assert ChannelSlice("network.trans1.conv1", 1, 24 + 12) in second.consumers
    assert ChannelSlice("network.dense1.2.conv1", 1, 24 + 12) in second.consumers


def test_depthwise_convolutions_and_squeeze_and_excitation_follow(build: Build) -> None:
    model = build("torchvision:efficientnet_b0")
    group = next(one for one in coupled_groups(model, (3, 64, 64)) if ".2.0.block.0.0" in one.conv)
    assert {part.name.partition("features.2.0.block.")[2] for part in group.filters} == {
        "0.0",
        "1.0",
        "2.fc2",
    }
    smaller = remove_channels(model, {group.conv: torch.arange(5)}, {group.conv: group})
    layer: Any = smaller.get_submodule("network.features.2.0.block.1.0")
    assert (layer.groups, layer.in_channels, layer.out_channels) == (5, 5, 5)


TABLE = {
    "resnet20": ({"shortcut": "B"}, 0.748, 0.745),
    "torchvision:resnet18": ({}, 0.749, 0.733),
    "torchvision:mobilenet_v2": ({}, 0.737, 0.710),
}
"""Shares of parameters and multiply-accumulates that Torch-Pruning 1.6.1's own pruner removes at channel ratio .5."""


@pytest.mark.parametrize("name", TABLE)
def test_half_of_all_channels_are_three_quarters_of_the_parameters(build: Build, name: str) -> None:
    (table, parameters, macs), side = TABLE[name], side_of(name)
    model = build(name, **table)
    groups = coupled_groups(model, (3, side, side))
    keep = {group.conv: torch.arange(group.channels // 2) for group in groups}
    smaller = remove_channels(model, keep, {group.conv: group for group in groups})
    before, after = (cost(one, (3, side, side)) for one in (model, smaller))
    assert before.macs is not None
    assert after.macs is not None
    assert 1 - after.parameters / before.parameters == pytest.approx(parameters, abs=6e-4)
    assert 1 - after.macs / before.macs == pytest.approx(macs, abs=0.02)  # it counts norms and poolings too


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("resnet20", {"shortcut": "B"}),
        ("densenet22", {}),
        ("preresnet", {"depth": 20}),
        ("torchvision:mobilenet_v2", {}),
        ("torchvision:efficientnet_b0", {}),
        ("torchvision:squeezenet1_1", {}),
        ("timm:resnet10t", {}),
    ],
    ids=str,
)
def test_what_was_cut_saves_and_loads_by_its_shapes(
    build: Build, tmp_path: Path, name: str, table: dict[str, Any]
) -> None:
    chosen, side = architecture_from_uri(name, **table), side_of(name)
    model = build(name, **table)
    groups = {group.conv: group for group in coupled_groups(model, (3, side, side))}
    smaller = remove_channels(model, {key: some(group) for key, group in groups.items()}, groups)
    images = torch.rand(2, 3, side, side)
    save_model(smaller, to_settings(chosen), tmp_path / "cut.safetensors")
    again = load_model(to_settings(chosen), tmp_path / "cut.safetensors")
    torch.save(unwrap_model(smaller).state_dict(), tmp_path / "cut.pt")
    read = load_candidate(tmp_path / "cut.pt", chosen, image_shape=(3, side, side))
    other = build(name, seed=1, **table)
    resize_like(other, smaller.state_dict())
    load_weights(other, smaller.state_dict())
    with torch.inference_mode():
        expected = smaller(images)
        assert all(torch.equal(one(images), expected) for one in (again, read, other))
    assert (
        str(unwrap_model(again)) == str(unwrap_model(read)) == str(unwrap_model(smaller))
    )  # in_channels, groups and the like, too


def test_the_model_is_untouched_and_stays_trainable(build: Build) -> None:
    model = build("resnet20", shortcut="B")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    groups = {group.conv: group for group in coupled_groups(model, (3, 32, 32))}
    smaller = remove_channels(model, {key: some(group) for key, group in groups.items()}, groups)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    smaller.train()(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("chosen", [True, False])
def test_a_selection_of_channels_is_cut_with_the_stream_unless_it_selects(build: Build, chosen: bool) -> None:
    model = build("preresnet", depth=20)
    if chosen:
        first = model.get_submodule("network.layer2.1")
        first.get_submodule("select").get_buffer("indexes")[::4] = 0
        conv: Any = first.get_submodule("conv1")
        conv.weight = nn.Parameter(
            conv.weight.detach()[:, first.get_submodule("select").get_buffer("indexes") > 0]
        )
        conv.in_channels = conv.weight.shape[1]
    names = {group.conv for group in coupled_groups(model, (3, 32, 32))}
    assert ("network.layer2.0.conv3" in names) == (not chosen)
    assert {"network.conv1", "network.layer1.0.conv3", "network.layer3.0.conv3"} <= names
