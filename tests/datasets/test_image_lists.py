"""OpenOOD's lists on small trees in its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import evalsuite
from evalsuite.config.options import Options
from evalsuite.datasets import DATASETS
from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.image_lists import LISTS, ImageList
from evalsuite.errors import DataError

SIDE = 16
BENCHMARKS = {
    "cifar10/test_cifar10.txt": ("images_classic", ["cifar10/test/airplane/0001.png 0", "cifar10/test/cat/0002.png 3"]),
    "cifar100/test_tin.txt": ("images_classic", ["tin/test/n02/val_1.png -1"]),
    "imagenet200/test_ninco.txt": ("images_largescale", ["ninco/a/b_1.jpeg -1", "ninco/a/b_0.jpeg -1"]),
    "imagenet/test_imagenet.txt": (
        "images_largescale",
        ["imagenet_1k/val/ILSVRC2012_val_00000002.JPEG 7", "imagenet_1k/val/ILSVRC2012_val_00000001.JPEG 999"],
    ),
    "imagenet/test_ssb_hard.txt": ("images_largescale", ["ssb_hard/n11622368/n11622368_1063.JPEG -1"]),
    "imagenet/test_textures.txt": ("images_classic", ["texture/banded/banded_0002.jpg -1"]),
}  # fmt: skip
"""Lists of the four benchmarks: where their pictures are, and their lines."""


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """OpenOOD's folder ``data``: pictures whose first pixel is their number."""
    number = 0
    for name, (folder, lines) in BENCHMARKS.items():
        file = tmp_path / "benchmark_imglist" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*lines, ""]))
        for line in lines:
            path = tmp_path / folder / line.split(" ")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(number).integers(64, 192, (SIDE, SIDE, 3), dtype=np.uint8)
            values[0, 0] = number
            Image.fromarray(values).save(path, "PNG")
            number += 1
    return tmp_path


@pytest.mark.parametrize(
    ("name", "pixels", "labels"),
    [
        ("cifar10/test_cifar10.txt", [0, 1], [0, 3]), ("cifar100/test_tin.txt", [2], None),
        ("imagenet200/test_ninco.txt", [3, 4], None), ("imagenet/test_imagenet.txt", [5, 6], [7, 999]),
        ("imagenet/test_textures.txt", [8], None),
    ],
)  # fmt: skip
def test_a_list_is_read_in_its_order(
    name: str, pixels: list[int], labels: list[int] | None, root: Path
) -> None:
    images = load_checked(ImageList(f"benchmark_imglist/{name}", side=SIDE), "test", Place(root))
    assert images.images[:, 0, 0, 0].tolist() == pixels
    assert (None if images.labels is None else images.labels.tolist()) == labels
    assert images.classes == (0 if labels is None else max(labels) + 1)
    assert images.name == Path(name).stem


def test_settings_say_where_paths_start_and_how_many_classes_there_are(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("airplane/0001.png 0\ncat/0002.png 3\n")
    images = ImageList(str(own), root="images_classic/cifar10/test", side=SIDE, classes=10, limit=1).load(
        "test", Place(root)
    )
    assert images.labels is not None
    assert (images.labels.tolist(), images.classes) == ([0], 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "found no line"),
        ("a.png\n", r"line 1: found 'a\.png', expected a relative path"),
        ("a.png 0\nb c.png 1\n", r"line 2: found 'b c\.png 1'"),
        ("/a.png 0\n", "expected a relative path"),
        ("a.png -2\n", "or -1 for an outlier"),
        ("a.png 0\nb.png -1\n", r"found 1 outliers \(label -1\) among 2 pictures, expected none or all"),
        ("a.png 0\n", r"names 1 of 1 pictures that are not under .*images_largescale.*\(root\)"),
    ],
)
def test_a_list_that_is_none_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=sentence):
        ImageList("list.txt", side=SIDE).load("test", Place(tmp_path))


def test_lists_of_outliers_have_names(root: Path, planting: Any) -> None:
    table = np.zeros((16, 1000), np.float32)
    table[5, 7], table[6, 999] = 9, 9
    rows = evalsuite.evaluate(
        planting.lookup(table),
        data={"name": "image-list", "path": f"{LISTS}/imagenet/test_imagenet.txt", "side": SIDE, "classes": 1000},
        evaluators=["accuracy", {"name": "ood", "near": ["ssb-hard", "ninco"], "detectors": ["msp"]}],
        options=Options(data_root=root),
    )  # fmt: skip
    found = {(row["metric"], row["condition"]): row["value"] for _, row in rows.iterrows()}
    assert found["accuracy", "clean"] == 1
    assert found["msp_auroc", "ssb-hard"] == found["msp_auroc", "ood-near"] == 1
    with pytest.raises(
        DataError, match=r"'openimage-o': found none of benchmark_imglist/imagenet/test_openimage_o"
    ):
        DATASETS.get("openimage-o")().load("test", Place(root))
