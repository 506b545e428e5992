"""Folders that the library `datasets` writes, against that library and torchvision's transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from evalsuite.config.data import resolve_data
from evalsuite.datasets.base import Place, digest, load_checked
from evalsuite.datasets.huggingface import HuggingFace
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.tables import Pictures, find_columns, find_tables
from evalsuite.datasets.views import View
from evalsuite.errors import DataError
from evalsuite.plugin_config import from_table
from evalsuite.types import ImageSet, Split

hf = pytest.importorskip("datasets")
NAMES = ["cat", "ant", "bee"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def saved(count: int = 12, start: int = 0, *, label: Any = None) -> Any:
    """A data set of the library: pictures of several sizes in three classes."""
    draws = np.random.default_rng(start)
    shapes = [(16, 20 + row % 3, 3) for row in range(count)]
    pictures = [Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    label = hf.ClassLabel(names=NAMES) if label is None else label
    features = hf.Features({"image": hf.Image(), "label": label})
    labels = [
        row % 3 if isinstance(label, hf.ClassLabel) or "int" in label.dtype else NAMES[row % 3]
        for row in range(count)
    ]
    return hf.Dataset.from_dict({"image": pictures, "label": labels}, features=features)


def assert_same(data: HuggingFace, split: Split, rows: Any) -> None:
    """The images and labels are those that the library and torchvision give."""
    images = load_checked(data, split, Place())
    transform = Compose([Resize(data.side), CenterCrop(data.side)])
    expected = [np.asarray(transform(row["image"].convert("RGB"))).transpose(2, 0, 1) for row in rows]
    np.testing.assert_array_equal(images.images, np.stack(expected))
    assert images.labels is not None
    assert images.labels.tolist() == [row["label"] for row in rows]
    assert images.names == tuple(NAMES)


def named(path: Path) -> HuggingFace:
    """The data set that `--data path:side=8` is."""
    from evalsuite.datasets import DATASETS

    table = resolve_data(f"{path}:side=8", where="--data").table
    data = from_table(DATASETS, table, where="--data").plugin
    assert isinstance(data, HuggingFace)
    return data


def test_a_saved_data_set_is_all_for_testing_or_split_by_a_share(tmp_path: Path) -> None:
    rows = saved(40).shuffle(seed=1)
    rows.save_to_disk(tmp_path / "one", num_shards=3)
    data = named(tmp_path / "one")
    assert_same(data, "test", rows)
    with pytest.raises(DataError, match=r"has no split 'train': .* set test_share = 0\.2"):
        data.load("train", Place())
    shared = HuggingFace(str(tmp_path / "one"), side=8, test_share=0.25)
    sets = [load_checked(shared, split, Place()) for split in SPLITS]
    assert [len(images.images) for images in sets] == [27, 3, 10]
    together = np.concatenate([images.images for images in sets])
    assert len({image.tobytes() for image in together}) == 40


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_splits_are_those_of_the_folder(form: str, tmp_path: Path) -> None:
    splits = {split: saved(9, start) for start, split in enumerate(SPLITS)}
    if form == "arrow":
        hf.DatasetDict(splits).save_to_disk(tmp_path / "pets")
    else:
        (tmp_path / "pets" / "data").mkdir(parents=True)
        for split, rows in splits.items():
            for part in range(2):
                file = tmp_path / "pets" / "data" / f"{split}-0000{part}-of-00002.parquet"
                rows.shard(2, part, contiguous=True).to_parquet(file, batch_size=2)
    for split in SPLITS:
        assert_same(named(tmp_path / "pets"), split, splits[split])


def test_words_and_numbers_are_labels_as_names_of_folders_are(tmp_path: Path) -> None:
    saved(label=hf.Value("string")).to_parquet(tmp_path / "words" / "test.parquet")
    words = load_checked(named(tmp_path / "words"), "test", Place())
    assert words.names == ("ant", "bee", "cat")
    assert words.labels is not None
    assert words.labels[:3].tolist() == [2, 0, 1]
    saved(label=hf.Value("int64")).to_parquet(tmp_path / "numbers" / "test.parquet")
    numbers = load_checked(named(tmp_path / "numbers"), "test", Place(classes=5))
    assert (numbers.classes, numbers.labels is not None and numbers.labels[:3].tolist()) == (5, [0, 1, 2])
    (tmp_path / "map.json").write_text('{"cat": 4, "ant": 1, "bee": 0}')
    mapped = HuggingFace(str(tmp_path / "words"), side=8, class_map=str(tmp_path / "map.json"))
    found = load_checked(mapped, "test", Place(classes=5)).labels
    assert found is not None
    assert found[:3].tolist() == [4, 1, 0]


def test_the_content_and_not_the_file_format_is_digested(tmp_path: Path) -> None:
    rows = saved()
    rows.save_to_disk(tmp_path / "arrow")
    rows.to_parquet(tmp_path / "parquet" / "test.parquet")
    digests = {digest(load_checked(named(tmp_path / name), "test", Place())) for name in ("arrow", "parquet")}
    assert len(digests) == 1


def test_few_groups_of_rows_are_in_memory(tmp_path: Path) -> None:
    saved(12).to_parquet(tmp_path / "test.parquet", batch_size=2)
    (file,) = find_tables(tmp_path).whole
    pictures = Pictures([file], find_columns(file))
    assert [pictures.read(row)[:4] for row in range(12)] == [b"\x89PNG"] * 12
    assert len(pictures._open) == 2


def broken(folder: Path, name: str) -> HuggingFace:
    """A data set with a mistake."""
    home = folder / "set"
    if name == "unlabelled":
        rows = saved().to_dict()
        rows["label"][3] = -1
        hf.Dataset.from_dict(rows, features=saved().features).save_to_disk(home)
    elif name == "damaged picture":
        rows = saved().cast_column("image", hf.Image(decode=False)).to_dict()
        rows["image"][3] = {"bytes": b"nothing", "path": "x.png"}
        hf.Dataset.from_dict(rows, features=saved().features).save_to_disk(home)
    elif name == "damaged file":
        home.mkdir()
        (home / "test.parquet").write_bytes(b"nothing")
    elif name == "no pictures":
        saved().remove_columns("image").save_to_disk(home)
    else:
        hf.DatasetDict(train=saved(), other=saved()).save_to_disk(home)
    return HuggingFace(str(home), side=8)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("unlabelled", r"1 of 12 rows have no class in the column 'label' \(row 3\)"),
        ("damaged picture", "set, row 3: not a readable picture"),
        ("damaged file", r"test\.parquet: found no whole table"),
        ("no pictures", "found no column of pictures, expected one"),
        ("only train", "found train/ alone, expected test/ or val/ too"),
    ],
)
def test_mistakes_are_one_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        broken(tmp_path, name).load("test", Place())


def test_unreadable_pictures_are_left_out_on_demand(tmp_path: Path) -> None:
    data = broken(tmp_path, "damaged picture")
    images = load_checked(data, "test", Place(skip_unreadable=True))
    assert (len(images.images), images.labels is not None and len(images.labels)) == (11, 11)
    assert any("1 unreadable pictures are left out (set, row 3)" in note for note in images.notes)


@pytest.mark.parametrize("form", ["saved", "parquet", "splits"])
def test_such_a_folder_is_an_outlier_set_without_classes(form: str, few: ImageSet, tmp_path: Path) -> None:
    table, folder = saved().remove_columns("label"), tmp_path / "strange"
    if form == "parquet":
        folder.mkdir()
        table.to_parquet(folder / "rows.parquet")
    elif form == "splits":
        hf.DatasetDict({"train": saved(5, 1).remove_columns("label"), "test": table}).save_to_disk(folder)
    else:
        table.save_to_disk(folder)
    side = few.images.shape[-1]
    outliers = ImageSource(few, Place(root=tmp_path)).images(View("strange/", labelled=False))
    transform = Compose([Resize(side), CenterCrop(side)])
    expected = [np.asarray(transform(row["image"].convert("RGB"))).transpose(2, 0, 1) for row in table]
    np.testing.assert_array_equal(outliers.images, np.stack(expected))
    assert (outliers.labels, outliers.name) == (None, "strange")
