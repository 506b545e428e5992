"""All detectors together: one pass for all, fitted on training images, left out with a reason where they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.detectors.table import DETECTORS
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.evaluators.calibration import Calibration
from evalsuite.evaluators.ood import FAR, NEAR, Ood
from evalsuite.execution.measuring import scored
from evalsuite.metrics import auroc, evaluate
from evalsuite.statistics.resampling import bootstrap_weights
from evalsuite.types import Score

ALL = tuple(DETECTORS)
LABELS = np.arange(60) % 3
LOGITS = [name for name, detector in DETECTORS.items() if detector.needs == "logits"]
SIDE = 24
"""Of the images: outlier sets follow it, and at 16 and 32 pixels two detectors rank them alike."""
OUTLIERS = (
    View(data="letters", first=40),
    View(data="photographs", first=40),
    View(data="uniform-noise", first=40),
)


class Net(nn.Module):
    """A small network with non-negative features; `dead` of its twelve units never fire."""

    def __init__(self, *, dead: int = 0, tail: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.conv, self.last = nn.Conv2d(3, 12, 3, stride=2), nn.Linear(12, 3)
        self.conv.bias.data += 0.5  # type: ignore[union-attr]  # it has a bias; every unit fires
        self.conv.weight.data[:dead] = 0
        self.conv.bias.data[:dead] = -1  # type: ignore[union-attr]  # it has a bias
        self.tail = tail or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.tail(self.last(torch.relu(self.conv(images)).amax(dim=(2, 3))))
        return found


@pytest.fixture
def image_source(planting: Any) -> ImageSource:
    found: ImageSource = planting.data(
        test=planting.numbered(LABELS, classes=3, side=SIDE),
        train=planting.numbered(np.arange(150) % 3, classes=3, start=90, side=SIDE),
        validation=planting.numbered(LABELS, classes=3, start=60, side=SIDE),
    )
    return found


def ood(**settings: Any) -> Ood:
    usual: dict[str, Any] = {
        "near": ("letters",),
        "far": ("photographs", "uniform-noise"),
        "detectors": ALL,
        "images": 40,
        "fit_images": 120,
    }
    return Ood(**{**usual, **settings})


def by_detector(scores: tuple[Score, ...], measure: str = "auroc") -> dict[str, list[Score]]:
    return {name: [one for one in scores if one.metric == f"{name}_{measure}"] for name in ALL}


def test_one_pass_per_image_set_serves_all_detectors(image_source: ImageSource) -> None:
    bench, evaluator = Bench(Net(), image_source), ood()
    bench.request_features(
        evaluator.features
    )  # as a run does, which knows all evaluators before the first pass
    for each in (Accuracy(), Calibration("cross-fit"), evaluator, ood(detectors=("knn", "msp"))):
        scored(each, bench)
    assert bench.passes == dict.fromkeys((View(), *OUTLIERS, View(split="train", first=120)), 1)
    logits_alone = Bench(Net(), image_source)
    scored(ood(detectors=tuple(LOGITS)), logits_alone)
    assert logits_alone.passes == dict.fromkeys((View(), *OUTLIERS), 1)  # nothing to fit: no training images
    assert logits_alone.outputs(View()).features is None


def test_every_detector_has_every_number(image_source: ImageSource) -> None:
    scores = scored(ood(), Bench(Net(), image_source))
    assert len(scores) == len(ALL) * 5 * 4
    assert not any(one.reason for one in scores)
    areas = {name: [one.value for one in found] for name, found in by_detector(scores).items()}
    assert all(0 <= value <= 1 for values in areas.values() for value in values if value is not None)
    assert len({tuple(values) for values in areas.values()}) == len(ALL)  # no two of them are the same thing
    assert {one.n for one in scores} == {60 + 40, 60 + 40 + 40}


def test_group_means_are_unweighted_and_have_evidence_of_their_own(image_source: ImageSource) -> None:
    scores = scored(
        ood(near=("letters", "gaussian-noise"), detectors=("msp", "knn")), Bench(Net(), image_source)
    )
    table = {(one.metric, one.condition): one for one in scores}
    for (metric, condition), one in table.items():
        if condition in (NEAR, FAR):
            members = [x for x in scores if x.metric == metric and x.group == condition]
            assert len(members) == 2
            assert one.value == pytest.approx(np.mean([member.value for member in members]))
            assert one.group == ""
    mean = table["msp_auroc", FAR]
    assert list(mean.evidence) == ["test", "photographs[:40]", "uniform-noise[:40]"]
    weights = bootstrap_weights({name: len(x) for name, x in mean.evidence.items()}, replicates=20, seed=0)
    replicates = evaluate("mean_auroc", mean.evidence, weights=weights)
    inside, *outside = mean.evidence.values()
    parts = [auroc(inside, x, weights=[weights["test"], weights[name]])
             for name, x in zip(list(mean.evidence)[1:], outside, strict=True)]  # fmt: skip
    np.testing.assert_allclose(replicates, np.mean(parts, axis=0))
    assert replicates.std() > 0


def test_a_group_of_one_set_has_no_mean(image_source: ImageSource) -> None:
    scores = scored(ood(far=("photographs",), detectors=("msp",)), Bench(Net(), image_source))
    assert {one.condition for one in scores} == {"letters", "photographs"}


def test_detectors_are_fitted_on_the_candidates_own_training_images(image_source: ImageSource) -> None:
    bench = Bench(Net(), image_source)
    found = by_detector(scored(ood(detectors=("knn",), neighbors=7), bench))["knn"][0]
    features = bench.outputs(View(split="train", first=120)).features
    inside = bench.outputs(View()).features
    assert features is not None
    assert inside is not None
    unit, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (inside, features))
    expected = np.sort(np.linalg.norm(unit[:, None] - bank, axis=2), axis=1)[:, 6]
    np.testing.assert_allclose(found.evidence["test"], expected, atol=1e-5)
    other = by_detector(scored(ood(detectors=("knn",), neighbors=7), Bench(Net(dead=3), image_source)))[
        "knn"
    ][0]
    assert not np.allclose(other.evidence["test"], expected, atol=1e-3)


def test_without_training_images_fitted_detectors_say_so(image_source: ImageSource) -> None:
    own = ImageSource(image_source.images(View()), Place())
    found = by_detector(scored(ood(), Bench(Net(), own)))
    for name, scores in found.items():
        if DETECTORS[name].needs == "training":
            assert {one.value for one in scores} == {None}
            assert all(
                "no training images to fit the detector on (there are test images only" in x.reason
                for x in scores
            )
            assert len(scores) == 4
        else:
            assert not any(one.reason for one in scores), name


@pytest.mark.parametrize("model", [Net(tail=nn.LogSoftmax(1)), None], ids=["log-probabilities", "look-up"])
def test_without_features_the_logits_go_on(
    planting: Any, image_source: ImageSource, model: nn.Module | None
) -> None:
    rows = np.random.default_rng(0).normal(size=(256, 3))
    bench = Bench(model or planting.lookup(rows), image_source)
    found = by_detector(scored(ood(), bench))
    for name, scores in found.items():
        kind = DETECTORS[name].needs
        reasons = {one.reason for one in scores}
        if kind in ("features", "training"):
            assert all(one.startswith("the model has no penultimate features") for one in reasons), name
        elif name == "energy" and model is not None:
            assert reasons == {
                "the energy is 0 for every image: the model returns log-probabilities; remove its log_softmax"
            }
        elif name == "odin" and model is None:  # a table has no slope
            assert all("no gradient" in one for one in reasons)
        else:
            assert reasons == {""}, name
    assert View(split="train", first=120) not in bench.passes
    assert set(bench.passes.values()) == {1}


def test_dead_units_are_flagged_and_distances_defined(image_source: ImageSource) -> None:
    scores = by_detector(scored(ood(), Bench(Net(dead=5), image_source)))
    for name in ("mahalanobis", "relative_mahalanobis"):
        for one in scores[name]:
            assert one.value is not None
            assert (
                "The covariance of the 12 penultimate features has rank 7 over 120 training images"
                in one.flags[0]
            )
    assert not any(one.flags for one in scores["msp"] + scores["vim"])
    assert not any(one.flags for one in by_detector(scored(ood(), Bench(Net(), image_source)))["mahalanobis"])


def test_zero_features_are_flagged(image_source: ImageSource) -> None:
    training, model = View(split="train", first=120), Net()
    before = Bench(model, image_source)
    before.request_features((training,))
    features = before.outputs(training).features
    assert features is not None
    # what the largest unit of half of the images reaches, so that nothing fires for them
    model.conv.bias.data -= float(np.median(features.max(axis=1)))  # type: ignore[union-attr]  # it has a bias
    scores = by_detector(scored(ood(), Bench(model, image_source)))
    (flag,) = scores["knn"][0].flags
    assert flag.startswith("60 of 120 training images have penultimate features that are all zero")
    assert scores["knn"][0].value is not None


def test_classes_that_the_first_training_images_do_not_show_are_flagged(image_source: ImageSource) -> None:
    scores = by_detector(
        scored(ood(fit_images=2, neighbors=1, detectors=("knn", "msp")), Bench(Net(), image_source))
    )
    assert scores["knn"][0].flags == (
        "The 2 training images that the detector is fitted on show 2 of 3 classes: raise fit_images.",
    )
    assert scores["msp"][0].flags == ()


def test_settings_that_the_images_cannot_meet_are_reasons(image_source: ImageSource) -> None:
    scores = by_detector(scored(ood(neighbors=121), Bench(Net(), image_source)))
    assert scores["knn"][0].reason.startswith("found 120 training images, expected at least 121")
    assert scores["mahalanobis"][0].value is not None


def test_one_outlier_is_enough(image_source: ImageSource) -> None:
    scores = scored(ood(images=1), Bench(Net(), image_source))
    assert {one.value for found in by_detector(scores).values() for one in found} != {None}
    assert not any(one.reason for one in scores)


def test_swapping_what_is_inside_turns_the_area_round(image_source: ImageSource) -> None:
    (one, *_) = by_detector(scored(ood(detectors=("knn",)), Bench(Net(), image_source)))["knn"]
    inside, outside = one.evidence.values()
    assert one.value is not None
    assert float(auroc(outside, inside)) == pytest.approx(1 - one.value)
    assert one.value > 0.9  # letters are unlike grey noise: larger is more out of distribution
