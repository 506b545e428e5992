from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.architecture_detection import match_architecture, parse_image_shape

if TYPE_CHECKING:
    from torch import Tensor


def weights(reference: str = "resnet20", **settings: object) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state: dict[str, Tensor] = unwrap_model(
            build_model(architecture_from_uri(reference, **settings))
        ).state_dict()
    return state


def by_hand(size: int) -> int:
    """Multiply-accumulates of a ResNet-20 with shortcuts of option A for square images."""
    first = 3 * 16 * 9 * size**2
    stages = [
        (16 * 16 * 6 * 9, size),
        ((16 * 32 + 5 * 32 * 32) * 9, -(-size // 2)),
        ((32 * 64 + 5 * 64 * 64) * 9, -(-size // 4)),
    ]
    return first + sum(weights * side**2 for weights, side in stages) + 64 * 10


def test_macs_are_those_of_the_network_that_the_tensors_fit() -> None:
    match = match_architecture(weights())
    assert match.fits == "resnet20 (classes=10)"
    assert (match.image, match.macs, match.macs_nonzero) == ((3, 32, 32), by_hand(32), by_hand(32))
    assert match.uncounted == ""


def test_the_image_may_be_another() -> None:
    match = match_architecture(weights(), image_shape=(3, 20, 20))
    assert (match.image, match.macs) == ((3, 20, 20), by_hand(20))


def test_zero_weights_are_left_out_of_one_number() -> None:
    state = weights()
    state["layer1.0.conv1.weight"][:5] = 0
    match = match_architecture(state)
    assert match.macs == by_hand(32)
    assert match.macs_nonzero == by_hand(32) - 5 * 16 * 9 * 32**2


def test_a_smaller_network_is_counted_with_its_own_widths() -> None:
    state = weights()
    for name, axis in (
        *((f"layer1.0.{part}", 0) for part in ("conv1.weight", "bn1.weight", "bn1.bias")),
        *((f"layer1.0.bn1.{part}", 0) for part in ("running_mean", "running_var")),
        ("layer1.0.conv2.weight", 1),
    ):
        state[name] = state[name].narrow(axis, 0, 9)
    match = match_architecture(state)
    assert match.fits == "resnet20 with fewer channels (classes=10)"
    assert match.macs == by_hand(32) - 2 * 7 * 16 * 9 * 32**2


@pytest.mark.parametrize(
    ("name", "image", "macs"),
    # multiply-accumulates of a published table: torchvision's weights say them in GFLOPS
    [("resnet18", (3, 224, 224), 1.814), ("mobilenet_v2", (3, 224, 224), 0.301)],
)
def test_networks_of_torchvision_see_the_images_of_imagenet(
    name: str, image: tuple[int, ...], macs: float
) -> None:
    match = match_architecture(weights(f"torchvision:{name}", classes=1000))
    assert match.image == image
    assert match.macs == pytest.approx(macs * 1e9, rel=2e-3)


def test_inception_sees_larger_ones() -> None:
    match = match_architecture(weights("torchvision:inception_v3", classes=1000))
    assert match.image == (3, 299, 299)
    assert match.macs == pytest.approx(5.713e9, rel=2e-3)


def test_an_unknown_network_is_not_counted_with_the_reason() -> None:
    match = match_architecture(nn.Sequential(nn.Linear(7, 3)).state_dict())
    assert (match.image, match.macs, match.macs_nonzero) == (None, None, None)
    assert "fit no architecture" in match.fits
    assert "without an architecture" in match.uncounted


def test_images_that_the_network_does_not_take_are_not_counted() -> None:
    match = match_architecture(weights(), image_shape=(1, 28, 28))
    assert match.fits.startswith("resnet20")
    assert match.macs is None
    assert "conv1 takes 3 channels, but 1 arrive" in match.uncounted
    assert "--image" in match.uncounted


def test_an_image_is_written_with_two_crosses() -> None:
    assert parse_image_shape(" 3x224x200 ") == (3, 224, 200)
    for text in ("", "32", "3x32", "3x32x32x1", "3x0x32", "axbxc", "3x4097x4097", "-3x32x32"):
        with pytest.raises(SuiteError, match=f"image {re.escape(repr(text))}: expected channels x height"):
            parse_image_shape(text)
