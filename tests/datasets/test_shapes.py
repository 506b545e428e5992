"""Outlier sets for networks of other channel counts and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalsuite.datasets.base import Place
from evalsuite.datasets.outliers import SHAPE, GaussianNoise, Letters, Photographs, UniformNoise
from evalsuite.datasets.shapes import with_shape
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import DataError
from evalsuite.types import ImageSet

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
RGB = ImageSet("rgb", PIXELS, None, 0)
GENERATED: dict[str, Any] = {
    "photographs": Photographs,
    "letters": Letters,
    "uniform-noise": UniformNoise,
    "gaussian-noise": GaussianNoise,
}


def test_an_image_set_of_the_shape_is_left_alone() -> None:
    assert with_shape(RGB, (3, 32, 32)) is RGB


def test_grey_is_the_luminance_of_pillow() -> None:
    grey = with_shape(RGB, (1, 32, 32)).images
    expected = np.stack(
        [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in PIXELS]
    )
    assert grey.dtype == np.uint8
    assert np.abs(grey[:, 0].astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(with_shape(RGB, (5, 32, 32)).images, np.repeat(grey, 5, axis=1))


def test_the_size_changes_as_pillow_does_it() -> None:
    resized = with_shape(RGB, (3, 24, 40)).images
    expected = np.stack(
        [
            np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize((40, 24), Image.Resampling.BILINEAR))
            for image in PIXELS
        ]
    ).transpose(0, 3, 1, 2)
    assert np.abs(resized.astype(int) - expected).max() <= 1


def test_floats_stay_floats_in_range() -> None:
    floats = ImageSet("floats", PIXELS.astype(np.float32) / 255, None, 0)
    images = with_shape(floats, (2, 48, 16)).images
    assert images.dtype == np.float32
    assert images.shape == (6, 2, 48, 16)
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 32, 32), (3, 24, 40), (4, 16, 16)], ids=str)
@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_set_follows_the_images_of_the_suite(name: str, shape: tuple[int, int, int]) -> None:
    suite = ImageSet("ours", np.zeros((8, *shape), np.uint8), np.arange(8) % 2, 2)
    images = ImageSource(suite, Place()).images(View(data=name)).images
    assert images.shape == (GENERATED[name]().count, *shape)
    assert images.std() > 10
    np.testing.assert_array_equal(images, GENERATED[name](shape=shape).load("test", Place()).images)


@pytest.mark.parametrize("name", GENERATED)
def test_the_usual_shape_is_that_of_the_digits(name: str) -> None:
    assert GENERATED[name]().shape == SHAPE == (3, 32, 32)
    with pytest.raises(DataError, match=rf"^data set '{name}': found shape = \[0, 1, 1\]"):
        GENERATED[name](shape=(0, 1, 1))
