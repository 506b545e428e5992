"""CIFAR-10 and its reproductions, in their published files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.datasets import DATASETS
from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.cifar import Cifar10
from evalsuite.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
LABELS = (np.arange(30) % 10).astype(np.int32)
STEMS = {"cifar10.1": "cifar10.1_v6", "cifar10.1-v4": "cifar10.1_v4"}


def written(folder: Path, name: str, *, pixels: Any = PIXELS, labels: Any = LABELS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if name == "cifar10.2":
        path = folder / "cifar102_test.npz"
        np.savez(path, images=pixels, labels=labels, label_names=np.array([["a", None]], dtype=object))
        return path
    np.save(folder / f"{STEMS[name]}_data.npy", pixels)
    np.save(folder / f"{STEMS[name]}_labels.npy", labels)
    return folder / f"{STEMS[name]}_data.npy"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        *(("cifar10.1", place) for place in ("", "CIFAR-10.1", "CIFAR-10.1/datasets", "cifar10.1")),
        ("cifar10.1-v4", ""),
        *(("cifar10.2", place) for place in ("", "cifar-10.2")),
    ],
)
def test_the_published_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    written(tmp_path / folder, name)
    for other in STEMS:
        if other != name:
            written(tmp_path, other, pixels=PIXELS[:, :, ::-1], labels=LABELS[::-1])
    image_set = load_checked(DATASETS.get(name)(), "test", Place(root=tmp_path))
    assert (image_set.name, image_set.classes) == (name, 10)
    np.testing.assert_array_equal(image_set.images, PIXELS.transpose(0, 3, 1, 2))
    assert image_set.labels is not None
    assert image_set.labels.dtype == np.int64
    np.testing.assert_array_equal(image_set.labels, LABELS)


@pytest.mark.parametrize("name", ["cifar10.1", "cifar10.2"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pixels": PIXELS.astype(np.float32)}, "found float32 of shape .*, expected uint8 of shape"),
        ({"pixels": PIXELS.transpose(0, 3, 1, 2)}, r"found uint8 of shape \(30, 3, 32, 32\), expected"),
        ({"labels": LABELS[:29]}, r"found labels int32 of shape \(29,\), expected 30 integers"),
        ({"labels": LABELS / 2}, "found labels float64"),
        ({"labels": LABELS + 1}, "found labels from 1 to 10, expected 0 to 9"),
    ],
    ids=["float", "channels first", "too few labels", "half labels", "labels from 1"],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, changes: Any, sentence: str) -> None:
    written(tmp_path, name, **changes)
    with pytest.raises(DataError, match=sentence):
        load_checked(DATASETS.get(name)(), "test", Place(root=tmp_path))


def test_missing_files_are_named(tmp_path: Path) -> None:
    for name, file in (("cifar10.1", "cifar10.1_v6_data.npy"), ("cifar10.2", "cifar102_test.npz")):
        with pytest.raises(DataError, match=f"{tmp_path / file}: no such file, nor in "):
            load_checked(DATASETS.get(name)(), "test", Place(root=tmp_path))
        with pytest.raises(DataError, match=f"{file} needs a data folder and none was named"):
            load_checked(DATASETS.get(name)(), "test", Place())
        with pytest.raises(DataError, match=f"data set '{name}' has no split 'train'"):
            load_checked(DATASETS.get(name)(), "train", Place(root=tmp_path))
    written(tmp_path, "cifar10.1").with_name("cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(DataError, match=r"cifar10\.1_v6_labels\.npy: no such file, expected the labels of"):
        load_checked(DATASETS.get("cifar10.1")(), "test", Place(root=tmp_path))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cifar10.1", r"cifar10\.1_v6_data\.npy: found 15 bytes that are no complete NumPy array"),
        ("cifar10.2", r"cifar102_test\.npz: found no arrays 'images' and 'labels'"),
    ],
)
def test_a_web_page_is_refused(tmp_path: Path, name: str, sentence: str) -> None:
    written(tmp_path, name).write_bytes(b"<!doctype html>")
    with pytest.raises(DataError, match=sentence):
        load_checked(DATASETS.get(name)(), "test", Place(root=tmp_path))


def test_an_archive_without_labels_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar102_test.npz", images=PIXELS)
    with pytest.raises(
        DataError, match=r"cifar102_test\.npz: found no arrays 'images' and 'labels' \(.*labels"
    ):
        load_checked(DATASETS.get("cifar10.2")(), "test", Place(root=tmp_path))


@pytest.mark.parametrize("limits", [{"train_limit": -1}, {"test_limit": -8}], ids=str)
def test_a_limit_is_a_count(tmp_path: Path, limits: dict[str, int]) -> None:
    (tmp_path / "cifar10").mkdir()
    np.save(tmp_path / "cifar10" / "test_images.npy", PIXELS)
    np.save(tmp_path / "cifar10" / "test_labels.npy", LABELS)
    with pytest.raises(DataError, match=r"found the limits .*, expected counts, or 0 for all"):
        load_checked(Cifar10(**limits), "test", Place(tmp_path))


def test_a_failed_download_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    calls: list[bool] = []

    def offline(root: str, *, train: bool, download: bool) -> None:  # noqa: ARG001  # torchvision's arguments
        calls.append(download)
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(
        DataError, match=r"^CIFAR10 could not be downloaded to .* \(no route to host\); download it by hand"
    ):
        Cifar10().load("test", Place(tmp_path, download=True))
    assert calls == [True]
