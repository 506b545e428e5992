"""Folders of pictures against torchvision's transform, OpenOOD's lists, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalsuite.datasets import DATASETS
from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.folders import Folder
from evalsuite.datasets.source import FOLDER, ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import DataError
from evalsuite.evaluators.ood import Ood
from evalsuite.types import ImageSet

SIZES = {"a.png": (48, 64), "b/c.PNG": (40, 33), "b/d.jpg": (32, 32), "e.png": (20, 31)}


def pictures(home: Path, names: Any, *, mode: str = "RGB") -> None:
    random = np.random.default_rng(0)
    for name in names:
        width, height = SIZES.get(name, (36, 32))
        values = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).convert(mode).save(home / name)


def test_pictures_are_what_torchvision_makes_of_them(tmp_path: Path) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    pictures(tmp_path / "mine", SIZES)
    (tmp_path / "mine" / "notes.txt").write_text("no picture")
    found = load_checked(Folder("mine"), "test", Place(tmp_path))
    assert (found.images.shape, found.labels, found.classes) == ((4, 3, 32, 32), None, 0)
    transform = Compose([Resize(32, InterpolationMode.BILINEAR), CenterCrop(32)])
    for image, name in zip(found.images, sorted(SIZES), strict=True):
        with Image.open(tmp_path / "mine" / name) as opened:
            expected = np.asarray(transform(opened.convert("RGB"))).transpose(2, 0, 1)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_every_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    pictures(tmp_path / "mine", ["x.png"], mode=mode)
    assert load_checked(Folder("mine", side=16), "test", Place(tmp_path)).images.shape == (1, 3, 16, 16)


def test_the_folders_in_it_are_classes_if_they_are_labels(tmp_path: Path) -> None:
    pictures(tmp_path / "mine", ["dog/1.png", "cat/deep/2.png", "cat/3.png"])
    found = load_checked(Folder("mine", labelled=True), "test", Place(tmp_path))
    assert found.labels is not None
    assert (found.labels.tolist(), found.classes) == ([0, 0, 1], 2)
    assert [found.called(label) for label in found.labels] == ["cat", "cat", "dog"]
    assert load_checked(Folder("mine", limit=2), "test", Place(tmp_path)).images.shape[0] == 2
    pictures(tmp_path / "mine", ["stray.png"])
    with pytest.raises(DataError, match=r"stray\.png is in no folder of a class"):
        Folder("mine", labelled=True).load("test", Place(tmp_path))


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("tin", "tiny-imagenet-200/val/images"), ("tin", "images_classic/tin"), ("textures", "dtd/images/dotted"),
        ("places365", "val_256"), ("places365", "images_classic/places365/airfield"),
    ],
)  # fmt: skip
def test_named_sets_are_found_where_they_are_unpacked(tmp_path: Path, name: str, home: str) -> None:
    pictures(tmp_path / home, ["1.png", "2.jpg"])
    found = load_checked(DATASETS.get(name)(), "test", Place(tmp_path))
    assert (found.name, found.images.shape) == (name, (2, 3, 32, 32))


@pytest.mark.parametrize("below", ["", "images_classic"])
def test_the_list_of_the_protocol_chooses_pictures_and_their_order(tmp_path: Path, below: str) -> None:
    pictures(tmp_path / below, ["texture/a 1.png", "texture/b.png", "texture/c.png"])
    chosen = tmp_path / "benchmark_imglist" / "cifar10" / "test_texture.txt"
    chosen.parent.mkdir(parents=True)
    chosen.write_text("texture/c.png -1\ntexture/a 1.png -1\n\n")
    found = load_checked(DATASETS.get("textures")(), "test", Place(tmp_path)).images
    everything = load_checked(Folder(f"{below}/texture".strip("/")), "test", Place(tmp_path)).images
    np.testing.assert_array_equal(found, everything[[2, 0]])
    chosen.write_text("texture/z.png -1\ntexture/c.png -1\n")
    with pytest.raises(
        DataError, match=r"names 1 of 2 pictures that are not under .*, first 'texture/z\.png'"
    ):
        DATASETS.get("textures")().load("test", Place(tmp_path))
    chosen.write_text("\n")
    with pytest.raises(DataError, match=r"test_texture\.txt: found no line"):
        DATASETS.get("textures")().load("test", Place(tmp_path))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'tin': found neither the list .*test_tin\.txt nor pictures in .*unpack"
    ):
        DATASETS.get("tin")().load("test", Place(tmp_path))
    with pytest.raises(DataError, match=r"mine: found no picture, expected \.jpeg, \.jpg, \.png files"):
        Folder("mine").load("test", Place(tmp_path))
    with pytest.raises(DataError, match="needs a data folder and none was named"):
        Folder("mine").load("test", Place())
    with pytest.raises(DataError, match="has no split 'train'"):
        Folder("mine").load("train", Place(tmp_path))
    with pytest.raises(DataError, match="found side = 0 and limit = 0"):
        Folder("mine", side=0).load("test", Place(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x\.png: not a readable picture"):
        Folder("mine").load("test", Place(tmp_path))


def test_a_folder_of_pictures_serves_as_outliers_in_the_size_of_the_suite(tmp_path: Path) -> None:
    pictures(tmp_path / "mine", ["a/1.png", "b/2.png"])
    own = ImageSet("own", np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 0, 1]), 2)
    image_source = ImageSource(own, Place(tmp_path))
    (view,) = (view for view in Ood(far=(f"mine{FOLDER}",)).needs if view.data)
    found = image_source.images(view)
    assert (found.images.shape, found.labels, image_source.condition(view)) == ((2, 3, 8, 8), None, "mine")
    labelled = image_source.images(View(data=f"mine{FOLDER}", labelled=True))
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [0, 1]
