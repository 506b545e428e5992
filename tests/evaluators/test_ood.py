from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evalsuite.datasets import DATASETS
from evalsuite.datasets.base import DataSet, Place
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.ood import Ood
from evalsuite.execution.measuring import scored
from evalsuite.types import ImageSet, Score, Split

LABELS = np.arange(40) % 3


@dataclass(frozen=True)
class Strange(DataSet):
    """Images that the look-up table knows from row 100 on."""

    images = ImageSet("strange", np.zeros((1, 3, 16, 16), np.uint8), None, 0)

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # made in memory
        return self.images


@pytest.fixture(autouse=True)
def strange(planting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two registered sets of 25 images each: rows 100 and 150 of the table on."""
    known = dict(DATASETS._loaded)
    for name, start in (("strange", 100), ("stranger", 150)):
        images = planting.numbered(None, classes=25, start=start)
        monkeypatch.setitem(known, name, type(name, (Strange,), {"images": images}))
    monkeypatch.setattr(DATASETS, "_loaded", known)


def table(inside: np.ndarray[Any, Any], outside: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits of three classes whose largest leads by the given margins."""
    rows = np.zeros((256, 3))
    rows[: len(inside), 0] = inside
    rows[100 : 100 + len(outside), 0] = outside
    return rows


def values(scores: tuple[Score, ...], condition: str = "strange") -> dict[str, float]:
    return {one.metric: one.value for one in scores if one.condition == condition and one.value is not None}


def bench(planting: Any, rows: np.ndarray[Any, Any]) -> Bench:
    shown = planting.data(test=planting.numbered(LABELS, classes=3))
    return Bench(planting.lookup(rows), shown)


def test_a_handful_by_hand(planting: Any) -> None:
    """Of 40 known images two are less sure than a third of the strangers: margins rise, so does confidence."""
    inside = np.array([0.5, 2.5] + [9.0] * 38)
    outside = np.array([1.0] * 10 + [2.0] * 5 + [3.0] * 10)
    found = values(scored(Ood(far=("strange",)), bench(planting, table(inside, outside))))
    # pairs in which the stranger is less sure: with 0.5 none, with 2.5 fifteen of 25, with each 9.0 all 25
    auroc = (0 + 15 + 38 * 25) / (40 * 25)
    for detector in (
        "msp",
        "energy",
    ):  # one logit leads and the others are 0: both detectors rank by the margin
        assert found[f"{detector}_auroc"] == pytest.approx(auroc)
        assert found[f"{detector}_fpr95_ood_positive"] == pytest.approx(
            2 / 40
        )  # all 25 flagged: margins up to 3
        # known images are kept from the margin on that keeps 38 of 40: 9; no stranger reaches it
        assert found[f"{detector}_fpr95_id_positive"] == 0


def test_numbers_are_those_of_scikit_learn(planting: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(256, 3)) + 2 * np.eye(3)[np.arange(256) % 3] * (np.arange(256) < 100)[:, None]
    found = values(scored(Ood(far=("strange",)), bench(planting, rows)))
    p = np.exp(rows.astype(np.float32).astype(np.float64))
    scores = {"msp": -(p / p.sum(1, keepdims=True)).max(1), "energy": -np.log(p.sum(1))}
    strangers = np.repeat([0, 1], [40, 25])
    for detector, score in scores.items():
        both = np.concatenate([score[:40], score[100:125]])
        assert found[f"{detector}_auroc"] == pytest.approx(roc_auc_score(strangers, both))
        assert found[f"{detector}_aupr_out"] == pytest.approx(average_precision_score(strangers, both))
        assert found[f"{detector}_aupr_in"] == pytest.approx(average_precision_score(1 - strangers, -both))
    assert found["msp_auroc"] != pytest.approx(found["energy_auroc"])


def test_swapping_inside_and_outside_gives_one_minus_auroc(planting: Any) -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(2, 1, 40), rng.normal(1, 1, 25)
    there = values(scored(Ood(far=("strange",)), bench(planting, table(inside, outside))))
    # the same images in the other roles: 25 known ones, and 25 strangers of 40 are not enough, so take equal sizes
    back = table(outside, inside[:25])
    small = planting.data(test=planting.numbered(LABELS[:25], classes=3))
    again = values(scored(Ood(far=("strange",)), Bench(planting.lookup(back), small)))
    equal = table(inside[:25], outside)
    forth = values(scored(Ood(far=("strange",)), Bench(planting.lookup(equal), small)))
    for detector in ("msp", "energy"):
        assert forth[f"{detector}_auroc"] == pytest.approx(1 - again[f"{detector}_auroc"])
        assert there[f"{detector}_auroc"] > 0.5 > again[f"{detector}_auroc"]


@pytest.mark.parametrize(
    ("margin", "auroc"), [((9.0, 1.5), 1.0), ((1.5, 9.0), 0.0), ((3.0, 3.0), 0.5)], ids=str
)
def test_sure_of_the_known_unsure_of_the_unknown(
    planting: Any, margin: tuple[float, float], auroc: float
) -> None:
    rows = table(np.full(40, margin[0]), np.full(25, margin[1]))
    found = values(scored(Ood(far=("strange",)), bench(planting, rows)))
    assert found["msp_auroc"] == found["energy_auroc"] == auroc


def test_energy_sees_what_the_softmax_does_not(planting: Any) -> None:
    rows = np.zeros((256, 3))
    rows[:40] = [9, 5, 5]
    rows[100:125] = [4, 0, 0]  # the same probabilities
    found = values(scored(Ood(far=("strange",)), bench(planting, rows)))
    assert (found["msp_auroc"], found["energy_auroc"]) == (0.5, 1.0)


def test_scores_have_groups_populations_and_metrics(planting: Any) -> None:
    rows = table(np.full(40, 9.0), np.full(25, 1.5))
    evaluator = Ood(near=("stranger",), far=("strange",), detectors=("energy",))
    scores = scored(evaluator, bench(planting, rows))
    assert {(one.condition, one.group) for one in scores} == {
        ("stranger", "ood-near"),
        ("strange", "ood-far"),
    }
    assert len(scores) == len(evaluator.metrics) * 2 == 10
    for one in scores:
        assert list(one.evidence) == ["test", one.condition]  # in-distribution first
        assert one.n == 40 + 25
    better = {metric.name: metric.higher_is_better for metric in evaluator.metrics}
    assert better == {
        "energy_auroc": True, "energy_aupr_out": True, "energy_aupr_in": True,
        "energy_fpr95_ood_positive": False, "energy_fpr95_id_positive": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "ood: found no image sets, expected names in near or far, for example"),
        (
            {"near": ("letters",), "far": ("letters",)},
            "ood: letters is in near and far twice; name each once",
        ),
        ({"far": ("letters", "letters")}, "ood: letters is in near and far twice; name each once"),
        ({"far": ("leters",)}, "unknown data set 'leters': did you mean 'letters'"),
        (
            {"far": ("letters",), "detectors": ()},
            r"ood: found detectors \[\], expected some of msp, max_logit, ",
        ),
        (
            {"far": ("letters",), "detectors": ("mps",)},
            r"ood: unknown detector 'mps': did you mean 'msp'",
        ),
        (
            {"far": ("letters",), "detectors": ("msp", "msp")},
            "ood: msp is in detectors twice; name each once",
        ),
        ({"far": ("letters",), "images": -1}, "ood: found images = -1, expected a count, or 0 for all"),
        (
            {"far": ("letters",), "fit_images": -1},
            "ood: found fit_images = -1, expected a count, or 0 for all",
        ),
        ({"far": ("letters",), "neighbors": 0}, "ood: found neighbors = 0, expected at least 1"),
    ],
    ids=[
        "no sets",
        "near and far",
        "twice",
        "unknown set",
        "no detector",
        "unknown detector",
        "detector twice",
        "images",
        "fit images",
        "neighbors",
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}"):
        Ood(**settings)
