"""Grey images, other channel counts, and images that are not square."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from evalsuite.datasets.transforms.common_corruptions.digital import displaced, warped
from evalsuite.datasets.transforms.common_corruptions.kinds import (
    CORRUPTIONS,
    EXTRA,
    corrupt,
    undefined_because,
)
from evalsuite.datasets.transforms.common_corruptions.weather import distances
from evalsuite.errors import DataError

Pixels = NDArray[np.uint8]
KINDS = CORRUPTIONS + EXTRA
SAME_FOR_EACH_CHANNEL = (
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "fog", "brightness", "contrast"),
    *("elastic_transform", "pixelate", "gaussian_blur"),
)
SYMMETRIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "gaussian_blur")


def images(count: int, *shape: int) -> Pixels:
    smooth = ndimage.gaussian_filter(
        np.random.default_rng(count).uniform(0, 1, (count, *shape)), (0, 0, 1, 1)
    )
    return np.asarray(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("kind", SAME_FOR_EACH_CHANNEL)
def test_a_grey_image_is_corrupted_as_one_of_three_equal_channels(kind: str, severity: int) -> None:
    grey = images(70, 1, 28, 28)
    colour = corrupt(np.repeat(grey, 3, axis=1), kind, severity, seed=1)
    np.testing.assert_array_equal(corrupt(grey, kind, severity, seed=1), colour[:, :1])


@pytest.mark.parametrize(("kind", "levels"), [("snow", 1), ("jpeg_compression", 2)])
def test_a_grey_image_differs_from_equal_channels_by_the_rounding_of_its_luminance(
    kind: str, levels: int
) -> None:
    grey = images(20, 1, 32, 32)
    colour = corrupt(np.repeat(grey, 3, axis=1), kind, 3, seed=1).astype(int)
    assert np.abs(corrupt(grey, kind, 3, seed=1).astype(int) - colour[:, :1]).max() <= levels


def test_grey_frost_is_the_luminance_of_the_photographs() -> None:
    photograph = np.zeros((200, 200, 3), np.uint8)
    photograph[:] = (200, 100, 50)  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    frosted = corrupt(np.full((3, 1, 32, 32), 40, np.uint8), "frost", 1, seed=0, textures=[photograph] * 5)
    assert (frosted == int(40 + 0.2 * 124)).all()


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_grey_spatter_is_one_level_of_splashes_as_in_mnist_c(severity: int) -> None:
    spattered = corrupt(
        np.zeros((64, 1, 28, 28), np.uint8), "spatter", severity, seed=0, constants="imagenet"
    )
    assert spattered.max() <= 63  # mud over black: 63 times its cover
    assert spattered.max() > 50


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not undefined_because(kind, (5, 24, 40))])
def test_kinds_without_colour_take_any_number_of_channels(kind: str) -> None:
    many = images(10, 5, 24, 40)
    corrupted = corrupt(many, kind, 3, seed=0)
    assert corrupted.shape == many.shape
    assert (corrupted != many).any(axis=(2, 3)).all()


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("saturate", (1, 32, 32), "saturate is defined for images of 3 channels, these have 1"),
        ("brightness", (2, 32, 32), "brightness is defined for images of 1 or 3 channels, these have 2"),
        ("fog", (3, 15, 40), "fog is defined from 16 px on, these images have 15 x 40"),
    ],
)
def test_what_is_not_defined_says_why(kind: str, shape: tuple[int, ...], words: str) -> None:
    assert undefined_because(kind, shape) == words
    with pytest.raises(DataError, match=words):
        corrupt(np.zeros((1, *shape), np.uint8), kind, 3, seed=0)


@pytest.mark.parametrize("kind", SYMMETRIC)
def test_a_corruption_without_draws_of_an_image_on_its_side_is_that_of_the_image(kind: str) -> None:
    wide = images(9, 3, 24, 40)
    tall = np.ascontiguousarray(wide.swapaxes(2, 3))
    difference = corrupt(tall, kind, 4, seed=0).swapaxes(2, 3).astype(int) - corrupt(wide, kind, 4, seed=0)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_not_square_depends_on_its_index_and_not_on_the_others(kind: str) -> None:
    many = images(70, 3, 24, 40)
    corrupted = corrupt(many, kind, 3, seed=5)
    np.testing.assert_array_equal(corrupt(many[:65], kind, 3, seed=5), corrupted[:65])


def test_warps_and_displacements_of_nothing_leave_an_image_that_is_not_square_as_it_is() -> None:
    wide = images(3, 2, 24, 40).astype(np.float32)
    np.testing.assert_allclose(warped(wide, np.zeros((3, 3, 2))), wide, atol=0.01)
    np.testing.assert_allclose(displaced(wide, np.zeros((3, 2, 24, 40))), wide, atol=0.01)
    right = displaced(wide, np.broadcast_to(np.array([1.0, 2.0])[:, None, None], (3, 2, 24, 40)))
    np.testing.assert_allclose(right[..., :22, :39], wide[..., 2:, 1:], atol=0.02)


def test_distances_in_an_image_that_is_not_square_are_nearly_euclidean() -> None:
    targets = np.random.default_rng(0).uniform(size=(4, 24, 40)) < 0.01
    exact = np.stack([ndimage.distance_transform_edt(~target) for target in targets])
    near = exact < 15
    np.testing.assert_allclose(distances(targets)[near] / 2**16, exact[near], rtol=0.03, atol=0.05)
