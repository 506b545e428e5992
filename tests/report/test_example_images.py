"""Example images: those that candidates misclassify, corrupted ones, and the file that holds them."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

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
from evalsuite.types import Candidate, Cost, ImageSet, Score

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.results.run import Run


DENSE = Key("dense", 0, 0.0)
HALF, MOST = Key("magnitude", 0, 0.5), Key("magnitude", 0, 0.9)
RANDOM = Key("random", 0, 0.5)
KEYS = (DENSE, HALF, MOST, RANDOM)
RIGHT = {
    DENSE: [1, 1, 1, 1, 0, 1],
    HALF: [1, 1, 0, 1, 1, 1],
    MOST: [1, 0, 0, 1, 0, 1],
    RANDOM: [1, 1, 0, 1, 0, 0],
}


def candidate(key: Key) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400)
    ratio = key.target_ratio
    return Candidate(
        key.method, key.seed, ratio, ratio, ratio, cost, f"w{key.method}{ratio}", {"name": "net"}
    )


def score(metric: str, condition: str, group: str = "", **evidence: Any) -> Score:
    arrays = {name: np.asarray(values) for name, values in evidence.items()}
    (first, *_) = arrays.values()
    return Score(metric, condition, float(first.mean()), len(first), arrays, group)


def run(tmp_path: Path, scores: dict[Key, list[Score]], **record: Any) -> Run:
    """What the exhibits look at of a run."""
    known = {(key, one.metric, one.condition): one for key, some in scores.items() for one in some}
    suite = {
        "seeds": [0],
        "producers": [{"label": "magnitude"}],
        "evaluators": [],
        "data": {"name": "digits"},
    }
    made = SimpleNamespace(
        path=tmp_path,
        record={"suite": suite, "inputs": {"a": 1}, **record},
        comparison=SimpleNamespace(scores=known, on_all_images=known),
        candidates={key: candidate(key) for key in KEYS},
        axis="",
        notes=list(record.get("notes") or ()),
        plan=SimpleNamespace(tests=[SimpleNamespace(inputs="a")]),
    )
    return cast("Run", made)


def measured(tmp_path: Path) -> Run:
    clean = {key: [score("accuracy", "clean", test=np.array(RIGHT[key], bool))] for key in KEYS}
    return run(tmp_path, clean)


@pytest.fixture
def image_source() -> ImageSource:
    images = np.arange(6 * 3 * 32 * 32, dtype=np.uint64).reshape(6, 3, 32, 32).astype(np.uint8)
    return ImageSource(ImageSet("ours", images, np.arange(6), 6), Place(seed=3))


def test_misclassified_images_are_those_that_most_candidates_get_wrong(
    tmp_path: Path, image_source: ImageSource
) -> None:
    plain = image_source.data
    assert isinstance(plain, ImageSet)
    found = example_images.misclassified_examples(measured(tmp_path), plain)
    assert [(one.column, one.note) for one in found] == [
        ("class 2", f"magnitude at 50{THIN}%, random at 50{THIN}%"),
        ("class 1", f"magnitude at 90{THIN}%"),
        ("class 5", f"random at 50{THIN}%"),
    ]
    shown = np.asarray(Image.open(io.BytesIO(found[0].png)))
    assert np.array_equal(np.moveaxis(shown, -1, 0), plain.images[2])


def test_other_images_than_those_measured_are_not_shown(tmp_path: Path) -> None:
    fewer = ImageSet("ours", np.zeros((5, 3, 32, 32), np.uint8), np.arange(5), 5)
    with pytest.raises(DataError, match="has 5 test images now, and 6 were measured"):
        example_images.misclassified_examples(measured(tmp_path), fewer)


def test_samples_are_the_pixels_that_were_measured(tmp_path: Path, image_source: ImageSource) -> None:
    names = ("fog/3", "uniform/8:255", "corruptions/3", "fgsm/2:255", "clean")
    scores = [score("accuracy", name, test=np.ones(6)) for name in names]
    found = example_images.corrupted_examples(run(tmp_path, {DENSE: scores}), image_source)
    assert [(one.row, one.column) for one in found] == [
        ("", "as it is"), ("fog", "severity 3"), ("uniform noise", "ε = 8/255"),
    ]  # fmt: skip
    plain = image_source.data
    assert isinstance(plain, ImageSet)
    whole = Corruption("fog", 3).apply(plain.images, image_source.place)[0]
    assert np.array_equal(np.moveaxis(np.asarray(Image.open(io.BytesIO(found[1].png))), -1, 0), whole)


def test_pictures_are_written_and_read_back(tmp_path: Path, image_source: ImageSource) -> None:
    of = measured(tmp_path)
    assert not example_images.examples_are_current(of)
    path = example_images.save_examples(of, image_source)
    assert example_images.examples_are_current(of)
    found, missing = example_images.load_examples(tmp_path)
    assert [one.kind for one in found] == ["misclassified"] * 3
    assert missing["corruption"] == "no corruption and no noise was measured"
    assert "attack" in missing
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"of": "another run"}))
    assert not example_images.examples_are_current(of)


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
