"""ImageNet and the sets of its classes, on small trees in their official layouts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torch import nn

import evalsuite
from evalsuite.config.options import Options
from evalsuite.datasets import DATASETS
from evalsuite.datasets.base import Place, digest, load_checked
from evalsuite.datasets.imagenet import ImageNet, ImageNetA, ImageNetO, ImageNetR, subset_rule, wnids
from evalsuite.errors import DataError
from evalsuite.types import ImageSet

SIDE = 16
A = tuple(wnids()[index] for index in (6, 11, 13))
"""The first of the 200 classes of ImageNet-A."""


def picture(path: Path, pixel: int) -> None:
    """A picture whose first pixel is a number; of whatever suffix, without loss."""
    values = np.random.default_rng(pixel).integers(64, 192, (SIDE, SIDE, 3), dtype=np.uint8)
    values[0, 0] = pixel
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, "PNG")


def loaded(name: str, root: Path, **settings: Any) -> ImageSet:
    return load_checked(DATASETS.get(name)(**settings), "test", Place(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures of each of four classes of ImageNet (0, 6, 11, 999), and three of ImageNet-A."""
    for place, index in enumerate((0, 6, 11, 999)):
        for number in range(2):
            picture(
                tmp_path / "imagenet" / "val" / wnids()[index] / f"ILSVRC2012_val_{place}{number}.JPEG",
                2 * place + number,
            )
    for place, wnid in enumerate(A):
        picture(tmp_path / "imagenet-a" / wnid / f"0.00{place}_x_0.9.jpg", 20 + place)
    return tmp_path


def test_classes_are_the_places_of_sorted_wnids(root: Path) -> None:
    images = loaded("imagenet", root)
    assert images.labels is not None
    assert (images.labels.tolist(), images.classes) == ([0, 0, 6, 6, 11, 11, 999, 999], 1000)
    assert (images.names[0], images.rule, images.name) == ("n01440764", None, "imagenet")
    assert [*wnids()] == sorted(wnids())


def test_the_flat_archive_takes_the_labels_of_the_development_kit(tmp_path: Path) -> None:
    kit = tmp_path / "imagenet" / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    for number in (1, 2, 3):
        picture(tmp_path / "imagenet" / "val" / f"ILSVRC2012_val_0000000{number}.JPEG", number)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n1\n490\n")
    rows = [(1, wnids()[7]), (490, wnids()[65])]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O")])
    savemat(kit / "meta.mat", {"synsets": synsets})
    images = loaded("imagenet", tmp_path)
    assert images.labels is not None
    assert images.labels.tolist() == [65, 7, 65]
    (kit / "meta.mat").unlink()
    with pytest.raises(DataError, match=r"found no meta\.mat and ILSVRC2012_validation"):
        loaded("imagenet", tmp_path)


def test_v2_has_numbers_for_folders(tmp_path: Path) -> None:
    for number in (0, 2, 10, 999):
        picture(tmp_path / "imagenetv2-matched-frequency-format-val" / str(number) / "a.jpeg", number % 256)
    images = loaded("imagenet-v2", tmp_path)
    assert images.labels is not None
    assert (images.labels.tolist(), images.images[:, 0, 0, 0].tolist()) == (
        [0, 10, 2, 999],
        [0, 10, 2, 999 % 256],
    )
    with pytest.raises(DataError, match=r"imagenetv2-top-images-format-val has 0 folders"):
        loaded("imagenet-v2", tmp_path, variant="top-images")


def test_sketch_r_and_a_are_labelled_by_wnid(root: Path) -> None:
    picture(root / "sketch" / wnids()[3] / "sketch_1.JPEG", 1)
    picture(root / "sketch" / wnids()[1] / "sketch_2.JPEG", 2)
    sketch = loaded("imagenet-sketch", root)
    assert sketch.labels is not None
    assert (sketch.labels.tolist(), sketch.classes) == ([1, 3], 1000)
    adversarial = loaded("imagenet-a", root)
    assert adversarial.labels is not None
    assert (adversarial.labels.tolist(), adversarial.classes) == ([0, 1, 2], 200)
    assert adversarial.rule is not None
    assert (adversarial.rule.kind, adversarial.rule.outputs, adversarial.rule.indices[:3]) == (
        "subset",
        1000,
        (6, 11, 13),
    )
    assert ImageNetA.filtered
    assert not ImageNetR.filtered


def test_the_indices_are_those_that_timm_lists() -> None:
    spec = importlib.util.find_spec("timm")
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "data" / "_info"
    for letter in "ar":
        expected = tuple(map(int, (folder / f"imagenet_{letter}_indices.txt").read_text().split()))
        names = (folder / f"imagenet_{letter}_synsets.txt").read_text().split()
        assert subset_rule(names, "").indices == expected


def test_folders_that_are_no_class_are_refused(root: Path) -> None:
    picture(root / "imagenet-a" / "n00000000" / "x.jpg", 1)
    with pytest.raises(
        DataError, match=r"imagenet-a has 1 folders that are none of its 200 classes \(n00000000\)"
    ):
        loaded("imagenet-a", root)
    with pytest.raises(DataError, match=r"found none of imagenet-r under .*imagenet-r:path=FOLDER"):
        loaded("imagenet-r", root)


def test_imagenet_o_is_out_of_distribution_and_its_classes_are_a_subset(root: Path) -> None:
    for wnid in (wnids()[6], wnids()[999]):
        picture(root / "imagenet-o" / wnid / "a.JPEG", 30)
    assert ImageNetO().load("test", Place(root)).labels is None
    images = ImageNet(subset="o").load("test", Place(root))
    assert images.labels is not None
    assert (images.labels.tolist(), images.classes) == ([0, 0, 1, 1], 2)
    assert images.rule is not None
    assert images.rule.indices == (6, 999)
    assert digest(images) != digest(ImageNet().load("test", Place(root)))


def test_a_network_of_a_thousand_classes_is_scored_by_the_official_rule(root: Path, planting: Any) -> None:
    table = np.zeros((32, 1000), np.float32)
    for pixel, index in enumerate((0, 0, 6, 6, 11, 13, 999, 0)):  # image 5 is taken for 13, image 7 for 0
        table[pixel, index] = 5
    table[3, 0] = 9  # image 3 is wrong among the 1000, and right among the 200 of ImageNet-A
    for pixel, (best, second) in enumerate(((0, 6), (11, 6), (6, 13)), start=20):
        table[pixel, best], table[pixel, second] = 9, 5
    found = measured(planting.lookup, table, {"name": "imagenet", "side": SIDE}, root)
    assert found["accuracy", "clean"] == 5 / 8
    assert found["accuracy", "imagenet-a"] == 2 / 3  # masked: 6 and 11 are right, the last is taken for 6
    assert (
        found["gap_to_clean", "imagenet-a"] == 3 / 4 - 2 / 3
    )  # against the clean images of the same classes


def test_a_subset_may_be_the_suites_own_data(root: Path, planting: Any) -> None:
    table = np.zeros((32, 1000), np.float32)
    table[20, 0], table[20, 6], table[21, 11], table[22, 13] = 9, 2, 2, 2
    found = measured(planting.lookup, table, {"name": "imagenet-a", "side": SIDE}, root, tests=["accuracy"])
    assert found["accuracy", "clean"] == 1


def measured(
    lookup: Callable[[Any], nn.Module],
    table: Any,
    data: dict[str, Any],
    root: Path,
    tests: list[Any] | None = None,
) -> dict[tuple[str, str], float]:
    rows = evalsuite.evaluate(
        lookup(table),
        data=data,
        evaluators=tests or ["accuracy", {"name": "shift", "sets": ["imagenet-a"]}],
        options=Options(data_root=root),
    )
    return {(row["metric"], row["condition"]): row["value"] for _, row in rows.iterrows()}
