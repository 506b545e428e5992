from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from evalsuite.errors import CheckpointError, ContractError, InvalidModelError
from evalsuite.models import MODELS
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.reading import load_weights
from evalsuite.models.surgery.channel_removal import (
    ChannelGroup,
    ChannelSlice,
    channel_groups,
    remove_channels,
)
from evalsuite.models.surgery.width_inference import resize_like

Build = Callable[..., nn.Module]

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("small-cnn", {}),
    *((f"resnet{depth}", {"shortcut": kind}) for depth in (8, 20, 32, 44, 56, 110) for kind in "AB"),
    ("resnet2b", {}),
    ("resnet4b", {}),
    ("vgg16-bn", {}),
    ("vgg19-bn", {"bias": False}),
    ("wide-resnet", {"depth": 16, "width": 2}),
    ("densenet22", {}),
    ("bottleneck-resnet56", {}),
    ("bottleneck-resnet110", {}),
    ("densenet100", {}),
    ("lenet-5", {}),
    ("preresnet", {"depth": 20}),
    ("preresnet", {"depth": 29, "selection": False}),
    ("torchvision:resnet18", {}),
    ("timm:resnet10t", {}),
    ("robustbench:Wong2020Fast", {}),
    ("torchvision.models:resnet18", {}),
]


class Plain(nn.Module):
    """Convolutions and a classifier written the ways that other people write them."""

    def __init__(self, head: Callable[[Tensor], Tensor], *, inputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.linear = nn.Linear(inputs, 4)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.first(x)), 2)
        logits: Tensor = self.linear(self.head(functional.relu_(self.norm(self.second(x)))))
        return logits


HEADS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "torch.flatten": (lambda x: torch.flatten(x, 1), 6 * 16),
    "flatten(start_dim=1)": (lambda x: x.flatten(start_dim=1), 6 * 16),
    "view(size(0))": (lambda x: x.view(x.size(0), -1), 6 * 16),
    "reshape(shape[0])": (lambda x: x.reshape(x.shape[0], -1), 6 * 16),
    "reshape(tuple)": (lambda x: x.reshape((x.shape[0], -1)), 6 * 16),
    "mean": (lambda x: x.mean((2, 3)), 6),
    "mean(-1, -2)": (lambda x: torch.mean(x, dim=[-1, -2]), 6),
    "mean(keepdim)": (lambda x: x.mean((2, 3), keepdim=True).flatten(1), 6),
    "avg_pool2d(size()[3])": (lambda x: functional.avg_pool2d(x, x.size()[3]).view(x.size(0), -1), 6),
    "adaptive": (lambda x: functional.adaptive_max_pool2d(x, 2).flatten(1), 6 * 4),
}

UNKNOWN: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "sigmoid makes a zero channel one half": (lambda x: torch.sigmoid(x).flatten(1), 6 * 16),
    "add": (lambda x: (x + 1).flatten(1), 6 * 16),
    "twice": (lambda x: torch.cat([x, x], 1).flatten(1), 12 * 16),
    "fixed number of features": (lambda x: x.view(-1, 6 * 16), 6 * 16),
    "number of channels is read": (lambda x: x.reshape(x.shape[0], x.shape[1] * 16), 6 * 16),
    "softmax over channels": (lambda x: functional.softmax(x, 1).flatten(1), 6 * 16),
    "mean over channels": (lambda x: x.mean(1).flatten(1), 16),
    "mean over channels and rows": (lambda x: x.mean((1, 2)), 6),
    "slope from elsewhere": (lambda x: functional.leaky_relu(x, torch.tensor(0.1)).flatten(1), 6 * 16),  # type: ignore[arg-type]  # the point
    "linear on columns": (lambda x: x, 4),
    "flatten of everything but rows": (lambda x: x.flatten(0, 1).flatten(1), 16),
}


def halved(group: ChannelGroup) -> Tensor:
    return torch.arange(1, group.channels, 2)


def kill(model: nn.Module, group: ChannelGroup, keep: Tensor) -> None:
    """Makes every channel but `keep` exactly zero, behind the group's convolution and behind its norms."""
    dead = torch.ones(group.channels, dtype=torch.bool)
    dead[keep] = False
    with torch.no_grad():
        for part in (*group.filters, *group.norms):
            for parameter in model.get_submodule(part.name).parameters():
                parameter[dead] = 0


@pytest.mark.parametrize(("name", "table"), NETWORKS, ids=lambda value: str(value))
def test_cutting_dead_channels_changes_no_output(build: Build, name: str, table: dict[str, Any]) -> None:
    model = build(name, **table)
    keep = {group.conv: halved(group) for group in channel_groups(model)}
    for group in channel_groups(model):
        kill(model, group, keep[group.conv])
    smaller = remove_channels(model, keep)
    side = 8 if name.endswith(("0", "2", "4", "6")) else 32
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        before, after = model(images), smaller(images)
    assert before.std() > 1e-3
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    convs = [
        sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d)) for net in (smaller, model)
    ]
    assert convs[0] < 0.6 * convs[1]


def test_no_architecture_is_left_out() -> None:
    # Not those that other tests register.
    ours = {entry.name for entry in MODELS.entries() if entry.defined.startswith("evalsuite.")}
    tested = {to_settings(architecture_from_uri(name, **table))["name"] for name, table in NETWORKS}
    # A folder has networks of any kind; the others have no convolution that computes channels alone, but for a few.
    assert tested == ours - {"hf", "lenet-300-100", "resnext29", "densenet40"}


@pytest.mark.parametrize("head", HEADS)
def test_cutting_follows_the_ways_to_write_a_head(head: str) -> None:
    function, inputs = HEADS[head]
    model = Plain(function, inputs=inputs).eval()
    groups = {group.conv: group for group in channel_groups(model)}
    assert groups["first"] == ChannelGroup(
        "first", 8, (ChannelSlice("first"),), (), (ChannelSlice("second"),)
    )
    assert groups["second"] == ChannelGroup(
        "second",
        6,
        (ChannelSlice("second"),),
        (ChannelSlice("norm"),),
        (ChannelSlice("linear", inputs // 6),),
    )
    keep = {"first": torch.tensor([0, 3, 7]), "second": torch.tensor([1, 4])}
    for name, group in groups.items():
        kill(model, group, keep[name])
    smaller = remove_channels(model, keep)
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(smaller(images), model(images))
    assert smaller.get_parameter("linear.weight").shape == (4, inputs // 3)


@pytest.mark.parametrize("head", UNKNOWN)
def test_a_convolution_that_meets_something_unknown_is_left_out(head: str) -> None:
    function, inputs = UNKNOWN[head]
    assert [group.conv for group in channel_groups(Plain(function, inputs=inputs))] == ["first"]


def test_groups_of_a_residual_network_are_inside_its_blocks(build: Build) -> None:
    groups = channel_groups(build("resnet20", shortcut="B"))
    stages = [(stage, block) for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert [group.conv for group in groups] == [f"network.layer{s}.{b}.conv1" for s, b in stages]
    assert groups[3].norms == (ChannelSlice("network.layer2.0.bn1"),)
    assert groups[3].consumers == (ChannelSlice("network.layer2.0.conv2"),)


def test_a_selection_of_channels_is_one_layer(build: Build) -> None:
    model = build("preresnet", depth=11)
    before = set(vars(model))
    inside = [f"network.layer{stage}.0.conv{index}" for stage in (1, 2, 3) for index in (1, 2)]
    assert [group.conv for group in channel_groups(model)] == inside
    assert set(vars(model)) == before


def test_layers_with_hooks_keep_their_widths(build: Build) -> None:
    model = build("small-cnn")
    model.get_submodule("network.linear").register_forward_hook(lambda *_: None)
    weights = {"linear.weight": torch.zeros(10, 32), "layer3.norm.weight": torch.zeros(32)}
    assert resize_like(model, weights) == ("layer3.norm",)


def test_several_consumers_are_cut_together(build: Build) -> None:
    stem = channel_groups(build("resnet2b"))[0]
    assert {consumer.name for consumer in stem.consumers} == {
        "network.layer1.0.conv1",
        "network.layer1.0.shortcut.0",
    }


def test_shared_and_hooked_and_grouped_layers_are_left_out() -> None:
    conv = nn.Conv2d(4, 4, 1)
    twice = nn.Sequential(nn.Conv2d(3, 4, 1), conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(16, 2))
    assert channel_groups(twice) == []
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 2))
    assert channel_groups(grouped) == []
    masked = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    assert [group.conv for group in channel_groups(masked)] == ["0"]
    prune.l1_unstructured(masked[0], "weight", 0.5)  # type: ignore[no-untyped-call]  # torch has no types
    assert channel_groups(masked) == []


def test_the_last_layer_is_no_group() -> None:
    assert channel_groups(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())) == []


def test_attributes_follow_the_shapes(build: Build) -> None:
    smaller = remove_channels(build("small-cnn"), {"network.layer1.conv": torch.tensor([0, 5])})
    layers = {name: repr(module) for name, module in smaller.named_modules()}
    assert layers["network.layer1.conv"].startswith("Conv2d(24, 2,")
    assert layers["network.layer1.norm"].startswith("BatchNorm2d(2,")
    assert layers["network.layer2.conv"].startswith("Conv2d(2, 64,")


def test_the_model_is_untouched_and_stays_trainable(build: Build) -> None:
    model = build("small-cnn")
    before = copy.deepcopy(model.state_dict())
    smaller = remove_channels(model, {group.conv: halved(group) for group in channel_groups(model)}).train()
    smaller(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@settings(max_examples=20)
@given(keep=st.sets(st.integers(0, 23), min_size=1), more=st.sets(st.integers(0, 47), min_size=1))
def test_kept_channels_keep_their_weights(build: Build, keep: set[int], more: set[int]) -> None:
    model = build("small-cnn")
    first, second = torch.tensor(sorted(keep)), torch.tensor(sorted(more))
    smaller = remove_channels(model, {"network.stem.conv": first, "network.layer1.conv": second})
    weight = model.get_parameter("network.layer1.conv.weight")[second][:, first]
    assert torch.equal(smaller.get_parameter("network.layer1.conv.weight"), weight)
    assert torch.equal(
        smaller.get_buffer("network.stem.norm.running_var"),
        model.get_buffer("network.stem.norm.running_var")[first],
    )


@pytest.mark.parametrize(
    ("name", "channels", "sentence"),
    [
        ("network.linear", [0], "'network.linear' cannot be removed: it is no convolution of its own .*stem"),
        ("network.stem.conv", [], "at least one"),
        ("network.stem.conv", [1, 0], r"found \[1, 0\], expected rising int64 indices in 0..23"),
        ("network.stem.conv", [1, 1], "rising"),
        ("network.stem.conv", [-1, 0], "rising"),
        ("network.stem.conv", [0, 24], "rising"),
        ("network.stem.conv", [0.0, 1.0], "int64"),
    ],
)
def test_bad_channels_are_refused(build: Build, name: str, channels: list[float], sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        remove_channels(build("small-cnn"), {name: torch.tensor(channels)})


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(InvalidModelError, match=r"Branching cannot be traced .*prune single weights instead"):
        channel_groups(Branching())


@pytest.mark.parametrize(("name", "table"), [*NETWORKS[:3], ("timm:resnet10t", {})], ids=str)
def test_resizing_rebuilds_what_was_cut(build: Build, name: str, table: dict[str, Any]) -> None:
    model = build(name, **table)
    smaller = remove_channels(model, {group.conv: halved(group) for group in channel_groups(model)})
    again = build(name, seed=1, **table)
    resize_like(again, smaller.state_dict())
    load_weights(again, smaller.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), smaller(images))
    assert str(again) == str(smaller)  # attributes such as in_channels too


def test_resizing_understands_aliases_and_leaves_kernels_alone(build: Build) -> None:
    model = build("small-cnn")
    resize_like(model, {"fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)})
    assert model.get_parameter("network.linear.weight").shape == (10, 32)
    weights = dict(model.state_dict())
    weights["network.stem.conv.weight"] = torch.zeros(24, 3, 5, 5)
    resize_like(model, weights)
    with pytest.raises(
        CheckpointError, match=r"stem.conv.weight \(file \(24, 3, 5, 5\), model \(24, 3, 4, 4\)\)"
    ):
        load_weights(model, weights)
