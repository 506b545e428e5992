from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import SkippedError
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.architectures.resnet import ZeroPadding
from evalsuite.models.checkpoints.reading import load_weights
from evalsuite.models.surgery.width_inference import check_widths, resize_like
from evalsuite.models.surgery.width_scaling import scalable_widths, with_widths

Build = Callable[..., nn.Module]
SHAPE = (3, 32, 32)

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("small-cnn", {}),
    ("resnet20", {"shortcut": "A"}),
    ("resnet20", {"shortcut": "B"}),
    ("resnet2b", {}),
    ("vgg16-bn", {}),
    ("wide-resnet", {"depth": 16, "width": 2}),
    ("densenet22", {}),
    ("preresnet", {"depth": 20}),
    ("torchvision:resnet18", {}),
    ("torchvision:mobilenet_v2", {}),
    ("timm:resnet10t", {}),
]


def drawn(model: nn.Module) -> nn.Module:
    """The model with weights that have something to say everywhere."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draws) - 0.4)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    return model


@pytest.mark.parametrize(("name", "table"), NETWORKS, ids=str)
def test_every_architecture_has_a_version_of_half_the_width_that_loads_again(
    build: Build, name: str, table: dict[str, Any]
) -> None:
    model = build(name, **table)
    before = copy.deepcopy(model.state_dict())
    widths = {layer: max(1, width // 2) for layer, width in scalable_widths(model, SHAPE).items()}
    thin = drawn(with_widths(model, widths, SHAPE))
    for layer, width in widths.items():
        assert len(thin.get_submodule(layer).get_parameter("weight")) == width
    sizes = [sum(p.numel() for p in one.parameters()) for one in (thin, model)]
    assert 0.2 < sizes[0] / sizes[1] < 0.4
    images = torch.rand(3, *SHAPE)
    classes = model(images).shape[1]
    check_widths(thin, SHAPE, classes=classes)
    again = build(name, seed=1, **table)
    resize_like(again, unwrap_model(thin).state_dict())
    load_weights(again, unwrap_model(thin).state_dict())
    assert str(again) == str(thin)
    assert torch.equal(again(images), thin(images))
    assert thin(images).shape == (3, classes)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_widths_that_do_not_change_change_nothing(build: Build) -> None:
    model = build("resnet20")
    same = with_widths(model, scalable_widths(model, SHAPE), SHAPE)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_last_layer_and_depthwise_ones_are_not_scalable(build: Build) -> None:
    assert [*scalable_widths(build("small-cnn"), SHAPE).values()] == [24, 48, 64, 64]
    mobile = build("torchvision:mobilenet_v2")
    free = scalable_widths(mobile, SHAPE)
    grouped = {name for name, one in mobile.named_modules() if isinstance(one, nn.Conv2d) and one.groups > 1}
    assert len(grouped) == 17
    assert not grouped & set(free)
    thin = with_widths(mobile, {name: width // 2 for name, width in free.items()}, SHAPE)
    for name in grouped:
        layer = thin.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        assert layer.groups == layer.in_channels == layer.out_channels == len(layer.weight)


@pytest.mark.parametrize(("stream", "zeros"), [((8, 16, 32), (4, 4)), ((5, 10, 21), (2, 3))], ids=str)
def test_zero_padding_follows_the_widths(
    build: Build, stream: tuple[int, int, int], zeros: tuple[int, int]
) -> None:
    model = build("resnet20", shortcut="A")
    stages = dict(zip((16, 32, 64), stream, strict=True))
    thin = with_widths(
        model, {name: stages[width] for name, width in scalable_widths(model, SHAPE).items()}, SHAPE
    )
    paddings = [padding for padding in thin.modules() if isinstance(padding, ZeroPadding)]
    for padding, (before, after) in zip(paddings, pairwise(stream), strict=True):
        maps = torch.rand(2, before, 4, 4) + 1
        padded = padding(maps)
        assert padded.shape == (2, after, 2, 2)
        first = (after - before) // 2
        assert torch.equal(padded[:, first : first + before], maps[:, :, ::2, ::2])
        assert int(padded.count_nonzero()) == 2 * before * 4
    padded = paddings[0](torch.ones(1, stream[0], 4, 4))[0, :, 0, 0]
    assert padded.tolist() == [0.0] * zeros[0] + [1.0] * stream[0] + [0.0] * zeros[1]
    assert copy.deepcopy(thin)(torch.rand(1, *SHAPE)).shape == (1, 10)


class Odd(nn.Module):
    """A convolution, and then something that may not follow."""

    def __init__(
        self, middle: nn.Module, head: Callable[[Tensor], Tensor] = lambda x: x.mean((2, 3))
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.middle = middle
        self.head = head
        self.linear = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.head(self.middle(self.conv(images))))
        return logits


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Odd(nn.GroupNorm(2, 8)), "^layer middle is a GroupNorm, which cannot be made thinner"),
        (Odd(nn.Conv2d(8, 8, 1, groups=2)), "^layer middle has 2 groups of channels, which cannot"),
        (
            Odd(nn.Identity(), lambda x: x.mean((2, 3)).view(-1, 8)),
            "^Odd has no thinner version: its forward",
        ),
    ],
    ids=["norm", "groups", "view"],
)
def test_networks_without_a_thinner_version(model: nn.Module, sentence: str) -> None:
    with pytest.raises(SkippedError, match=sentence):
        with_widths(model, {"conv": 3}, SHAPE)
