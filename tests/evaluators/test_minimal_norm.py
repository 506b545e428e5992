from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.specs import AttackRunner
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import SuiteError, UnknownNameError, UserError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.minimal_norm import MinimalNorm
from evalsuite.execution.measuring import measured, scored
from evalsuite.models.exported.program import ExportedProgram, InputSpec, LoadedProgram
from evalsuite.types import ImageSet, Score

rng = np.random.default_rng(0)
PIXELS = rng.integers(96, 160, (31, 3, 8, 8), dtype=np.uint8)
WEIGHTS = rng.normal(size=(3, 8, 8)).astype(np.float32)
SIDE = (WEIGHTS * (PIXELS / 255 - 0.5)).sum((1, 2, 3))
LABELS = np.where(np.arange(31) % 5 == 0, SIDE < 0, SIDE > 0).astype(np.int64)
RIGHT = (SIDE > 0) == LABELS
EXACT = {
    "linf": np.abs(SIDE) * RIGHT / np.abs(WEIGHTS).sum(),
    "l2": np.abs(SIDE) * RIGHT / np.linalg.norm(WEIGHTS),
}


class Plane(nn.Module):
    normal: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("normal", torch.from_numpy(WEIGHTS))

    def forward(self, images: Tensor) -> Tensor:
        side = ((images - 0.5) * self.normal).sum((1, 2, 3))
        return torch.stack([-side, side], 1)


@pytest.fixture
def bench() -> Bench:
    return Bench(Plane(), ImageSource(ImageSet("grey", PIXELS, LABELS, 2), Place()))


def named(scores: tuple[Score, ...]) -> dict[tuple[str, str], Score]:
    return {(one.metric, one.condition): one for one in scores}


def test_the_norms_of_a_plane_are_exact(bench: Bench) -> None:
    scores = named(scored(MinimalNorm(("l2-deepfool", "ddn", "linf-deepfool")), bench))
    assert {condition for _, condition in scores} == {
        "l2-deepfool", "ddn", "linf-deepfool", "nearest l2", "nearest linf"
    }  # fmt: skip
    assert len(scores) == 4 * 5
    for norm, name in (("l2", "l2-deepfool"), ("linf", "linf-deepfool")):
        exact = EXACT[norm]
        median = scores[f"median_{norm}_norm", name]
        np.testing.assert_allclose(median.evidence["test"], exact, rtol=0.0015, atol=2e-4)
        assert (median.evidence["test"] == 0).sum() == (~RIGHT).sum() > 3
        assert median.value == pytest.approx(np.median(exact), rel=0.002)
        assert median.group == "minimal norm"
        right = exact[RIGHT]
        assert scores[f"median_{norm}_norm_right", name].value == pytest.approx(np.median(right), rel=0.002)
        assert scores[f"mean_{norm}_norm_right", name].value == pytest.approx(right.mean(), rel=0.002)
        found = scores[f"{norm}_found", name]
        assert (found.value, found.n, found.flags) == (1, RIGHT.sum(), ())
    each = [scores["median_l2_norm", name].evidence["test"] for name in ("l2-deepfool", "ddn")]
    nearest = scores["median_l2_norm", "nearest l2"].evidence["test"]
    np.testing.assert_array_equal(nearest, np.minimum(*each))


def planted(bench: Bench, monkeypatch: pytest.MonkeyPatch, missing: int) -> dict[str, Score]:
    """Norms that were not found for the first so many right images."""
    norms = np.where(np.cumsum(RIGHT) <= missing, np.inf, 0.25)
    monkeypatch.setattr(AttackRunner, "norms", lambda *_, **__: norms)
    scores = scored(MinimalNorm(("ddn",)), bench)
    return {one.metric: one for one in scores if one.condition == "ddn"}


def test_images_without_an_adversarial_are_farther_than_any_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = int(RIGHT.sum())
    scores = planted(bench, monkeypatch, 3)
    evidence = scores["median_l2_norm"].evidence["test"]
    assert sorted(set(evidence.tolist())) == [0, 0.25, pytest.approx(np.sqrt(192))]
    assert (scores["median_l2_norm"].value, scores["mean_l2_norm_right"].value) == (0.25, 0.25)
    assert scores["l2_found"].value == pytest.approx(1 - 3 / total)
    sentence = f"ddn found no adversarial for 3 of {total} images."
    assert {one.flags for one in scores.values()} == {(sentence,)}


def test_half_without_an_adversarial_leaves_no_median(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    total = int(RIGHT.sum())
    scores = planted(bench, monkeypatch, 16)
    assert scores["median_l2_norm"].reason == "no adversarial was found for 16 of 31 images"
    assert scores["median_l2_norm_right"].reason == f"no adversarial was found for 16 of {total} images"
    assert scores["mean_l2_norm_right"].value == 0.25
    scores = planted(bench, monkeypatch, total)
    assert scores["mean_l2_norm_right"].reason == f"no adversarial was found for {total} of {total} images"
    assert scores["l2_found"].value == 0


def test_only_the_first_images(bench: Bench) -> None:
    score = scored(MinimalNorm(("linf-deepfool",), images=10), bench)[0]
    assert (list(score.evidence), score.n) == (["test[:10]"], 10)


def test_a_model_that_is_never_right_has_a_median_of_zero() -> None:
    wrong = Bench(Plane(), ImageSource(ImageSet("grey", PIXELS, (SIDE < 0).astype(np.int64), 2), Place()))
    scores = named(scored(MinimalNorm(("ddn",)), wrong))
    assert scores["median_l2_norm", "ddn"].value == 0
    assert scores["l2_found", "ddn"].reason == "no image is classified correctly"


def test_a_model_without_gradients_is_skipped() -> None:
    program = ExportedProgram(LoadedProgram(Plane(), InputSpec(), "no twin"), "ONNX")
    bench = Bench(program, ImageSource(ImageSet("grey", PIXELS, LABELS, 2), Place()))
    cell = measured(MinimalNorm(), bench)
    assert (cell.status, "ONNX: no twin" in cell.reason) == ("skipped", True)


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"attacks": ()}, SuiteError, "minimal-norm: found no attacks, expected some of ddn, "),
        ({"attacks": ("ddn", "ddn")}, SuiteError, "minimal-norm: ddn is in attacks twice"),
        ({"attacks": ("fgsm",)}, UnknownNameError, "unknown attack 'fgsm'"),
        ({"images": -1}, SuiteError, "minimal-norm: found images = -1"),
        ({"steps": -1}, UserError, "l2-deepfool: steps = -1"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{sentence}"):
        MinimalNorm(**settings)
