from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.execution.measuring import scored
from evalsuite.types import Score

LABELS = np.array([0, 1, 2, 3, 0, 0])
ONE_HOT = np.eye(4)[LABELS]  # as logits times a number, since rows that sum to 1 look like a softmax


def by_metric(scores: tuple[Score, ...]) -> dict[str, float | None]:
    assert {(score.condition, score.n, score.group) for score in scores} == {("clean", 6, "")}
    assert [list(score.evidence) for score in scores] == [["test"]] * 3
    return {score.metric: score.value for score in scores}


@pytest.mark.parametrize(
    ("table", "accuracy", "nll"),
    [
        (5 * ONE_HOT, 1, -math.log(math.e**5 / (math.e**5 + 3))),
        (-5 * ONE_HOT, 0, 5 + math.log(math.e**-5 + 3)),
        (np.zeros((6, 4)), 3 / 6, math.log(4)),  # all logits equal: the first class is predicted
        (np.tile([0.0, math.log(3), 0, 0], (6, 1)), 1 / 6, math.log(6) - math.log(3) / 6),
        (100 * ONE_HOT, 1, 3 * math.exp(-100)),
    ],
    ids=["the label", "anything but the label", "knows nothing", "always class 1", "very sure"],
)
def test_planted_models(planting: Any, table: np.ndarray[Any, Any], accuracy: float, nll: float) -> None:
    others = np.tile(
        [0.0, 0, 0, 9], (250, 1)
    )  # images that are not in the test: no gate takes it for constant
    scores = by_metric(scored(Accuracy(), planting.bench(LABELS, np.concatenate([table, others]))))
    assert scores == pytest.approx({"accuracy": accuracy, "nll": nll, "agreement": 1}, rel=1e-6, abs=1e-15)


def test_agreement_counts_equal_predictions_right_or_wrong(planting: Any) -> None:
    child, parent = 2 * np.eye(4)[[0, 1, 2, 2, 1, 1]], 2 * np.eye(4)[[0, 1, 3, 2, 1, 0]]
    scores = by_metric(scored(Accuracy(), planting.bench(LABELS, child, parent=parent)))
    assert scores["agreement"] == pytest.approx(4 / 6)
    assert scores["accuracy"] == pytest.approx(3 / 6)


def test_evidence_is_per_image_in_the_order_of_the_images(planting: Any) -> None:
    table = 2 * ONE_HOT
    table[[1, 4]] = [0, 0, 3, 0]
    scores = {
        score.metric: score for score in scored(Accuracy(), planting.bench(LABELS, table, parent=2 * ONE_HOT))
    }
    for metric in ("accuracy", "agreement"):
        assert scores[metric].evidence["test"].tolist() == [True, False, True, True, False, True]
    assert scores["nll"].evidence["test"][1] == pytest.approx(math.log(math.e**3 + 3))


@pytest.mark.parametrize(("classes", "expected"), [(19, None), (20, 0.5)])
def test_the_five_most_likely_classes_count_where_there_are_many(
    planting: Any, classes: int, expected: float | None
) -> None:
    logits = np.zeros((256, classes), np.float32)
    logits[:, :6] = [6, 5, 4, 3, 2, 1]
    logits[4:] = -np.arange(classes)  # what other images show, so that the network looks at them
    labels = np.array([0, 4, 5, 6])
    found = {one.metric: one for one in scored(Accuracy(), planting.bench(labels, logits))}
    assert found["accuracy"].value == 0.25
    assert (found["accuracy_top5"].value if expected else found.get("accuracy_top5")) == expected
