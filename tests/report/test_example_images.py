"""Example images: those that candidates misclassify, corrupted ones, and the file that holds them."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from evalsuite.datasets.base import Place
from evalsuite.datasets.pictures import THUMBNAIL, encode_png
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.errors import DataError
from evalsuite.report import example_images
from evalsuite.report.labels import THIN
from evalsuite.runs.store import Key
from evalsuite.types import ImageSet, Score

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evalsuite.results.run import Run

DENSE = Key("dense", 0, 0.0)


@pytest.fixture
def image_source() -> ImageSource:
    images = np.arange(6 * 3 * 32 * 32, dtype=np.uint64).reshape(6, 3, 32, 32).astype(np.uint8)
    return ImageSource(ImageSet("ours", images, np.arange(6), 6), Place(seed=3))


def test_misclassified_images_are_those_that_most_candidates_get_wrong(
    measured: Callable[[Path], Run], tmp_path: Path, image_source: ImageSource
) -> None:
    plain = image_source.data
    assert isinstance(plain, ImageSet)
    pictures = example_images.misclassified_examples(measured(tmp_path), plain)
    assert [(picture.column, picture.note) for picture in pictures] == [
        ("class 2", f"magnitude at 50{THIN}%, random at 50{THIN}%"),
        ("class 1", f"magnitude at 90{THIN}%"),
        ("class 5", f"random at 50{THIN}%"),
    ]
    shown = np.asarray(Image.open(io.BytesIO(pictures[0].png)))
    assert np.array_equal(np.moveaxis(shown, -1, 0), plain.images[2])


def test_other_images_than_those_measured_are_not_shown(
    measured: Callable[[Path], Run], tmp_path: Path
) -> None:
    fewer = ImageSet("ours", np.zeros((5, 3, 32, 32), np.uint8), np.arange(5), 5)
    with pytest.raises(DataError, match="has 5 test images now, and 6 were measured"):
        example_images.misclassified_examples(measured(tmp_path), fewer)


def test_samples_are_the_pixels_that_were_measured(
    score: Callable[..., Score], run_with: Callable[..., Run], image_source: ImageSource
) -> None:
    names = ("fog/3", "uniform/8:255", "corruptions/3", "fgsm/2:255", "clean")
    scores = [score("accuracy", name, test=np.ones(6)) for name in names]
    pictures = example_images.corrupted_examples(run_with({DENSE: scores}), image_source)
    assert [(picture.row, picture.column) for picture in pictures] == [
        ("", "as it is"), ("fog", "severity 3"), ("uniform noise", "ε = 8/255"),
    ]  # fmt: skip
    plain = image_source.data
    assert isinstance(plain, ImageSet)
    whole = Corruption("fog", 3).apply(plain.images, image_source.place)[0]
    assert np.array_equal(np.moveaxis(np.asarray(Image.open(io.BytesIO(pictures[1].png))), -1, 0), whole)


def test_pictures_are_written_and_read_back(
    measured: Callable[[Path], Run], tmp_path: Path, image_source: ImageSource
) -> None:
    run = measured(tmp_path)
    assert not example_images.examples_are_current(run)
    path = example_images.save_examples(run, image_source)
    assert example_images.examples_are_current(run)
    pictures, missing = example_images.load_examples(tmp_path)
    assert [picture.kind for picture in pictures] == ["misclassified"] * 3
    assert missing["corruption"] == "no corruption and no noise was measured"
    assert "attack" in missing
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"of": "another run"}))
    assert not example_images.examples_are_current(run)


def test_a_file_of_an_earlier_version_is_read_under_present_names(tmp_path: Path) -> None:
    png = base64.b64encode(encode_png(np.zeros((1, 4, 4), np.uint8))).decode()
    old = [
        {"kind": "broken", "row": "", "column": "class 1", "note": "magnitude at 50 %", "png": png},
        {"kind": "corruption", "row": "frost*", "column": "severity 3", "note": "", "png": png},
    ]
    content = {"of": "a run", "pictures": old, "missing": {"attack": "none was run"}}
    (tmp_path / example_images.FILE).write_text(json.dumps(content))
    found, missing = example_images.load_examples(tmp_path)
    assert [(one.kind, one.row) for one in found] == [
        ("misclassified", ""),
        ("corruption", "frost-synthetic"),
    ]
    assert missing == {"attack": "none was run"}
    del content["pictures"]
    content["missing"] = {"broken": "no candidate has it"}
    (tmp_path / example_images.FILE).write_text(json.dumps(content))
    assert example_images.load_examples(tmp_path)[1]["misclassified"] == "no candidate has it"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pictures": [{"png": "?"}]}', '{"pictures": [7]}'])
def test_of_a_damaged_file_only_the_pictures_are_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / example_images.FILE).write_text(text)
    found, missing = example_images.load_examples(tmp_path)
    assert found == ()
    assert set(missing) == {"misclassified", "corruption", "attack"}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 200, 100), (4, 8, 8)])
def test_pictures_are_small(shape: tuple[int, ...]) -> None:
    found = Image.open(io.BytesIO(encode_png(np.full(shape, 0.5, np.float32))))
    assert max(found.size) == min(THUMBNAIL, max(shape))
    assert found.mode == ("L" if shape[0] == 1 else "RGB")
