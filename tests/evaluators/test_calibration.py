from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from evalsuite import metrics
from evalsuite.datasets.transforms.archives import OfficialCorruption
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError, SuiteError
from evalsuite.evaluation import Bench, Outputs
from evalsuite.evaluators.calibration import Calibration, _divide_by, _noise_flags
from evalsuite.execution.measuring import scored
from evalsuite.statistics import bootstrap_weights, paired_drop_interval
from evalsuite.types import Phase, Score

N, K = 90, 3
rng = np.random.default_rng(0)
LABELS = rng.integers(0, K, 256)
OVERSURE = 3.0  # the logits are this many times too large
TABLE = (OVERSURE * (rng.normal(size=(256, K)) + 1.2 * np.eye(K)[LABELS])).astype(np.float32)
TABLE[1:N:2] *= 2  # odd test images are twice as sure as even ones


def by_metric(scores: tuple[Score, ...]) -> dict[str, float]:
    assert {one.condition for one in scores} == {"clean"}
    return {one.metric: one.value for one in scores if one.value is not None}


def bench(planting: Any, table: Any = TABLE) -> Bench:
    test = planting.numbered(LABELS[:N], classes=K)
    validation = planting.numbered(LABELS[100:200], classes=K, start=100)
    return Bench(planting.lookup(table), planting.data(test=test, validation=validation))


def probabilities(logits: Any) -> Any:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def best_temperature(logits: Any, labels: Any) -> float:
    def loss(log_t: float) -> float:
        p = probabilities(logits.astype(np.float64) / np.exp(log_t))
        return float(-np.log(p[np.arange(len(p)), labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 5), method="bounded", options={"xatol": 1e-10}).x))


def expected(logits: Any, labels: Any) -> dict[str, float]:
    p = probabilities(logits.astype(np.float64))
    sure, right = p.max(1), (p.argmax(1) == labels).astype(float)
    place = np.arange(len(p))
    wide = sum(
        abs((sure - right)[(sure > low / 15) & (sure <= (low + 1) / 15)].sum()) for low in range(15)
    ) / len(p)  # fmt: skip
    order = np.argsort(sure, kind="stable")
    mass = sum(abs((sure - right)[part].sum()) for part in np.array_split(order, 15)) / len(p)
    classes = np.eye(K)[labels]
    table = np.column_stack([p, labels]).astype(np.float32)
    floor, limit = metrics.ece_by_chance(sure, seed=0)
    return {
        "ece_equal_width": wide,
        "ece_equal_mass": mass,
        "ece_l2_squared_debiased": float(metrics.ece_l2_squared_debiased(sure, right)),
        "ece_l2_debiased": float(metrics.ece_l2_debiased(sure, right)),
        "ece_smooth": float(metrics.ece_smooth(sure, right)),
        "ece_classwise": float(metrics.ece_classwise(table)),
        "mce": float(metrics.mce(sure, right)),
        "signed_gap": float(p.max(1).mean() - classes[place, p.argmax(1)].mean()),
        "ece_noise_floor": floor,
        "ece_noise_limit": limit,
        "brier": float(np.square(p - np.eye(K)[labels]).sum(1).mean()),
        "nll": float(-np.log(p[place, labels]).mean()),
    }


def test_validation_images_that_the_parent_may_have_been_trained_on_are_flagged(planting: Any) -> None:
    """The last tenth of CIFAR-10's training images is no held-out set for a network that its author trained on all."""
    given, trained = bench(planting), bench(planting)
    trained.history = (Phase("pretraining", 1, 1, 1, "constant", "x"),)
    child = Bench(given.model, trained.image_source, parent=trained)
    flagged = {one.metric: one.flags for one in scored(Calibration(), given) if one.flags}
    assert {name for name in flagged if not name.endswith("_scaled")} <= {"temperature", "ece_equal_width"}
    assert flagged["temperature"] == (
        "The parent may have been trained on the validation images, which are the last of the training images: "
        'then the temperature is too low. held_out = "cross-fit" does not use them.',
    )
    assert all(
        "may have been trained" in flagged[name][0] for name in ("nll_scaled", "ece_equal_width_scaled")
    )
    for one, test in ((trained, Calibration()), (child, Calibration()), (given, Calibration("cross-fit"))):
        assert not any("may have been trained" in flag for score in scored(test, one) for flag in score.flags)


def test_measures_before_and_after_scaling_by_the_validation_images(planting: Any) -> None:
    scores = by_metric(scored(Calibration(), bench(planting)))
    fitted = best_temperature(TABLE[100:200], LABELS[100:200])
    assert scores.pop("temperature") == pytest.approx(fitted, rel=1e-6)
    assert 0.6 * OVERSURE < fitted < 1.6 * OVERSURE
    before = expected(TABLE[:N], LABELS[:N])
    del before["nll"]  # is the accuracy test's
    after = expected(TABLE[:N] / fitted, LABELS[:N])
    assert scores == pytest.approx(
        before | {f"{name}_scaled": value for name, value in after.items()}, rel=1e-5, abs=1e-7
    )


def test_each_half_is_scaled_by_the_other_halfs_temperature(planting: Any) -> None:
    scores = by_metric(scored(Calibration("cross-fit"), bench(planting)))
    even, odd = slice(0, N, 2), slice(1, N, 2)
    fits = {id(half): best_temperature(TABLE[:N][half], LABELS[:N][half]) for half in (even, odd)}
    honest, leaked = TABLE[:N].astype(np.float64), TABLE[:N].astype(np.float64)
    for half, other in ((even, odd), (odd, even)):
        honest[half] /= fits[id(other)]
        leaked[half] /= fits[id(half)]
    assert scores["temperature"] == pytest.approx(np.sqrt(fits[id(even)] * fits[id(odd)]), rel=1e-6)
    for name, value in expected(honest, LABELS[:N]).items():
        assert scores[f"{name}_scaled"] == pytest.approx(value, rel=1e-5, abs=1e-7)
    own = expected(leaked, LABELS[:N])  # what fitting on the images themselves would have claimed
    assert own["nll"] < scores["nll_scaled"] - 0.01
    assert own["brier"] < scores["brier_scaled"] - 0.001


def test_scaling_changes_no_prediction_and_repairs_only_the_confidence(planting: Any) -> None:
    scores = {one.metric: one for one in scored(Calibration(), bench(planting))}
    before, after = (scores[name].evidence["test"] for name in ("ece_equal_width", "ece_equal_width_scaled"))
    np.testing.assert_array_equal(before[:, 1], after[:, 1])
    assert (after[:, 0] < before[:, 0]).all()
    assert scores["brier"].n == N
    assert scores["temperature"].n == 100  # of the validation images, which it is fitted on
    assert not scores["temperature"].evidence


@pytest.mark.parametrize(
    ("margin", "right", "ece"),
    [(np.log(2 * 9), 0.9, 0.0), (np.log(2 * 9), 0.5, 0.4), (np.log(2 * 1.5), 1.0, 0.4)],
    ids=["calibrated", "over-confident", "under-confident"],
)
def test_planted_calibration_errors(planting: Any, margin: float, right: float, ece: float) -> None:
    """A model that is always 90 % (or 60 %) sure and right in the given share of cases."""
    table = np.zeros((256, K), np.float32)
    guess = np.where(np.arange(256) % 10 < 10 * right, LABELS, (LABELS + 1) % K)
    table[np.arange(256), guess] = margin
    table[100:200] = TABLE[100:200]  # any temperature will do
    scores = by_metric(scored(Calibration(), bench(planting, table)))
    assert scores["ece_equal_width"] == pytest.approx(ece, abs=1e-6)


@pytest.mark.parametrize("held_out", ["validation", "cross-fit"])
def test_only_used_image_sets_are_needed(held_out: Any) -> None:
    splits = [view.split for view in Calibration(held_out).needs]
    assert splits == (["test", "validation"] if held_out == "validation" else ["test"])
    names = [metric.name for metric in Calibration(held_out).metrics]
    assert len(set(names)) == len(names) == 11 + 12 + 1


def test_without_a_best_temperature_the_rest_is_reported(planting: Any) -> None:
    table = TABLE.copy()
    table[100:200] = 3 * np.eye(K, dtype=np.float32)[LABELS[100:200]]  # all right: the loss falls as T falls
    found = {score.metric: score for score in scored(Calibration(), bench(planting, table))}
    assert found["brier"].value is not None
    assert len(found) == len(Calibration().metrics)
    for name in (
        "temperature",
        "brier_scaled",
        "ece_equal_width_scaled",
        "nll_scaled",
        "ece_noise_floor_scaled",
    ):
        assert found[name].value is None
        assert "falls for ever" in found[name].reason


def test_an_error_that_may_be_chance_is_flagged(planting: Any) -> None:
    sure = np.zeros((256, K), np.float32)
    guess = np.where(np.arange(256) % 10 < 9, LABELS, (LABELS + 1) % K)
    sure[np.arange(256), guess] = np.log(2 * 9)  # calibrated: 90 % sure, 90 % right
    sure[100:200] = TABLE[100:200]
    scores = {one.metric: one for one in scored(Calibration(), bench(planting, sure))}
    (flag,) = scores["ece_equal_width"].flags
    floor, limit = scores["ece_noise_floor"].value, scores["ece_noise_limit"].value
    assert floor is not None
    assert limit is not None
    assert (
        f"an ECE of 0.000 on 90 images may be chance: a perfectly calibrated network shows {floor:.3f}"
        in flag
    )
    assert f"more than {limit:.3f}" in flag
    assert 0.01 < floor < limit < 0.1
    over = {one.metric: one for one in scored(Calibration(), bench(planting, 5 * sure))}
    assert over["ece_equal_width"].flags == ()


def test_chance_ends_at_the_limit_and_not_at_the_floor() -> None:
    sure = np.array([[0.75, 1.0], [0.75, 0.0]])  # an error of 0.25
    assert len(_noise_flags(sure, 0.1, 0.25)) == 1
    assert _noise_flags(sure, 0.1, 0.24) == ()


def test_with_many_classes_probabilities_are_no_evidence(planting: Any) -> None:
    classes = 101
    labels = np.arange(90) % classes
    table = np.random.default_rng(3).normal(size=(256, classes)).astype(np.float32)
    test = planting.numbered(labels, classes=classes)
    planted = Bench(planting.lookup(table), planting.data(test=test))
    found = {one.metric: one for one in scored(Calibration("cross-fit"), planted)}
    p = probabilities(table[:90].astype(np.float64))
    expected = metrics.ece_classwise(np.column_stack([p, labels]).astype(np.float32))
    assert found["ece_classwise"].value == pytest.approx(float(expected), abs=1e-7)
    assert (found["ece_classwise"].n, dict(found["ece_classwise"].evidence)) == (90, {})


def test_scaling_that_changes_a_prediction_is_a_bug() -> None:
    outputs = Outputs(TABLE[:4], LABELS[:4])
    assert (_divide_by(np.full(4, 2.0))(outputs).predictions == outputs.predictions).all()
    with pytest.raises(ContractError, match="changed a prediction"):
        _divide_by(np.full(4, -2.0))(outputs)


@pytest.mark.parametrize("held_out", ["validation", "cross-fit"])
def test_corruptions_are_scaled_by_the_temperature_of_clean_images(planting: Any, held_out: Any) -> None:
    """The look-up model sees in the first pixel which image it is; brightness changes that, so the outputs."""
    test = Calibration(held_out, corruptions=True, severities=(2,))
    planted = bench(planting)
    scores = {(one.metric, one.condition): one for one in scored(test, planted)}
    clean = {metric: one for (metric, condition), one in scores.items() if condition == "clean"}
    assert {one.condition for one in scores.values() if one.group} == {
        f"{kind}/2" for kind in CORRUPTIONS if kind != "frost"
    }
    outputs = planted.outputs(View(transform=Corruption("brightness", 2)))
    even, odd = np.arange(N) % 2 == 0, np.arange(N) % 2 == 1
    fitted = np.full(N, clean["temperature"].value)
    if held_out == "cross-fit":
        for half, other in ((even, odd), (odd, even)):
            fitted[half] = best_temperature(TABLE[:N][other], LABELS[:N][other])
    wanted = expected(outputs.logits / fitted[:, None], LABELS[:N])
    for name in ("ece_equal_width", "nll", "brier"):
        score = scores[f"{name}_scaled", "brightness/2"]
        assert score.value == pytest.approx(wanted[name], rel=1e-4)
        assert (score.group, score.n, score.evidence) == (
            "calibration-shift",
            N,
            {},
        )  # the mean keeps its own
    assert scores["brier", "brightness/2"].value == pytest.approx(
        expected(outputs.logits, LABELS[:N])["brier"], rel=1e-5
    )
    assert ("ece_equal_width", "brightness/2") not in scores  # the corruption test's


def test_the_mean_over_corruptions_leaves_synthetic_frost_out(planting: Any) -> None:
    scores = scored(Calibration(corruptions=True, severities=(1, 3)), bench(planting))
    for name in ("brier", "brier_scaled", "nll_scaled", "ece_equal_width_scaled"):
        inside = [one.value for one in scores if one.metric == name and one.group == "calibration-shift"]
        (mean,) = (one for one in scores if (one.metric, one.condition) == (name, "calibration-shift"))
        assert len(inside) == 2 * 14
        assert mean.value == pytest.approx(
            np.mean([value for value in inside if value is not None]), rel=1e-6
        )
        assert bool(mean.evidence) == (name != "ece_equal_width_scaled")
    (frost,) = (one for one in scores if (one.metric, one.condition) == ("brier", "frost-synthetic/3"))
    assert frost.group == ""


def test_evidence_of_corrupted_sets_is_there_with_per_image(planting: Any) -> None:
    """The same numbers, and evidence from which an interval of their drop follows; 20 bytes an image."""
    test = Calibration(corruptions=True, severities=(3,))
    plain, whole = (
        {(one.metric, one.condition): one for one in scored(one, bench(planting)) if "/3" in one.condition}
        for one in (test, replace(test, per_image=True))
    )
    assert plain.keys() == whole.keys()
    assert len(whole) == 4 * 15
    for at, score in whole.items():
        assert not plain[at].evidence
        assert score.value == pytest.approx(plain[at].value, rel=1e-6)
        assert {values.dtype for values in score.evidence.values()} == {np.dtype(np.float32)}
    fog = [score for (_, condition), score in whole.items() if condition == "fog/3"]
    assert sum(values.nbytes for score in fog for values in score.evidence.values()) == 20 * N
    parent = whole["ece_equal_width_scaled", "fog/3"].evidence
    worse = {"test": np.column_stack([np.ones(N), parent["test"][:, 1]])}
    metric = next(one for one in test.metrics if one.name == "ece_equal_width_scaled")
    weights = bootstrap_weights({"test": N}, replicates=200, seed=0)
    low, high = paired_drop_interval(metric, parent=parent, candidate=worse, weights=weights)
    assert low < high


def test_corruptions_without_a_best_temperature_have_a_reason(planting: Any) -> None:
    table = TABLE.copy()
    table[100:200] = 3 * np.eye(K, dtype=np.float32)[LABELS[100:200]]
    test = Calibration(corruptions=True, severities=(1,))
    scores = {(one.metric, one.condition): one for one in scored(test, bench(planting, table))}
    assert scores["brier", "fog/1"].value is not None
    assert scores["brier", "calibration-shift"].value is not None
    for condition in ("fog/1", "calibration-shift"):
        assert "falls for ever" in scores["nll_scaled", condition].reason


def test_each_corrupted_set_is_needed_once() -> None:
    views = Calibration("cross-fit", corruptions=True, severities=(1, 5)).needs
    assert len(set(views)) == len(views) == 1 + 2 * 15
    assert View(transform=Corruption("fog", 5)) in views
    official = Calibration("cross-fit", corruptions=True, severities=(5,), source="official").needs
    assert View(transform=OfficialCorruption("fog", 5)) in official
    assert len(official) == 1 + 15
    assert Calibration("cross-fit", source="official").needs == (View(),)


@pytest.mark.parametrize("severities", [(), (0,), (6,), (1, 1)])
def test_severities_are_one_to_five(severities: Any) -> None:
    with pytest.raises(SuiteError, match="severities"):
        Calibration(severities=severities)
