from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evalsuite.datasets.base import check_image_set, digest
from evalsuite.errors import DataError
from evalsuite.types import ImageSet

GOOD = ImageSet("set", np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 2, 0]), 3)
FLOATS = np.linspace(0, 1, 4 * 3 * 8 * 8, dtype=np.float32).reshape(4, 3, 8, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"images": FLOATS},
        {"labels": None, "classes": 0},
        {"labels": np.array([0, 1, 2, 0], np.uint8)},
        {"images": GOOD.images.transpose(0, 1, 3, 2)},
        {"names": ("cat", "dog", "owl")},
    ],
    ids=["uint8", "float32 in [0, 1]", "no labels", "small labels", "a view", "names"],
)
def test_a_valid_set_is_returned_unchanged(changes: dict[str, Any]) -> None:
    images = replace(GOOD, **changes)
    assert check_image_set(images) is images


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": GOOD.images[0]}, r"found shape \(3, 8, 8\), expected \(N, C, H, W\)"),
        ({"images": GOOD.images[:0]}, "is empty: expected at least one image"),
        ({"images": GOOD.images.astype(np.float64)}, "found dtype float64, expected uint8 in 0..255 or float32"),
        ({"images": GOOD.images.astype(np.int64)}, "found dtype int64, expected uint8"),
        ({"images": FLOATS * 255}, r"found float values from 0 to 255, expected \[0, 1\]; the model does its own"),
        ({"images": FLOATS - 1}, r"found float values from -1 to 0, expected \[0, 1\]"),
        ({"images": np.where(FLOATS == 1, np.float32("nan"), FLOATS)}, "found float values from nan to nan"),
        ({"labels": np.array([0, 1, 2])}, r"found labels of shape \(3,\) and dtype int64, expected 4 integers"),
        ({"labels": np.eye(4, dtype=np.int64)}, r"found labels of shape \(4, 4\)"),
        ({"labels": np.array([0.0, 1.5, 2, 0])}, "found labels of shape .* and dtype float64, expected 4"),
        ({"labels": np.array([0, 1, 3, 0])}, "found labels from 0 to 3, expected 0 to 2 for 3 classes"),
        ({"labels": np.array([0, 1, -1, 0])}, "found labels from -1 to 1, expected 0 to 2 for 3 classes"),
        ({"names": ("cat", "dog")}, "found 2 names of 3 classes, expected one each"),
        ({"labels": np.ones(4, np.int64)}, "every label is 1; expected at least two classes, or labels=None"),
    ],
    ids=[
        "one image", "empty", "float64", "int64", "0 to 255", "negative", "NaN", "too few labels", "one-hot",
        "fractions", "too large", "negative label", "two names", "one class",
    ],
)  # fmt: skip
def test_an_invalid_set_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=rf"^image set 'set'(:)? {sentence}"):
        check_image_set(replace(GOOD, **changes))


def test_the_digest_depends_on_pixels_labels_shape_and_dtype() -> None:
    other = GOOD.images.copy()
    other[3, 2, 7, 7] = 1
    variants = [
        GOOD,
        replace(GOOD, images=other),
        replace(GOOD, images=GOOD.images.reshape(4, 3, 4, 16)),
        replace(GOOD, images=GOOD.images.view(np.int8)),
        replace(GOOD, labels=np.array([0, 1, 2, 1])),
        replace(GOOD, labels=None),
        replace(GOOD, classes=4),
    ]
    digests = [digest(images) for images in variants]
    assert len(set(digests)) == len(variants)


def test_the_digest_does_not_depend_on_names_and_memory_layout() -> None:
    images = np.arange(4 * 3 * 8 * 8, dtype=np.uint8).reshape(4, 3, 8, 8)
    image_set = replace(GOOD, images=images)
    spread = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not spread.flags.c_contiguous
    other = replace(image_set, name="other", images=spread, labels=np.array([0, 1, 2, 0], np.uint8))
    assert digest(image_set) == digest(other)
