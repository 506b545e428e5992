from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite import testing
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.sequences import PERTURBATIONS
from evalsuite.errors import DataError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.flips import Flips, flip_rates
from evalsuite.execution.measuring import scored
from evalsuite.types import Array, ImageSet

VIDEOS, FRAMES = 6, 5
PLAIN = ImageSet(
    "cifar10", np.arange(64, dtype=np.uint8)[:, None, None, None].repeat(3, 1) * 4, np.arange(64) % 2, 2
)


class Bright(nn.Module):
    """A classifier: class 1 where an image is brighter than grey, else 0."""

    def forward(self, images: Tensor) -> Tensor:
        excess = 4 * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-excess, excess], 1)


def written(root: Path, kind: str, said: Array) -> None:
    """Writes videos of one pixel on which `Bright` says what it shall, shape (videos, frames)."""
    (root / "CIFAR-10-P").mkdir(exist_ok=True)
    films = np.where(np.asarray(said) == 1, 200, 50).astype(np.uint8)[:, :, None, None, None].repeat(3, 4)
    np.save(root / "CIFAR-10-P" / f"{kind}.npy", films)


@pytest.fixture
def said(tmp_path: Path) -> dict[str, Array]:
    random = np.random.default_rng(0)
    wanted = {kind: (random.random((VIDEOS, FRAMES)) < 0.4).astype(int) for kind in PERTURBATIONS}
    for kind, one in wanted.items():
        written(tmp_path, kind, one)
    return wanted


def bench(root: Path) -> Bench:
    return Bench(Bright(), ImageSource(PLAIN, Place(root=root)))


def counted(predictions: Array, *, noise: bool) -> list[float]:
    """The published loop, with one result per video."""
    rates = []
    for video in predictions:
        previous, flips = video[0], 0
        for frame in video[1:]:
            flips += frame != previous
            if not noise:
                previous = frame
        rates.append(flips / (len(video) - 1))
    return rates


def test_noise_is_compared_with_the_first_frame_and_all_else_with_the_one_before(
    said: dict[str, Array], tmp_path: Path
) -> None:
    scores = {score.condition: score for score in scored(Flips(), bench(tmp_path))}
    expected = {kind: counted(said[kind], noise=kind in ("gaussian_noise", "shot_noise")) for kind in said}
    assert set(scores) == {*(f"{kind} video" for kind in PERTURBATIONS), "videos"}
    for kind, rates in expected.items():
        one = scores[f"{kind} video"]
        np.testing.assert_allclose(one.evidence["CIFAR-10-P"], rates)
        assert one.value == pytest.approx(np.mean(rates))
        assert (one.n, one.group) == (VIDEOS, "videos")
    mean = scores["videos"]
    assert mean.value == pytest.approx(np.mean([np.mean(rates) for rates in expected.values()]))
    assert (mean.n, mean.group) == (VIDEOS, "")
    other = [counted(said[kind], noise=kind not in ("gaussian_noise", "shot_noise")) for kind in said]
    assert not np.allclose(other, list(expected.values()))


def test_by_hand() -> None:
    predictions = np.array([[0, 1, 1, 0], [2, 2, 2, 2], [0, 1, 2, 3]])
    assert flip_rates(predictions, independent=False).tolist() == [2 / 3, 0, 1]
    assert flip_rates(np.array([[0, 1, 1, 1]]), independent=True).tolist() == [1]
    assert flip_rates(np.array([[0, 1, 1, 1]]), independent=False).tolist() == [1 / 3]


def test_a_few_videos_of_a_few_kinds_are_another_population(said: dict[str, Array], tmp_path: Path) -> None:
    test = Flips(("tilt", "scale"), videos=2)
    shown = bench(tmp_path)
    scores = {score.condition: score for score in scored(test, shown)}
    rates = [counted(said[kind][:2], noise=False) for kind in ("tilt", "scale")]
    assert scores["videos"].evidence["CIFAR-10-P[:2]"].tolist() == np.mean(rates, axis=0).tolist()
    assert len(shown.passes) == 2
    assert len(test.needs) == 2


def test_the_contract_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "CIFAR-10-P").mkdir()
    films = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "CIFAR-10-P" / "scale.npy", films)
    shown = ImageSource(testing.FewDigits(), Place(root=tmp_path))
    monkeypatch.setattr(testing, "_image_source", lambda: shown)
    testing.check_evaluator(Flips(("scale",)))


def test_perturbations_must_have_equally_many_videos(said: dict[str, Array], tmp_path: Path) -> None:
    written(tmp_path, "tilt", said["tilt"][:4])
    with pytest.raises(
        DataError, match=r"CIFAR-10-P: found \[4, 6\] videos of tilt, scale, expected equally many"
    ):
        scored(Flips(("tilt", "scale")), bench(tmp_path))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kinds": ("tilted",)}, "unknown perturbation 'tilted': did you mean 'tilt'"),
        ({"kinds": ()}, "flips: found no kinds, expected at least one"),
        ({"kinds": ("tilt", "tilt")}, "flips: tilt is in kinds twice"),
        ({"videos": -1}, "flips: found videos = -1, expected a count, or 0 for all"),
    ],
    ids=["unknown", "none", "twice", "negative"],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}"):
        Flips(**settings)
