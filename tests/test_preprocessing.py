"""Pixels as the libraries make them, bit for bit, on pictures of odd sizes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import SuiteError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.architectures.settings import from_settings, to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.architectures.zoos import timm_geometry
from evalsuite.plugin_config import from_table
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import Array

SIZES = ((301, 417), (417, 300), (97, 151), (256, 256), (255, 601))


def picture(height: int, width: int) -> Image.Image:
    """Smooth shapes with noise on them: both the filter and its rounding show."""
    rng = np.random.default_rng([height, width])
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1)
    return Image.fromarray((smooth * 3 // 4 + rng.integers(0, 64, smooth.shape)).astype(np.uint8))


def geometry(architecture: Architecture) -> Preprocessing:
    assert architecture.preprocessing is not None
    return architecture.preprocessing


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("resnet50", "IMAGENET1K_V1"),
        ("resnet50", "IMAGENET1K_V2"),
        ("swin_t", "IMAGENET1K_V1"),
        ("efficientnet_b3", "IMAGENET1K_V1"),
        ("vit_l_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("efficientnet_v2_l", "IMAGENET1K_V1"),
    ],
)
def test_the_pixels_of_torchvisions_weights(model: str, weights: str, size: tuple[int, int]) -> None:
    from torchvision import models

    transforms = models.get_model_weights(model)[weights].transforms()
    architecture = architecture_from_uri(f"torchvision:{model}", weights=weights)

    theirs = transforms(picture(*size)).numpy()

    mean, std = (
        np.array(part, np.float32).reshape(3, 1, 1) for part in (architecture.mean, architecture.std)
    )
    mine = (geometry(architecture).pixels(picture(*size)).astype(np.float32) / 255 - mean) / std
    assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "model",
    [
        "resnet18.tv_in1k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "convnext_tiny.fb_in1k",
        "eva02_tiny_patch14_336.mim_in22k_ft_in1k",
        "tf_efficientnet_lite0.in1k",
        "xcit_nano_12_p16_224.fb_in1k",
    ],
)
def test_the_pixels_of_timms_transform(model: str, size: tuple[int, int]) -> None:
    with quiet_imports():
        from timm.data import create_transform, resolve_data_config
        from timm.models import get_pretrained_cfg

    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(model).to_dict())
    architecture = architecture_from_uri(f"timm:{model}")

    theirs = np.asarray(create_transform(**config, normalize=False)(picture(*size)))

    assert np.array_equal(geometry(architecture).pixels(picture(*size)), theirs)
    assert (architecture.mean, architecture.std) == (config["mean"], config["std"])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_every_crop_mode_of_timm(mode: str, size: tuple[int, int]) -> None:
    with quiet_imports():
        from timm.data import create_transform

    config: dict[str, Any] = {"input_size": (3, 160, 160), "crop_pct": 0.9, "interpolation": "bicubic"}
    config |= {"crop_mode": mode, "mean": (0.485, 0.456, 0.406)}

    theirs = np.asarray(create_transform(**config, normalize=False)(picture(*size)))

    assert np.array_equal(timm_geometry(SimpleNamespace(**config)).pixels(picture(*size)), theirs)


def test_a_smaller_picture_is_padded_with_black() -> None:
    white = Image.new("RGB", (3, 2), (255, 255, 255))
    pixels: Array = Preprocessing((4, 4)).pixels(white)
    assert pixels[0].tolist() == [[0] * 4, [255, 255, 255, 0], [255, 255, 255, 0], [0] * 4]


def test_the_newest_weights_hold_where_no_entry_is_named() -> None:
    newest, first = (
        geometry(architecture_from_uri("torchvision:resnet50", weights=weights))
        for weights in ("", "IMAGENET1K_V1")
    )
    assert (newest.resize, first.resize) == ((232,), (256,))


def test_an_option_for_the_size_of_the_image_scales_the_geometry() -> None:
    small = architecture_from_uri("torchvision:vit_b_16", options={"image_size": 64})
    assert geometry(small) == Preprocessing((64, 64), (73,), "bilinear")  # 256 / 224 of 64


def test_settings_replace_what_the_weights_state() -> None:
    published = architecture_from_uri("torchvision:swin_t")
    assert geometry(published) == Preprocessing((224, 224), (232,), "bicubic")
    assert geometry(dataclasses.replace(published, crop=160)) == Preprocessing((160, 160), (160,), "bicubic")
    assert geometry(dataclasses.replace(published, resize=(240, 250))).resize == (240, 250)
    assert geometry(dataclasses.replace(published, interpolation="box")).interpolation == "box"


def test_an_architecture_without_a_statement_has_none_until_it_is_given_one() -> None:
    assert SmallCNN().preprocessing is None
    assert geometry(SmallCNN(crop=32)) == Preprocessing((32, 32), (32,), "bilinear")
    assert geometry(SmallCNN(crop=(24, 32), resize=40)) == Preprocessing((24, 32), (40,), "bilinear")


def test_new_settings_are_in_no_table_at_their_defaults() -> None:
    """Finished results stay valid: digests are of these tables."""
    fields = {"name", "classes", "mean", "std", "bypass", "options", "model"}
    architecture = architecture_from_uri("torchvision:resnet18")
    assert set(to_settings(architecture)) == fields
    assert set(from_table(MODELS, {"name": "torchvision", "model": "resnet18"}, where="").table) == fields
    changed = architecture_from_uri("torchvision:resnet18", weights="IMAGENET1K_V1", crop=160)
    assert set(to_settings(changed)) == {*fields, "weights", "crop"}
    assert from_settings(to_settings(changed)) == changed


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"resize": 40}, "found resize without crop"),
        ({"interpolation": "bicubic"}, "found interpolation without crop"),
        ({"crop": 0}, r"found crop = \[0\], expected one or two numbers of at least 1 pixel"),
        ({"crop": (3, 3, 3)}, r"found crop = \[3, 3, 3\]"),
        ({"crop": 32, "interpolation": "cubic"}, "found interpolation = 'cubic', expected one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=sentence):
        SmallCNN(**settings)


def test_an_unknown_weights_entry_is_named_with_the_nearest() -> None:
    with pytest.raises(SuiteError, match="did you mean 'IMAGENET1K_V1'"):
        architecture_from_uri("torchvision:resnet18", weights="IMAGENET1K_V3")
