from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.datasets.arrays import Arrays
from evalsuite.datasets.base import DataSet, Place, load_checked
from evalsuite.datasets.cifar import Cifar10, Cifar100
from evalsuite.datasets.outliers import FashionMnist, Mnist, Svhn
from evalsuite.errors import DataError
from evalsuite.types import Array, Split

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)  # NHWC
LABELS = np.arange(40) % 4
MINE = Arrays("mine", classes=4)


def write(folder: Path, stem: str, images: Array = PIXELS, labels: Array | None = LABELS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{stem}_images.npy", images)
    if labels is not None:
        np.save(folder / f"{stem}_labels.npy", labels)
    return folder


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (PIXELS, PIXELS.transpose(0, 3, 1, 2)),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS.transpose(0, 3, 1, 2)),
        (PIXELS[..., :1], PIXELS[..., :1].transpose(0, 3, 1, 2)),
        (PIXELS[..., 0], PIXELS[:, None, :, :, 0]),
    ],
    ids=["NHWC", "NCHW", "NHWC grey", "NHW"],
)
def test_arrays_are_mapped_and_transposed_to_channels_first(
    tmp_path: Path, written: Array, expected: Array
) -> None:
    write(tmp_path / "mine", "test", np.ascontiguousarray(written), LABELS.astype(np.uint8))
    image_set = load_checked(MINE, "test", Place(tmp_path))
    np.testing.assert_array_equal(image_set.images, expected)
    np.testing.assert_array_equal(image_set.labels, LABELS)
    assert (image_set.name, image_set.classes) == ("mine", 4)
    assert image_set.labels is not None
    assert image_set.labels.dtype == np.int64
    assert isinstance(image_set.images, np.memmap)
    assert not image_set.images.flags.owndata  # still the file's pages: nothing was copied
    assert not image_set.images.flags.writeable


@pytest.mark.parametrize(
    ("split", "settings", "rows"),
    [
        ("train", {}, slice(0, 36)),
        ("validation", {}, slice(36, 40)),
        ("test", {}, slice(0, 40)),
        ("train", {"train_limit": 8}, slice(0, 8)),
        ("train", {"train_limit": 39}, slice(0, 36)),  # a limit never reaches into the validation images
        ("validation", {"train_limit": 8}, slice(36, 40)),
        ("validation", {"train_limit": 3}, slice(36, 39)),  # no more of them than training images
        ("test", {"test_limit": 8, "train_limit": 3}, slice(0, 8)),
        ("test", {"test_limit": 99}, slice(0, 40)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["mine", "cifar10", "cifar100"])
def test_splits_and_limits(
    tmp_path: Path, name: str, split: Split, settings: dict[str, Any], rows: slice
) -> None:
    for stem in ("train", "test"):
        write(tmp_path / name, stem)
    datasets: dict[str, DataSet] = {
        "mine": Arrays("mine", 4, **settings), "cifar10": Cifar10(**settings), "cifar100": Cifar100(**settings)
    }  # fmt: skip
    image_set = load_checked(datasets[name], split, Place(tmp_path))
    np.testing.assert_array_equal(image_set.images, PIXELS.transpose(0, 3, 1, 2)[rows])
    np.testing.assert_array_equal(image_set.labels, LABELS[rows])


@pytest.mark.parametrize("dataset", [MINE, Cifar10(), Cifar100(), Mnist(), FashionMnist(), Svhn()], ids=str)
def test_without_a_data_root_the_error_tells_how_to_name_one(dataset: DataSet) -> None:
    with pytest.raises(
        DataError, match=r"none was named: give it with --data-root, .* EVALSUITE_DATA, or data_root"
    ):
        dataset.load("test", Place())


@pytest.mark.parametrize(
    ("dataset", "split", "files", "remedy"),
    [
        (MINE, "test", "mine/test_images.npy", "write it with numpy.save"),
        (MINE, "validation", "mine/train_images.npy", "write it with numpy.save"),
        (Cifar10(), "train", "cifar10/train_images.npy, torchvision's CIFAR10 layout", "--download"),
        (
            Cifar100(),
            "test",
            "cifar100/test_images.npy, ood/cifar100_images.npy, torchvision's",
            "--download",
        ),
        (
            Svhn(),
            "test",
            "svhn/test_images.npy, ood/svhn_images.npy, torchvision's SVHN layout",
            "--download",
        ),
        (Mnist(), "test", "mnist/test_images.npy, ood/mnist_images.npy, torchvision's MNIST", "--download"),
    ],
    ids=str,
)
def test_a_missing_file_is_named_with_where_it_was_looked_for(
    tmp_path: Path, dataset: DataSet, split: Split, files: str, remedy: str
) -> None:
    with pytest.raises(DataError) as caught:
        dataset.load(split, Place(tmp_path))
    message = str(caught.value)
    assert f"found none of {files}" in message
    assert f"under {tmp_path}; put one there, name another folder with --data-root, or " in message
    assert remedy in message
    assert ("--download" in message) == (remedy == "--download")  # the arrays of a user cannot be downloaded


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (PIXELS.astype(np.float32), LABELS, r"test_images.npy: found dtype float32, expected uint8 in 0\.\.255"),
        (PIXELS.repeat(4, 3), LABELS, r"test_images.npy: found shape \(40, 8, 8, 12\), expected \(N, H, W, C\)"),
        (PIXELS[0, 0], LABELS, r"test_images.npy: found shape \(8, 3\), expected"),
        (PIXELS, None, r"test_images.npy has no labels beside it: expected .*test_labels.npy, one integer"),
        (PIXELS, LABELS[:39], "found labels of shape .39,. and dtype int64, expected 40 integers"),
        (PIXELS, LABELS + 0.5, "and dtype float64, expected 40 integers"),
        (PIXELS, LABELS + 1, "found labels from 1 to 4, expected 0 to 3 for 4 classes"),
        (PIXELS, LABELS * 0, "every label is 0; expected at least two classes"),
        (PIXELS[:0], LABELS[:0], "is empty: expected at least one image"),
    ],
    ids=["floats", "twelve channels of 8 px", "no images", "no labels", "too few labels", "labels 0.5", "labels from 1",
         "one class", "empty"],
)  # fmt: skip
def test_malformed_arrays(tmp_path: Path, images: Array, labels: Array | None, sentence: str) -> None:
    write(tmp_path / "mine", "test", images, labels)
    with pytest.raises(DataError, match=sentence):
        load_checked(MINE, "test", Place(tmp_path))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
def test_any_number_of_channels_below_the_sides_is_read(tmp_path: Path, channels: int, first: bool) -> None:
    pixels = PIXELS.repeat(2, 3)[..., :channels]
    write(tmp_path / "mine", "test", np.moveaxis(pixels, 3, 1) if first else pixels, LABELS)
    image_set = load_checked(MINE, "test", Place(tmp_path))
    np.testing.assert_array_equal(image_set.images, pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("stem", ["test_images", "test_labels"])
@pytest.mark.parametrize("keep", [0, 4, 40, -1], ids=["empty", "magic only", "half a header", "a byte less"])
def test_a_damaged_file_is_named(tmp_path: Path, stem: str, keep: int) -> None:
    path = write(tmp_path / "mine", "test") / f"{stem}.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=rf"{stem}\.npy: found \d+ bytes that are no complete NumPy array .*; write it again"
    ):
        load_checked(MINE, "test", Place(tmp_path))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", "test")
    np.save(folder / "test_labels.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"test_labels\.npy: found .*allow_pickle=False"):
        load_checked(MINE, "test", Place(tmp_path))


def test_other_arrays_in_the_folder_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(
        DataError, match=rf"{tmp_path.name}': found none of test_images.npy .*there are images.npy"
    ):
        Arrays(str(tmp_path)).load("test", Place())


def test_an_absolute_path_is_reported_by_its_last_part(tmp_path: Path) -> None:
    np.save(tmp_path / "test_images.npy", np.zeros((2, 4, 4, 3), np.uint8))
    np.save(tmp_path / "test_labels.npy", np.array([0, 1]))
    assert Arrays(str(tmp_path)).load("test", Place()).name == tmp_path.name
