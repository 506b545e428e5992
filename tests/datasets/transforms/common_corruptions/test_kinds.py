from __future__ import annotations

import tracemalloc
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evalsuite.datasets.transforms.common_corruptions.kinds import (
    CONSTANTS,
    CORRUPTIONS,
    EXTRA,
    FAMILIES,
    SEVERITIES,
    SIZES,
    Size,
    corrupt,
    family,
    nearest_size,
    reported_kind,
)
from evalsuite.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

KINDS = CORRUPTIONS + EXTRA
RANDOM = set(KINDS) - {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
}


def images(count: int, side: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(count).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def test_names_stand_in_the_order_of_the_published_tables() -> None:
    assert tuple(FAMILIES) == ("noise", "blur", "weather", "digital")
    assert tuple(name for family in FAMILIES.values() for name in family) == CORRUPTIONS
    assert " ".join(CORRUPTIONS) == (
        "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur "
        "snow frost fog brightness contrast elastic_transform pixelate jpeg_compression"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_index_and_not_on_the_others(kind: str) -> None:
    many = images(330)  # more than the 256 that are worked on at once, and no multiple of a block
    corrupted = corrupt(many, kind, 3, seed=5)
    for count in (1, 64, 65):
        np.testing.assert_array_equal(corrupt(many[:count], kind, 3, seed=5), corrupted[:count])
    others = many.copy()
    others[np.arange(330) != 300] ^= 255
    np.testing.assert_array_equal(corrupt(others, kind, 3, seed=5)[300], corrupted[300])


@pytest.mark.parametrize("kind", KINDS)
def test_the_draws_have_an_address(kind: str) -> None:
    same = np.repeat(images(1), 80, axis=0)
    first = corrupt(same, kind, 2, seed=1)
    if kind in RANDOM:
        least = 30 if kind == "motion_blur" else 80  # similar angles meet the same pixels
        assert (corrupt(same, kind, 2, seed=2) != first).any(axis=(1, 2, 3)).sum() >= least
        assert len(np.unique(first.reshape(80, -1), axis=0)) >= least
        assert (first[:16] != first[64:]).any()  # two blocks
    else:
        np.testing.assert_array_equal(corrupt(same, kind, 2, seed=2), first)
        assert (first == first[0]).all()
    assert (first != corrupt(same, kind, 3, seed=1)).any()


@pytest.mark.parametrize("side", [16, 21, 64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_squares_of_any_side_keep_their_shape(kind: str, size: Size, side: int) -> None:
    clean = images(2, side)
    for severity in SEVERITIES:
        result = corrupt(clean, kind, severity, seed=0, constants=size)
        assert result.shape == clean.shape
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous
        assert (result != clean).any()


PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)


@pytest.mark.parametrize(("side", "count"), [(96, 2), (224, 6)])  # a block of 224 px is of 5 images
@pytest.mark.parametrize("kind", KINDS)
def test_larger_images_depend_on_their_index_alone(kind: str, side: int, count: int) -> None:
    many = images(count, side)
    corrupted = corrupt(many, kind, 3, seed=0, textures=[PHOTOGRAPH])
    assert corrupted.shape == many.shape
    assert (corrupted != many).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(corrupt(many[:1], kind, 3, seed=0, textures=[PHOTOGRAPH]), corrupted[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_follows_from_the_side_or_is_chosen(kind: str) -> None:
    for side, nearest in ((32, "cifar"), (45, "cifar"), (46, "tiny-imagenet"), (64, "tiny-imagenet")):
        clean = images(2, side)
        by_size = {
            size: corrupt(clean, kind, 5, seed=0, constants=size, textures=[PHOTOGRAPH]) for size in SIZES
        }
        plain = corrupt(clean, kind, 5, seed=0, textures=[PHOTOGRAPH])
        np.testing.assert_array_equal(plain, by_size[nearest_size(side)])
        assert nearest_size(side) == nearest
        for size, other in combinations(SIZES, 2):
            same = CONSTANTS[size][kind][4] == CONSTANTS[other][kind][4]
            assert (by_size[size] == by_size[other]).all() == same


def test_every_table_has_all_kinds_and_as_many_numbers_for_each() -> None:
    for table in CONSTANTS.values():
        assert set(table) == set(KINDS)
        for kind, rows in table.items():
            assert {len(row) for row in rows} == {len(CONSTANTS["cifar"][kind][0])}
    assert nearest_size(119) == "tiny-imagenet"
    assert nearest_size(120) == nearest_size(1000) == "imagenet"


def test_unknown_tables_are_refused_with_a_near_miss() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown table of corruption constants 'imagnet': did you mean 'imagenet'"
    ):
        corrupt(images(1), "fog", 1, seed=0, constants="imagnet")  # type: ignore[arg-type]  # the point


def test_the_extra_kinds_are_a_family_of_their_own() -> None:
    assert EXTRA == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert not set(EXTRA) & set(CORRUPTIONS)
    assert {family(kind) for kind in EXTRA} == {"extra"}
    assert all(kind in FAMILIES[family(kind)] for kind in CORRUPTIONS)
    with pytest.raises(UnknownNameError, match="did you mean 'spatter'"):
        family("splatter")


@pytest.mark.parametrize("kind", KINDS)
def test_views_and_memory_maps_give_the_same_and_stay_as_they_are(kind: str, tmp_path: Path) -> None:
    clean = images(3)
    expected = corrupt(clean, kind, 4, seed=0)
    np.save(tmp_path / "nhwc.npy", clean.transpose(0, 2, 3, 1))
    mapped = np.load(tmp_path / "nhwc.npy", mmap_mode="r").transpose(
        0, 3, 1, 2
    )  # read-only: writing would raise
    np.testing.assert_array_equal(corrupt(mapped, kind, 4, seed=0), expected)
    np.testing.assert_array_equal(mapped, clean)


@pytest.mark.parametrize("kind", KINDS)
def test_no_images_give_no_images(kind: str) -> None:
    assert corrupt(images(0), kind, 1, seed=0).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("kind", ["glass_blur", "elastic_transform", "snow"])
def test_memory_does_not_grow_with_the_number_of_images(kind: str) -> None:
    corrupt(images(256), kind, 5, seed=0)
    peaks = []
    for count in (512, 1024):
        clean = images(count)
        tracemalloc.start()
        corrupt(clean, kind, 5, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1] - clean.nbytes)
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1 << 20  # beside the result itself


def test_synthetic_frost_has_a_name_of_its_own() -> None:
    photograph = np.zeros((200, 200, 3), np.uint8)
    assert reported_kind("frost", textures=()) == "frost-synthetic"
    assert reported_kind("frost", textures=[photograph]) == "frost"
    assert reported_kind("snow", textures=()) == "snow"
    with pytest.raises(UnknownNameError, match="did you mean 'frost'"):
        reported_kind("forst", textures=())


@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((2, 3, 32, 32), np.float32, r"found float32 of shape \(2, 3, 32, 32\), expected uint8"),
        ((2, 32, 32, 3), np.uint8, "from 16 px on, these images have 32 x 3"),
        ((3, 3, 32), np.uint8, r"found uint8 of shape \(3, 3, 32\), expected uint8 of shape \(N, C, H, W\)"),
        ((2, 3, 15, 15), np.uint8, "from 16 px on, these images have 15 x 15"),
    ],
)
def test_wrong_images_are_refused(shape: tuple[int, ...], dtype: type, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        corrupt(np.zeros(shape, dtype), "fog", 1, seed=0)


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5])
def test_wrong_severities_are_refused(severity: int) -> None:
    with pytest.raises(DataError, match=f"found {severity}, expected one of 1, 2, 3, 4, 5"):
        corrupt(images(1), "fog", severity, seed=0)


def test_unknown_kinds_are_refused_with_a_near_miss() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gaussian_noise'"):
        corrupt(images(1), "gausian_noise", 1, seed=0)


@pytest.mark.parametrize(
    ("texture", "sentence"),
    [
        (np.zeros((300, 300), np.uint8), r"frost texture: found uint8 of shape \(300, 300\)"),
        (np.zeros((3, 300, 300), np.uint8), r"expected uint8 of shape \(H, W, 3\)"),
        (np.zeros((300, 300, 3)), "found float64"),
        (np.zeros((160, 900, 3), np.uint8), "found 32 x 180 px after resizing by 0.2, expected more than 32"),
    ],
)
def test_wrong_textures_are_refused(texture: np.ndarray[Any, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        corrupt(images(1), "frost", 1, seed=0, textures=[texture])


def test_photographs_smaller_than_large_images_are_refused() -> None:
    texture = np.zeros((315, 224, 3), np.uint8)
    with pytest.raises(
        DataError, match="found 315 x 224 px after resizing by 1, expected more than 224 on both"
    ):
        corrupt(images(1, 224), "frost", 1, seed=0, textures=[texture])
