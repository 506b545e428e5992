from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import DataError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.shift import Shift
from evalsuite.execution.measuring import scored
from evalsuite.metrics import ece_equal_width, softmax
from evalsuite.metrics import nll as likelihood
from evalsuite.types import Array, Score

LABELS = np.arange(100) % 4
OURS = (np.arange(40) * 3) % 4
random = np.random.default_rng(0)
TABLE, PARENT = (
    4 * np.eye(4)[np.where(random.random(140) < share, np.concatenate([LABELS, OURS]), random.integers(0, 4, 140))]
    + random.random((140, 4))
    for share in (0.5, 0.8)
)  # fmt: skip


@pytest.fixture
def bench(planting: Any, tmp_path: Path) -> Bench:
    """The table's first 100 rows answer the test images, the next 40 those of the folder `ours`."""
    ours = planting.numbered(OURS, classes=4, start=100)
    (tmp_path / "ours").mkdir()
    np.save(tmp_path / "ours" / "test_images.npy", ours.images.transpose(0, 2, 3, 1))
    np.save(tmp_path / "ours" / "test_labels.npy", OURS)
    shown = ImageSource(planting.numbered(LABELS, classes=4), Place(root=tmp_path))
    return Bench(planting.lookup(TABLE), shown, parent=Bench(planting.lookup(PARENT), shown))


def by_metric(scores: tuple[Score, ...]) -> dict[str, Score]:
    assert {(score.condition, score.group) for score in scores} == {("ours", "shift")}
    return {score.metric: score for score in scores}


@pytest.mark.parametrize("images", [0, 25])
def test_every_number_is_that_of_the_shifted_images(bench: Bench, images: int) -> None:
    scores = by_metric(scored(Shift(("ours/",), images), bench))
    rows = slice(100, 100 + (images or 40))
    logits, labels = TABLE[rows].astype(np.float32), OURS[: images or 40]
    right: Array = logits.argmax(1) == labels
    assert scores["accuracy"].value == pytest.approx(right.mean())
    assert scores["nll"].value == pytest.approx(float(likelihood(logits, labels).mean()), rel=1e-6)
    assert scores["agreement"].value == pytest.approx((logits.argmax(1) == PARENT[rows].argmax(1)).mean())
    assert scores["ece_equal_width"].value == pytest.approx(
        float(ece_equal_width(softmax(logits).max(1), right)), abs=1e-6
    )
    clean = TABLE[:100].argmax(1) == LABELS
    assert scores["gap_to_clean"].value == pytest.approx(clean.mean() - right.mean())
    assert clean.mean() != right.mean()
    population = f"ours[:{images}]" if images else "ours"
    assert list(scores["accuracy"].evidence) == [population]
    assert list(scores["gap_to_clean"].evidence) == ["test", population]
    assert scores["gap_to_clean"].n == 100 + len(labels)


def test_a_registered_set_needs_the_suites_classes(bench: Bench) -> None:
    with pytest.raises(DataError, match="data set 'digits': found 10 classes"):
        scored(Shift(("digits",)), bench)
    assert Shift(("cifar10.1", "ours/")).needs[1].data == "cifar10.1"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, r"shift: found no image sets, expected names, for example sets = \['cifar10\.1'\]"),
        ({"sets": ("cifar10.3",)}, r"unknown data set 'cifar10\.3': did you mean .*; a folder of your own ends with a"),
        ({"sets": ("/",)}, "unknown data set '/'"),
        ({"sets": ("ours/", "ours/")}, "shift: ours is in sets twice"),
        ({"sets": ("ours/",), "images": -1}, "shift: found images = -1, expected a count"),
    ],
    ids=["none", "unknown", "no folder", "twice", "negative"],
)  # fmt: skip
def test_settings_that_mean_nothing(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}"):
        Shift(**settings)
