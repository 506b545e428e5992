"""Outlier sets: generated ones, published arrays, and pictures of the OpenOOD protocol."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalsuite.datasets import DATASETS
from evalsuite.datasets.base import DataSet, Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.folders import Folder
from evalsuite.datasets.outliers import (
    LETTERS,
    FashionMnist,
    GaussianNoise,
    Letters,
    Mnist,
    Photographs,
    UniformNoise,
)
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import DataError
from evalsuite.types import Array, Split

GENERATED: dict[str, Callable[..., DataSet]] = {
    "photographs": Photographs,
    "letters": Letters,
    "uniform-noise": UniformNoise,
    "gaussian-noise": GaussianNoise,
}

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)  # NHWC
LABELS = np.arange(40) % 4


def images(name: str, **settings: int) -> Array:
    return load_checked(GENERATED[name](**settings), "test", Place()).images


@pytest.mark.parametrize("name", GENERATED)
class TestEveryGeneratedSet:
    def test_holds_images_without_labels_under_its_registered_name(self, name: str) -> None:
        assert DATASETS.get(name) is GENERATED[name]
        image_set = load_checked(GENERATED[name](count=24), "test", Place())
        assert (image_set.name, image_set.labels, image_set.classes) == (name, None, 0)
        assert image_set.images.shape == (24, 3, 32, 32)
        assert image_set.images.dtype == np.uint8

    def test_is_the_same_every_time_and_longer_sets_go_on(self, name: str) -> None:
        few, more = images(name, count=24), images(name, count=48)
        np.testing.assert_array_equal(few, images(name, count=24))
        np.testing.assert_array_equal(few, more[:24])
        assert len(np.unique(more.reshape(48, -1), axis=0)) == 48  # no image comes twice

    def test_does_not_depend_on_the_seed_of_the_run(self, name: str) -> None:
        other = GENERATED[name](count=4).load("test", Place(seed=7)).images
        np.testing.assert_array_equal(other, images(name, count=4))

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_has_test_images_only(self, name: str, split: Split) -> None:
        with pytest.raises(
            DataError, match=rf"^data set '{name}' has no split '{split}': it is out of distribution"
        ):
            GENERATED[name](count=4).load(split, Place())

    @pytest.mark.parametrize("count", [0, -3])
    def test_needs_images(self, name: str, count: int) -> None:
        with pytest.raises(
            DataError, match=rf"^data set '{name}': found count = {count}, expected at least one"
        ):
            GENERATED[name](count=count).load("test", Place())


def test_letters_look_like_digits_and_are_none() -> None:
    assert set("IO").isdisjoint(LETTERS)
    assert len(LETTERS) == 24
    letters = images("letters", count=240)
    assert (letters == letters[:, :1]).all()  # grey
    digits = Digits().load("test", Place()).images
    assert 0.5 < letters.mean() / digits.mean() < 1.5  # about as much ink
    assert letters[:, :, :1].mean() < 40  # and no ink at the border
    same = letters[::24].astype(float)  # ten times the letter A: alike, but not equal
    assert (
        np.corrcoef(same.reshape(10, -1))[0, 1:].mean()
        > np.corrcoef(letters[:10].reshape(10, -1))[0, 1:].mean()
    )


def test_photographs_are_colour_patches_of_two_pictures() -> None:
    patches = images("photographs", count=40).astype(float)
    assert (patches != patches[:, :1]).any(axis=(1, 2, 3)).all()
    assert abs(patches[::2].mean() - patches[1::2].mean()) > 10  # they alternate


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    # U(0..255): 127.5 and sqrt((256^2 - 1) / 12); N(127.5, 63.75^2) clipped at two sigma has std 0.9594 sigma
    [("uniform-noise", 127.5, 73.9), ("gaussian-noise", 127.5, 61.2)],
)
def test_noise_has_its_moments(name: str, mean: float, std: float) -> None:
    values = images(name, count=100).astype(float)
    assert values.mean() == pytest.approx(mean, abs=0.5)
    assert values.std() == pytest.approx(std, rel=0.01)
    assert (values.min(), values.max()) == (0, 255)
    neighbours = np.corrcoef(values[..., :-1].ravel(), values[..., 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01


def write_pictures(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (32, 36, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("tin", "tiny-imagenet-200/val/images"), ("tin", "images_classic/tin"), ("textures", "dtd/images/dotted"),
        ("places365", "val_256"), ("places365", "images_classic/places365/airfield"),
    ],
)  # fmt: skip
def test_named_sets_are_found_where_they_are_unpacked(tmp_path: Path, name: str, folder: str) -> None:
    write_pictures(tmp_path / folder, ["1.png", "2.jpg"])
    image_set = load_checked(DATASETS.get(name)(), "test", Place(tmp_path))
    assert (image_set.name, image_set.images.shape) == (name, (2, 3, 32, 32))


@pytest.mark.parametrize("below", ["", "images_classic"])
def test_the_list_of_the_protocol_chooses_pictures_and_their_order(tmp_path: Path, below: str) -> None:
    write_pictures(tmp_path / below, ["texture/a 1.png", "texture/b.png", "texture/c.png"])
    list_file = tmp_path / "benchmark_imglist" / "cifar10" / "test_texture.txt"
    list_file.parent.mkdir(parents=True)
    list_file.write_text("texture/c.png -1\ntexture/a 1.png -1\n\n")
    listed = load_checked(DATASETS.get("textures")(), "test", Place(tmp_path)).images
    everything = load_checked(Folder(f"{below}/texture".strip("/"), side=32), "test", Place(tmp_path)).images
    np.testing.assert_array_equal(listed, everything[[2, 0]])
    list_file.write_text("texture/z.png -1\ntexture/c.png -1\n")
    with pytest.raises(
        DataError, match=r"names 1 of 2 pictures that are not under .*, first 'texture/z\.png'"
    ):
        DATASETS.get("textures")().load("test", Place(tmp_path))
    list_file.write_text("\n")
    with pytest.raises(DataError, match=r"test_texture\.txt: found no line"):
        DATASETS.get("textures")().load("test", Place(tmp_path))


def test_missing_pictures_are_reported_with_the_folders_that_may_hold_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'tin': found neither the list .*test_tin\.txt nor pictures in .*unpack"
    ):
        DATASETS.get("tin")().load("test", Place(tmp_path))
    with pytest.raises(DataError, match="data set 'tin' has no split 'train': it is out of distribution"):
        DATASETS.get("tin")().load("train", Place(tmp_path))


@pytest.mark.parametrize("labels", [None, LABELS], ids=["without labels", "with labels"])
@pytest.mark.parametrize("name", ["cifar100", "svhn"])
def test_a_flat_outlier_set_may_come_without_labels(tmp_path: Path, name: str, labels: Array | None) -> None:
    (tmp_path / "ood").mkdir()
    pixels = PIXELS.repeat(4, 1).repeat(4, 2)  # 32 x 32, as the suite's: no need to resize
    np.save(tmp_path / "ood" / f"{name}_images.npy", pixels)
    if labels is not None:
        np.save(tmp_path / "ood" / f"{name}_labels.npy", labels)
    image_set = ImageSource(Digits(), Place(tmp_path)).images(View(data=name))
    np.testing.assert_array_equal(image_set.images, pixels.transpose(0, 3, 1, 2))
    assert (image_set.name, image_set.labels, image_set.classes) == (name, None, 0)


@pytest.mark.parametrize("labels", [None, np.zeros(len(LABELS)), np.full(len(LABELS), -1), np.arange(3) + 90])
def test_a_folder_of_arrays_serves_as_outliers_whatever_its_labels(
    tmp_path: Path, labels: Array | None
) -> None:
    (tmp_path / "noise").mkdir()
    pixels = PIXELS.repeat(4, 1).repeat(4, 2)
    np.save(tmp_path / "noise" / "test_images.npy", pixels)
    if labels is not None:
        np.save(tmp_path / "noise" / "test_labels.npy", labels)
    image_set = ImageSource(Digits(), Place(tmp_path)).images(View(data="noise/"))
    np.testing.assert_array_equal(image_set.images, pixels.transpose(0, 3, 1, 2))
    assert (image_set.labels, image_set.classes) == (None, 0)


def write_idx(path: Path, values: Array) -> None:
    """The format of the original MNIST files: magic, dimensions, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.mark.parametrize("layout", ["plain", "flat", "torchvision"])
@pytest.mark.parametrize(("name", "dataset"), [("mnist", Mnist()), ("fashionmnist", FashionMnist())])
def test_grey_sets_are_padded_to_32_and_get_three_channels(
    tmp_path: Path, layout: str, name: str, dataset: DataSet
) -> None:
    grey = np.random.default_rng(0).integers(1, 256, (5, 28, 28), dtype=np.uint8)
    if layout == "plain":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "test_images.npy", grey)
        np.save(tmp_path / name / "test_labels.npy", np.arange(5))
    elif layout == "flat":
        (tmp_path / "ood").mkdir()
        np.save(tmp_path / "ood" / f"{name}_images.npy", grey)
    else:
        raw = tmp_path / {"mnist": "MNIST", "fashionmnist": "FashionMNIST"}[name] / "raw"
        for stem in ("train", "t10k"):
            write_idx(raw / f"{stem}-images-idx3-ubyte", grey)
            write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(5))
    image_set = load_checked(dataset, "test", Place(tmp_path))
    assert image_set.images.shape == (5, 3, 32, 32)
    assert image_set.labels is None
    for channel in range(3):
        np.testing.assert_array_equal(image_set.images[:, channel, 2:-2, 2:-2], grey)
    assert image_set.images[:, :, [0, 1, -2, -1]].max() == image_set.images[..., [0, 1, -2, -1]].max() == 0
