"""ObjectNet on a small tree with the files of its archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import evalsuite
from evalsuite.config.options import Options
from evalsuite.datasets.base import Place, load_checked
from evalsuite.datasets.objectnet import BORDER, ObjectNet
from evalsuite.errors import DataError

SIDE = 16
FOLDERS = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "tv": "TV"}
SHARED = {"Alarm clock": "analog clock; digital clock", "TV": "television"}
LINES = ("digital clock", "television", "analog clock", "tench")  # in another order than the outputs
OUTPUTS = {"409": 2, "530": 0, "851": 1, "0": 3}


def photo(path: Path, pixel: int) -> None:
    """A picture whose first pixel inside its red border is a number."""
    values = np.random.default_rng(pixel).integers(64, 192, (SIDE, SIDE, 3), dtype=np.uint8)
    values[0, 0] = pixel
    framed = np.full((SIDE + 2 * BORDER, SIDE + 2 * BORDER, 3), (255, 0, 0), np.uint8)
    framed[BORDER:-BORDER, BORDER:-BORDER] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(framed).save(path)


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    archive = tmp_path / "objectnet-1.0"
    for number, name in enumerate(("air_freshener/a", "alarm_clock/b", "alarm_clock/c", "tv/d")):
        photo(archive / "images" / f"{name}.png", 10 + number)
    (archive / "mappings").mkdir()
    for file, content in (
        ("folder_to_objectnet_label.json", FOLDERS), ("objectnet_to_imagenet_1k.json", SHARED),
        ("pytorch_to_imagenet_2012_id.json", OUTPUTS),
    ):  # fmt: skip
        (archive / "mappings" / file).write_text(json.dumps(content))
    (archive / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(LINES))
    return tmp_path


def test_shared_classes_without_the_border_and_many_outputs_to_one(root: Path) -> None:
    images = load_checked(ObjectNet(side=SIDE), "test", Place(root))
    assert images.labels is not None
    assert (images.names, images.labels.tolist()) == (("alarm_clock", "tv"), [0, 0, 1])
    assert images.images[:, 0, 0, 0].tolist() == [11, 12, 13]
    assert images.rule is not None
    mapped = {output: label for output, label in enumerate(images.rule.indices) if label >= 0}
    assert mapped == {409: 0, 530: 0, 851: 1}


def test_an_answer_is_right_if_its_output_means_the_class(root: Path, planting: Any) -> None:
    for pixel, folder in enumerate(("n01440764", "n02708093", "n04404412")):
        path = root / "imagenet" / "val" / folder / "a.png"
        path.parent.mkdir(parents=True)
        values = np.full((SIDE, SIDE, 3), pixel, np.uint8)
        Image.fromarray(values).save(path)
    table = np.zeros((32, 1000), np.float32)
    for pixel, output in enumerate((0, 409, 851)):
        table[pixel, output] = 5
    table[11, 530] = 5  # a digital clock is a clock
    table[12, 409], table[12, 0] = 5, 9  # a tench is none of the classes, whatever comes second
    table[13, 851] = 5
    rows = evalsuite.evaluate(
        planting.lookup(table), data={"name": "imagenet", "side": SIDE},
        evaluators=["accuracy", {"name": "shift", "sets": ["objectnet"]}], options=Options(data_root=root),
    )  # fmt: skip
    found = {(row["metric"], row["condition"]): row["value"] for _, row in rows.iterrows()}
    assert found["accuracy", "objectnet"] == pytest.approx(2 / 3)
    assert found["gap_to_clean", "objectnet"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("file", ["objectnet_to_imagenet_1k.json", "imagenet_to_label_2012_v2"])
def test_missing_mappings_are_named(file: str, root: Path) -> None:
    (root / "objectnet-1.0" / "mappings" / file).unlink()
    with pytest.raises(
        DataError, match=r"mappings: found no folder_to_objectnet_label\.json.*unpack the archive"
    ):
        ObjectNet(side=SIDE).load("test", Place(root))
