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
from evalsuite.datasets.imagenet import ImageNet, ImageNetA, ImageNetO, ImageNetR, subset_rule
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.archives import OfficialCorruption, list_pictures
from evalsuite.datasets.views import View
from evalsuite.datasets.wordnet_ids import wnids
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
    with pytest.raises(
        DataError, match=r"imagenetv2-top-images-format-val is not there, .*unpack the set there"
    ):
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


CLASSES = (65, 7, 65, 999, 7)
"""Of the first validation images of a small flat archive: not sorted by class, as those of ImageNet are not."""


def flat(root: Path) -> Path:
    """A flat archive, and beside it ImageNet-C's fog in folders by WordNet id, of images with the same first pixel."""
    for number, index in enumerate(CLASSES, start=1):
        name = f"ILSVRC2012_val_{number:08}.JPEG"
        picture(root / "imagenet" / "val" / name, number)
        picture(root / "ImageNet-C" / "weather" / "fog" / "3" / wnids()[index] / name, number)
    list_pictures.cache_clear()
    return root


def kit(root: Path) -> None:
    folder = root / "imagenet" / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    numbers = {65: 490, 7: 1, 999: 2}
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "\n".join(str(numbers[c]) for c in CLASSES)
    )
    rows = [(number, wnids()[index]) for index, number in numbers.items()]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O")])
    savemat(folder / "meta.mat", {"synsets": synsets})


def lines(*texts: str) -> str:
    return "\n".join([*texts, ""])


NAMES = [f"ILSVRC2012_val_{number:08}" for number in range(1, 6)]
PAIRS = [*zip(NAMES, CLASSES, strict=True)]
LISTS: dict[str, tuple[str, str]] = {
    "Caffe": ("imagenet/val.txt", lines(*(f"{name}.JPEG {label}" for name, label in PAIRS))),
    "among the pictures": (
        "imagenet/val/val.txt",
        lines(*(f"val/{name}.JPEG {wnids()[label]}" for name, label in PAIRS)),
    ),
    "Kaggle": (
        "LOC_val_solution.csv",
        lines(
            "ImageId,PredictionString", *(f"{name},{wnids()[label]} 1 2 3 4" for name, label in PAIRS[::-1])
        ),
    ),
    "WordNet ids": (
        "imagenet/imagenet_2012_validation_synset_labels.txt",
        lines(*(wnids()[label] for label in CLASSES)),
    ),
}


@pytest.mark.parametrize("source", ["kit", *LISTS])
def test_flat_images_and_imagenet_c_in_folders_are_paired_by_name(tmp_path: Path, source: str) -> None:
    root = flat(tmp_path)
    if source == "kit":
        kit(root)
    else:
        (root / LISTS[source][0]).write_text(LISTS[source][1])
    images = ImageSource(ImageNet(), Place(root))
    clean, fog = (images.images(View(transform=change)) for change in (None, OfficialCorruption("fog", 3)))
    assert clean.labels is not None
    assert clean.labels.tolist() == [*CLASSES]
    assert clean.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert fog.images[np.arange(5)][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    sample = ImageSource(ImageNet(), Place(root), limit=3)
    clean, fog = (sample.images(View(transform=change)) for change in (None, OfficialCorruption("fog", 3)))
    assert clean.images[:, 0, 0, 0].tolist() == fog.images[:, 0, 0, 0].tolist()


def test_an_unreadable_clean_picture_leaves_the_others_paired(tmp_path: Path) -> None:
    root = flat(tmp_path)
    kit(root)
    (root / "imagenet" / "val" / f"{NAMES[1]}.JPEG").write_bytes(b"cut")
    images = ImageSource(ImageNet(skip_unreadable=True), Place(root))
    fog = images.images(View(transform=OfficialCorruption("fog", 3)))
    assert fog.images[np.arange(4)][:, 0, 0, 0].tolist() == [1, 3, 4, 5]


def test_folders_by_class_are_paired_by_name_too(tmp_path: Path) -> None:
    """Of the corrupted pictures one more is there than of the clean ones, first in its class."""
    flat(tmp_path)
    for number, index in list(enumerate(CLASSES, start=1))[1:]:
        picture(tmp_path / "sorted" / "val" / wnids()[index] / f"{NAMES[number - 1]}.JPEG", number)
    images = ImageSource(ImageNet(path=str(tmp_path / "sorted")), Place(tmp_path))
    clean, fog = (images.images(View(transform=change)) for change in (None, OfficialCorruption("fog", 3)))
    assert clean.images[:, 0, 0, 0].tolist() == fog.images[np.arange(4)][:, 0, 0, 0].tolist() == [2, 5, 3, 4]


def test_pictures_without_a_partner_are_named(tmp_path: Path) -> None:
    root = flat(tmp_path)
    kit(root)
    next(root.glob(f"ImageNet-C/*/*/*/*/{NAMES[2]}.JPEG")).unlink()
    images = ImageSource(ImageNet(), Place(root))
    with pytest.raises(
        DataError, match=rf"no picture of 1 of 5 test images \({NAMES[2]}\), expected one for each"
    ):
        images.images(View(transform=OfficialCorruption("fog", 3)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "ILSVRC2012_val_00000001.JPEG 1000\n",
            "line 1: found '.* 1000', expected a picture",
        ),
        ("ILSVRC2012_val_00000001.JPEG n00000000\n", "line 1: .* 0 to 999 or a WordNet id"),
        ("490\n1\n", "line 1: found the number 490 alone, which may be one of the development kit's"),
        (
            "ILSVRC2012_val_00000001.JPEG 1\n",
            r"val.txt has no label of 4 of 5 pictures .*ILSVRC2012_val_00000002.JPEG",
        ),
    ],
)
def test_lists_of_labels_that_do_not_say_it_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    flat(tmp_path)
    (tmp_path / "imagenet" / "val.txt").write_text(text)
    with pytest.raises(DataError, match=sentence):
        loaded("imagenet", tmp_path)
    (tmp_path / "imagenet" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"nor, beside ILSVRC2012_devkit_t12/data or one of val.txt, LOC_val"):
        loaded("imagenet", tmp_path)
