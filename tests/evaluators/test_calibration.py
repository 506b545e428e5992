from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from evalsuite.bench import Bench
from evalsuite.evaluators.calibration import Calibration
from evalsuite.measuring import scored
from evalsuite.records import Score

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
    return {
        "ece_equal_width": wide,
        "ece_equal_mass": mass,
        "brier": float(np.square(p - np.eye(K)[labels]).sum(1).mean()),
        "nll": float(-np.log(p[place, labels]).mean()),
    }


def test_measures_before_and_after_scaling_by_the_validation_images(planting: Any) -> None:
    found = by_metric(scored(Calibration(), bench(planting)))
    fitted = best_temperature(TABLE[100:200], LABELS[100:200])
    assert found.pop("temperature") == pytest.approx(fitted, rel=1e-6)
    assert 0.6 * OVERSURE < fitted < 1.6 * OVERSURE
    before = expected(TABLE[:N], LABELS[:N])
    del before["nll"]  # is the accuracy test's
    after = expected(TABLE[:N] / fitted, LABELS[:N])
    assert found == pytest.approx(
        before | {f"{name}_scaled": value for name, value in after.items()}, rel=1e-5
    )


def test_each_half_is_scaled_by_the_other_halfs_temperature(planting: Any) -> None:
    found = by_metric(scored(Calibration("cross-fit"), bench(planting)))
    even, odd = slice(0, N, 2), slice(1, N, 2)
    fits = {id(half): best_temperature(TABLE[:N][half], LABELS[:N][half]) for half in (even, odd)}
    honest, leaked = TABLE[:N].astype(np.float64), TABLE[:N].astype(np.float64)
    for half, other in ((even, odd), (odd, even)):
        honest[half] /= fits[id(other)]
        leaked[half] /= fits[id(half)]
    assert found["temperature"] == pytest.approx(np.sqrt(fits[id(even)] * fits[id(odd)]), rel=1e-6)
    for name, value in expected(honest, LABELS[:N]).items():
        assert found[f"{name}_scaled"] == pytest.approx(value, rel=1e-5)
    own = expected(leaked, LABELS[:N])  # what fitting on the images themselves would have claimed
    assert own["nll"] < found["nll_scaled"] - 0.01
    assert own["brier"] < found["brier_scaled"] - 0.001


def test_scaling_changes_no_prediction_and_repairs_only_the_confidence(planting: Any) -> None:
    scores = {one.metric: one for one in scored(Calibration(), bench(planting))}
    before, after = (scores[name].evidence["test"] for name in ("ece_equal_width", "ece_equal_width_scaled"))
    np.testing.assert_array_equal(before[:, 1], after[:, 1])
    assert (after[:, 0] < before[:, 0]).all()
    assert scores["temperature"].n == scores["brier"].n == N
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
    found = by_metric(scored(Calibration(), bench(planting, table)))
    assert found["ece_equal_width"] == pytest.approx(ece, abs=1e-6)


@pytest.mark.parametrize("held_out", ["validation", "cross-fit"])
def test_only_what_is_used_is_asked_for(held_out: Any) -> None:
    splits = [view.split for view in Calibration(held_out).needs]
    assert splits == (["test", "validation"] if held_out == "validation" else ["test"])
    names = [metric.name for metric in Calibration(held_out).metrics]
    assert len(set(names)) == len(names) == 8


def test_without_a_best_temperature_the_rest_is_reported(planting: Any) -> None:
    table = TABLE.copy()
    table[100:200] = 3 * np.eye(K, dtype=np.float32)[LABELS[100:200]]  # all right: the loss falls as T falls
    found = {score.metric: score for score in scored(Calibration(), bench(planting, table))}
    assert found["brier"].value is not None
    for name in ("temperature", "brier_scaled", "ece_equal_width_scaled", "nll_scaled"):
        assert found[name].value is None
        assert "falls for ever" in found[name].reason
