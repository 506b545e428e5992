"""Folders of pictures against torchvision's transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.folders import Folder
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import FOLDER_SUFFIX, View
from evalsuite.errors import DataError
from evalsuite.evaluators.ood import Ood
from evalsuite.types import ImageSet

SIZES = {"a.png": (48, 64), "b/c.PNG": (40, 33), "b/d.jpg": (32, 32), "e.png": (20, 31)}


def write_pictures(folder: Path, names: Any, *, mode: str = "RGB") -> None:
    random = np.random.default_rng(0)
    for name in names:
        width, height = SIZES.get(name, (36, 32))
        values = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).convert(mode).save(folder / name)


def test_pictures_are_resized_and_cropped_as_by_torchvision(tmp_path: Path) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    write_pictures(tmp_path / "mine", SIZES)
    (tmp_path / "mine" / "notes.txt").write_text("no picture")
    image_set = load_checked(Folder("mine", side=32), "test", Place(tmp_path))
    assert (image_set.images.shape, image_set.labels, image_set.classes) == ((4, 3, 32, 32), None, 0)
    transform = Compose([Resize(32, InterpolationMode.BILINEAR), CenterCrop(32)])
    for image, name in zip(image_set.images, sorted(SIZES), strict=True):
        with Image.open(tmp_path / "mine" / name) as opened:
            expected = np.asarray(transform(opened.convert("RGB"))).transpose(2, 0, 1)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_every_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    write_pictures(tmp_path / "mine", ["x.png"], mode=mode)
    assert load_checked(Folder("mine", side=16), "test", Place(tmp_path)).images.shape == (1, 3, 16, 16)


def test_the_folders_are_classes_if_the_set_is_labelled(tmp_path: Path) -> None:
    write_pictures(tmp_path / "mine", ["dog/1.png", "cat/deep/2.png", "cat/3.png"])
    image_set = load_checked(Folder("mine", labelled=True), "test", Place(tmp_path))
    assert image_set.labels is not None
    assert (image_set.labels.tolist(), image_set.classes) == ([0, 0, 1], 2)
    assert [image_set.class_name(label) for label in image_set.labels] == ["cat", "cat", "dog"]
    assert load_checked(Folder("mine", limit=2), "test", Place(tmp_path)).images.shape[0] == 2
    write_pictures(tmp_path / "mine", ["outside.png"])
    with pytest.raises(DataError, match=r"outside\.png is in no folder of a class"):
        Folder("mine", labelled=True).load("test", Place(tmp_path))


def test_missing_pictures_and_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine: no such file or folder, looked for .*mine and .*mine; correct"):
        Folder("mine").load("test", Place(tmp_path))
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=r"mine: found no picture, expected \.bmp, \.jpeg, \.jpg, .* files"):
        Folder("mine").load("test", Place(tmp_path))
    with pytest.raises(DataError, match=r"has no split 'train': .* set test_share = 0\.2"):
        Folder("mine").load("train", Place(tmp_path))
    with pytest.raises(DataError, match="found side = -1 and limit = 0"):
        Folder("mine", side=-1).load("test", Place(tmp_path))
    (tmp_path / "mine" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x\.png: not a readable picture"):
        Folder("mine").load("test", Place(tmp_path))


def test_a_folder_of_pictures_serves_as_outliers_in_the_size_of_the_suite(tmp_path: Path) -> None:
    write_pictures(tmp_path / "mine", ["a/1.png", "b/2.png"])
    suite_images = ImageSet("own", np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 0, 1]), 2)
    image_source = ImageSource(suite_images, Place(tmp_path))
    (view,) = (view for view in Ood(far=(f"mine{FOLDER_SUFFIX}",)).needs if view.data)
    image_set = image_source.images(view)
    assert (image_set.images.shape, image_set.labels, image_source.condition(view)) == (
        (2, 3, 8, 8),
        None,
        "mine",
    )
    labelled = image_source.images(View(data=f"mine{FOLDER_SUFFIX}", labelled=True))
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [0, 1]
