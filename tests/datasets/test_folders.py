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
from evalsuite.types import ImageSet, Split

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
    with pytest.raises(
        DataError, match=r"mine: no such file or folder, looked for .*mine and .*mine; correct"
    ):
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


def split_tree(root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for split, count in splits.items():
        write_pictures(root / split, [f"{name}/{number}.png" for name in classes for number in range(count)])
    return root


def sizes(data: Folder, place: Place) -> dict[str, int]:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return {split: len(load_checked(data, split, place).images) for split in splits}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": 10, "test": 3}, {"train": 18, "validation": 2, "test": 6}),
        ({"train": 10, "val": 3}, {"train": 18, "validation": 2, "test": 6}),
        ({"train": 10, "val": 4, "test": 3}, {"train": 20, "validation": 8, "test": 6}),
    ],
    ids=str,
)
def test_folders_may_be_splits(tmp_path: Path, splits: dict[str, int], expected: dict[str, int]) -> None:
    data = Folder(str(split_tree(tmp_path / "mine", splits)), side=8, labelled=True)
    assert sizes(data, Place()) == expected


def test_labels_mean_the_same_in_every_split(tmp_path: Path) -> None:
    root = split_tree(tmp_path / "mine", {"train": 2, "test": 2}, ("ant", "cat", "dog"))
    for picture in (root / "test" / "ant").iterdir():
        picture.unlink()
    (root / "test" / "ant").rmdir()
    images = load_checked(Folder(str(root), side=8, labelled=True), "test", Place())
    assert images.labels is not None
    assert (images.labels.tolist(), images.names) == ([1, 1, 2, 2], ("ant", "cat", "dog"))
    assert any("1 classes have no picture (ant)" in note for note in images.notes)


def test_a_share_is_drawn_from_each_class_and_stays_when_others_are_added(tmp_path: Path) -> None:
    root = split_tree(tmp_path / "mine", {"": 10})
    data = Folder(str(root), side=8, labelled=True, test_share=0.2)
    assert sizes(data, Place()) == {"train": 14, "validation": 2, "test": 4}
    before = load_checked(data, "test", Place()).images
    other = Folder(str(root), side=8, labelled=True, test_share=0.2, split_seed=1)
    assert not np.array_equal(load_checked(other, "test", Place()).images, before)
    write_pictures(root, ["cat/added.png", "dog/added.png"])
    after = load_checked(data, "test", Place()).images
    shared = {image.tobytes() for image in before} & {image.tobytes() for image in after}
    assert len(shared) >= 1


@pytest.mark.parametrize(
    ("splits", "settings", "split", "sentence"),
    [
        ({"test": 2}, {}, "train", "has no folder train/"),
        ({"train": 2}, {}, "test", "found train/ alone, expected test/ or val/ too; or set test_share"),
        ({"train": 2, "test": 2}, {"test_share": 0.5}, "test", "found test_share = 0.5, but test/ is there"),
        ({"val": 2, "valid": 2}, {}, "test", "found the folders val and valid, expected one of them"),
        ({"": 2}, {"classes": 3}, "test", "found classes = 3, expected the network's 2"),
    ],
    ids=["no train", "train alone", "share beside test", "two", "classes"],
)
def test_splits_that_are_not_there(
    tmp_path: Path, splits: dict[str, int], settings: dict[str, Any], split: Split, sentence: str
) -> None:
    data = Folder(str(split_tree(tmp_path / "mine", splits)), side=8, labelled=True, **settings)
    with pytest.raises(DataError, match=sentence):
        data.load(split, Place(classes=2))


def test_a_shifted_folder_has_the_labels_of_the_suites_classes(tmp_path: Path) -> None:
    split_tree(tmp_path / "own", {"": 2}, ("ant", "cat", "dog"))
    write_pictures(tmp_path / "shifted", ["dog/1.png", "cat/1.png"])
    image_source = ImageSource(Folder("own", side=8, labelled=True), Place(tmp_path))
    images = image_source.images(View(data=f"shifted{FOLDER_SUFFIX}", labelled=True))
    assert images.labels is not None
    assert (images.labels.tolist(), images.images.shape[1:]) == ([1, 2], (3, 8, 8))


def test_a_limit_of_the_data_holds_for_outliers_of_all_kinds(tmp_path: Path) -> None:
    split_tree(tmp_path / "own", {"": 4})
    write_pictures(tmp_path / "far", ["1.png", "2.png", "3.png"])
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "test_images.npy", np.zeros((9, 8, 8, 3), np.uint8))
    image_source = ImageSource(Folder("own", side=8, labelled=True, limit=6), Place(tmp_path))
    assert len(image_source.images(View()).images) == 6
    for name, expected in (("letters", 6), (f"far{FOLDER_SUFFIX}", 3), (f"{tmp_path}/arrays/", 6)):
        assert len(image_source.images(View(data=name)).images) == expected


def test_the_first_pictures_may_be_of_few_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f"{name}/{number}.png" for name in "abc" for number in range(3)])
    notes = Folder(str(tmp_path), side=32, labelled=True, limit=4).load("test", Place()).notes
    assert any("the first 4 pictures are of 2 of 3 classes" in note and "--limit 4" in note for note in notes)
    assert not Folder(str(tmp_path), side=32, labelled=True, limit=8).load("test", Place()).notes


def test_links_that_lead_to_no_file_are_named_or_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a/1.png", "b/1.png"])
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone.png")
    folder = Folder(str(tmp_path), side=32, labelled=True)
    with pytest.raises(DataError, match=r"a/2\.png: not a readable picture .*--skip-unreadable"):
        folder.load("test", Place())
    images = folder.load("test", Place(skip_unreadable=True))
    assert len(images.images) == 2
    assert any("1 links that lead to no file are left out (2.png)" in note for note in images.notes)


def test_pictures_of_types_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a/1.png", "b/1.png"])
    for name in ("3.HEIC", "4.gif"):
        (tmp_path / "a" / name).touch()
    notes = Folder(str(tmp_path), side=32, labelled=True).load("test", Place()).notes
    assert any("pictures of types that are not read are ignored (.gif, .heic)" in note for note in notes)
