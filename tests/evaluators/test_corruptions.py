from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS, corrupt
from evalsuite.datasets.transforms.corruption import Corruption, frost_textures
from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import float32_evidence
from evalsuite.evaluators.calibration import Calibration
from evalsuite.evaluators.corruptions import ALL, Corruptions
from evalsuite.execution.measuring import scored
from evalsuite.metrics import reliability
from evalsuite.types import Array, ImageSet, Score

rng = np.random.default_rng(0)
LEVELS = rng.integers(40, 216, (70, 1, 1, 1))
PIXELS = (LEVELS + rng.integers(-20, 21, (70, 3, 16, 16))).astype(np.uint8)
LABELS = (LEVELS[:, 0, 0, 0] > 128).astype(np.int64)
IMAGES = ImageSet("bright or dark", PIXELS, LABELS, 2)


class Brightness(nn.Module):
    """A classifier by brightness."""

    def __init__(self, border: float = 0.5) -> None:
        super().__init__()
        self.border = border

    def forward(self, images: Tensor) -> Tensor:
        excess = 8 * (images.mean((1, 2, 3)) - self.border)
        return torch.stack([-excess, excess], 1)


def right(images: Array) -> Array:
    """Whether `Brightness` classifies each image correctly, computed with numpy alone."""
    found: Array = (images.reshape(len(images), -1).mean(1) / 255 > 0.5) == LABELS
    return found


def bench(root: Path | None = None, *, seed: int = 0) -> Bench:
    shown = ImageSource(IMAGES, Place(root=root, seed=seed))
    return Bench(Brightness(), shown, parent=Bench(Brightness(0.45), shown))


def found(scores: tuple[Score, ...], metric: str = "accuracy") -> dict[str, Score]:
    return {score.condition: score for score in scores if score.metric == metric}


@pytest.fixture
def textures(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "frost").mkdir()
    for number in range(1, 6):
        picture = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "frost" / f"frost{number}.png")
    frost_textures.cache_clear()
    yield tmp_path
    frost_textures.cache_clear()


def test_every_score_is_that_of_the_corrupted_images() -> None:
    scores = found(scored(Corruptions((2, 5), ("brightness", "contrast", "fog")), bench(seed=4)))
    for kind in ("brightness", "contrast", "fog"):
        for severity in (2, 5):
            expected = right(corrupt(PIXELS, kind, severity, seed=4))
            one = scores[f"{kind}/{severity}"]
            np.testing.assert_array_equal(one.evidence["test"], expected)
            assert one.value == pytest.approx(expected.mean())
            assert (one.n, one.group) == (70, "corruptions")
    assert scores["brightness/5"].value != scores["contrast/2"].value


@pytest.mark.parametrize("photographed", [False, True], ids=["synthetic frost", "photographs of frost"])
def test_the_mean_leaves_out_synthetic_frost(textures: Path, photographed: bool) -> None:
    root, name = (textures, "frost") if photographed else (None, "frost-synthetic")
    for metric in ("accuracy", "nll", "agreement"):
        scores = found(scored(Corruptions((3, 4), ("frost", "fog")), bench(root)), metric)
        means = {"corruptions", "weather corruptions"}
        assert set(scores) == {f"{name}/3", f"{name}/4", "fog/3", "fog/4"} | means
        assert scores[f"{name}/3"].group == ("corruptions" if photographed else "")
        assert {scores[one].group for one in means} == {""}
        counted = [
            one for condition, one in scores.items() if condition[:4] in ("fog/", name[:4] * photographed)
        ]
        assert len(counted) == (4 if photographed else 2)
        per_image = np.mean([one.evidence["test"].astype(float) for one in counted], axis=0)
        np.testing.assert_allclose(scores["corruptions"].evidence["test"], per_image)
        assert scores["corruptions"].value == pytest.approx(np.mean([one.value for one in counted]))
        assert scores["corruptions"].n == 70


def test_a_mean_over_fewer_than_fifteen_is_flagged(textures: Path) -> None:
    """With synthetic frost there are 14 kinds: that is another number than the published one."""
    flags = {one.condition: one.flags for one in scored(Corruptions(), bench()) if one.metric == "accuracy"}
    sentence = (
        "over 14 of the 15 corruptions (without frost): not the published mean, so compare it only with others over "
        "the same."
    )
    assert {condition for condition, found in flags.items() if found} == {
        "corruptions",
        "weather corruptions",
    }
    assert flags["corruptions"] == (sentence,)
    assert flags["weather corruptions"] == (sentence.replace("14 of the 15", "3 of the 4"),)
    over = {one.condition: one.flags for one in scored(Corruptions(), bench()) if one.metric == ALL.name}
    assert set(over.values()) == {(sentence,)}
    shifted = scored(Calibration(corruptions=True, severities=(5,), held_out="cross-fit"), bench())
    means = [one for one in shifted if one.condition == Calibration()._group and not one.reason]
    assert means
    assert all("(without frost), severity 5 alone" in " ".join(one.flags) for one in means)
    assert not any(one.flags for one in scored(Corruptions(), bench(textures)))
    few = scored(Corruptions((1, 3), ("fog", "snow", "contrast")), bench(textures))
    ratios = {"accuracy_worst_corruption", "mce_parent", "relative_mce_parent"}
    over_all = [one for one in few if one.condition == "corruptions" and not one.reason]
    assert ratios - {one.metric for one in over_all} <= {one.metric for one in few if one.reason}
    (short,) = {one.flags for one in over_all}
    assert short == (
        "over 3 of the 15 corruptions (without gaussian_noise, shot_noise, impulse_noise and 9 more), severity 1, 3 "
        "alone: not the published mean, so compare it only with others over the same.",
    )


def test_synthetic_frost_alone_has_no_mean() -> None:
    scores = scored(Corruptions((3,), ("frost",)), bench())
    assert {score.condition for score in scores} == {"frost-synthetic/3"}
    assert {score.metric for score in scores} == {"accuracy", "nll", "agreement", "ece_equal_width"}


def test_all_fifteen_at_all_severities_are_the_default() -> None:
    needs = Corruptions().needs
    assert (len(needs), len(set(needs))) == (76, 76)
    assert needs[0] == View()
    wanted = [Corruption(kind, level) for kind in CORRUPTIONS for level in range(1, 6)]
    assert [view.transform for view in needs[1:]] == wanted


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"severities": ()}, r"corruptions: found severities \[\], expected some of 1 to 5"),
        ({"severities": (0, 3)}, r"corruptions: found severities \[0, 3\], expected some of 1 to 5"),
        ({"severities": (3, 3)}, "corruptions: 3 is in severities twice; name each once"),
        ({"kinds": ("fogg",)}, "unknown corruption 'fogg': did you mean 'fog'"),
        ({"kinds": ()}, "corruptions: found no kinds, expected at least one"),
        ({"kinds": ("spatter",)}, "unknown corruption 'spatter'.* extra = true adds it, outside the mean"),
        ({"folder": "mine"}, "corruptions: found folder = 'mine', which needs source = 'official'"),
        ({"kinds": ("fog", "snow", "fog")}, "corruptions: fog is in kinds twice; name each once"),
    ],
    ids=[
        "no severity",
        "severity 0",
        "severity twice",
        "unknown kind",
        "no kind",
        "extra",
        "folder",
        "kind twice",
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}"):
        Corruptions(**settings)


def test_evidence_of_corrupted_sets_is_float32_and_no_confidence_leaves_its_bin() -> None:
    edges = np.arange(1, 16) / 15
    sure = np.column_stack([np.append(edges, 0.123), np.ones(16)])
    kept = float32_evidence(Score("ece_equal_width", "fog/1", evidence={"test": sure})).evidence["test"]
    assert kept.dtype.name == "float32"
    assert (kept <= sure).all()
    np.testing.assert_allclose(kept, sure, rtol=2e-7)
    counts = [[one.count for one in reliability(*table.T)] for table in (sure, kept)]
    assert counts[0] == counts[1]
    right = np.array([True, False])
    assert float32_evidence(Score("accuracy", "fog/1", evidence={"test": right})).evidence["test"] is right
