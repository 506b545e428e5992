from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from evalsuite.datasets.base import Place, digest, load_checked
from evalsuite.datasets.digits import Digits, enlarged
from evalsuite.types import ImageSet, Split

DIGESTS = {"train": "9565f32c4be8cff8", "validation": "e05c9e902706ab4b", "test": "3ac6356674481ac4"}
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.fixture(scope="module")
def splits() -> dict[Split, ImageSet]:
    return {split: load_checked(Digits(), split, Place()) for split in SPLITS}


def test_every_scan_is_in_exactly_one_split(splits: dict[Split, ImageSet]) -> None:
    digits = load_digits()
    scans = sorted(
        (image.tobytes(), int(label))
        for image, label in zip(enlarged(digits.images), digits.target, strict=True)
    )
    shown = sorted(
        (image.tobytes(), int(label))
        for part in splits.values()
        for image, label in zip(part.images, part.labels if part.labels is not None else [], strict=True)
    )
    assert shown == scans


@pytest.mark.parametrize(
    ("split", "share", "count"), [("train", 0.4, 718), ("validation", 0.1, 180), ("test", 0.5, 899)]
)
def test_splits_have_their_share_of_every_class(
    splits: dict[Split, ImageSet], split: Split, share: float, count: int
) -> None:
    part = splits[split]
    assert part.images.shape == (count, 3, 32, 32)
    assert part.images.dtype == np.uint8
    assert part.classes == 10
    assert part.labels is not None
    sizes = np.bincount(part.labels, minlength=10)
    assert np.abs(sizes - share * np.bincount(load_digits().target)).max() <= 1.5


def test_the_split_never_changes(splits: dict[Split, ImageSet]) -> None:
    """Results are compared across machines and versions, so the pixels may not move."""
    assert {split: digest(part)[:16] for split, part in splits.items()} == DIGESTS
    again = Digits().load("test", Place(seed=5))
    assert digest(again) == digest(splits["test"])  # the seed of a run is not the seed of the split


def test_scans_become_grey_colour_images() -> None:
    scans = np.zeros((3, 8, 8))
    scans[1] = 16
    scans[2, :, :4] = 16  # left half bright
    images = enlarged(scans)
    assert images.shape == (3, 3, 32, 32)
    assert (images == images[:, :1]).all()  # all channels are equal
    assert images[0].max() == 0
    assert images[1].min() == 255
    row = images[2, 0, 16].astype(int)
    assert (np.diff(row) <= 0).all()
    assert (row[:14] == 255).all()
    assert (row[18:] == 0).all()
    assert (
        sorted(row[14:18] + row[14:18][::-1]) == [255] * 4
    )  # bilinear: the edge is a ramp around its middle
