from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import check_epsilons
from evalsuite.evaluators.noise import Noise
from evalsuite.execution.measuring import measured, scored
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.inference import BATCH_SIZE
from evalsuite.types import Array, ImageSet, Score

LABELS = np.arange(70) % 3
TABLE = 4 * np.eye(3)[LABELS]


def shown(model: Any, count: int) -> Tensor:
    """The images that a look-up model met last."""
    return torch.cat(model.seen[-count // BATCH_SIZE :])[:count]


def test_parent_and_child_get_the_same_noise(planting: Any) -> None:
    child, fewer = planting.bench(LABELS, TABLE, parent=TABLE), planting.bench(LABELS[:66], TABLE)
    for bench in (child, fewer):
        scored(Noise(epsilons=(0.25,)), bench)
    images = child.image_source.images(Noise().needs[0].__class__()).images
    expected = torch.from_numpy(RandomNoise("uniform", 0.25).apply(images, Place(seed=0)))
    assert torch.equal(shown(child.model, 70), expected)
    assert torch.equal(shown(child.parent.model, 70), expected)
    assert torch.equal(shown(fewer.model, 66), expected[:66])  # how many images follow does not matter


def test_scores_are_those_of_the_noisy_images(planting: Any) -> None:
    """Less than half a level of noise leaves each image its number; ten levels mix the first three up."""
    wrong = TABLE.copy()
    wrong[:7] = wrong[:7, [1, 2, 0]]
    scores = scored(Noise(epsilons=(0.25, 0.4)), planting.bench(LABELS, wrong, parent=TABLE))
    assert [(one.metric, one.condition, one.n, one.group) for one in scores] == [
        (metric, f"uniform/{epsilon}:255", 70, "noise")
        for epsilon in ("0.25", "0.4")
        for metric in ("accuracy", "nll", "agreement", "softmax_distance")
    ]
    log_partition = np.log(np.exp(4) + 2)
    for one in scores:
        apart = np.sqrt(2) * (np.exp(4) - 1) / np.exp(log_partition)  # two classes change places
        expected = {
            "accuracy": 63 / 70, "agreement": 63 / 70, "nll": log_partition - 4 * 63 / 70,
            "softmax_distance": apart * 7 / 70,
        }[one.metric]  # fmt: skip
        assert one.value == pytest.approx(expected, rel=1e-6)
    mixed = {one.metric: one.value for one in scored(Noise(epsilons=(10,)), planting.bench(LABELS, TABLE))}
    assert mixed["accuracy"] is not None
    assert mixed["accuracy"] < 0.8


@pytest.mark.parametrize("epsilons", [(), (0.0,), (-1.0, 4.0), (256.0,), (float("nan"),)], ids=str)
def test_epsilons_must_be_radii(epsilons: tuple[float, ...]) -> None:
    with pytest.raises(
        SuiteError, match=r"^noise: found epsilons = \[.*, expected at least one number in \(0, 255\]"
    ):
        Noise(epsilons)


def test_no_condition_is_there_twice() -> None:
    with pytest.raises(SuiteError, match=r"^noise: 8 is in epsilons twice; name each once$"):
        Noise((8, 4.0, 8.0))
    check_epsilons("attack", (0.25, 255))


rng = np.random.default_rng(3)
SLOPE = rng.normal(size=(3, 8, 8)).astype(np.float32)


class Plane(nn.Module):
    """Separates normalised images by a plane."""

    normal: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("normal", torch.from_numpy(SLOPE))

    def forward(self, images: Tensor) -> Tensor:
        side = (images * self.normal).sum((1, 2, 3))
        return torch.stack([-side, side], 1)


def planes(count: int, *, margin: float) -> tuple[Bench, Array]:
    """A linear model on greys that no small noise clips, and the margin of each image in units of the noise."""
    grey = rng.integers(120, 136, (count, 3, 8, 8)).astype(np.uint8)
    mean, std = [0.5, 0.49, 0.51], [0.2, 0.25, 0.3]
    scaled = (grey / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    side = (scaled * SLOPE).sum((1, 2, 3))
    labels = (side > 0).astype(np.int64)
    model = Normalized(Plane(), mean=mean, std=std)
    bench = Bench(model, ImageSource(ImageSet("grey", grey, labels, 2), Place()))
    return bench, np.abs(side) / margin


def accuracies(scores: tuple[Score, ...]) -> dict[str, Score]:
    return {one.condition: one for one in scores if one.metric == "accuracy"}


def test_gaussian_noise_on_a_plane_has_a_closed_form() -> None:
    """P(right) = Phi(margin / (sigma |w|)), with and behind the normalisation."""
    std = np.reshape([0.2, 0.25, 0.3], (3, 1, 1))
    for space, sigma, length in (
        ("pixels", 8.0, 8 / 255 * np.linalg.norm(SLOPE / std)),
        ("normalised", 0.15, 0.15 * np.linalg.norm(SLOPE)),
    ):
        bench, margins = planes(600, margin=float(length))
        noise = Noise((sigma,), ("gaussian",), draws=4, space=space)  # type: ignore[arg-type]  # one of the two
        expected = stats.norm.cdf(margins)
        assert 0.6 < expected.mean() < 0.95
        name = "gaussian/8:255" if space == "pixels" else "gaussian normalised/0.15"
        found = accuracies(scored(noise, bench))
        error = np.sqrt((expected * (1 - expected)).sum() / 4) / 600
        assert abs((found[name].value or 0) - expected.mean()) < 4 * error
        worst = (expected**4).mean()
        assert abs((found[f"worst of 4 {name}"].value or 0) - worst) < 4 * np.sqrt(worst * (1 - worst) / 600)


def test_uniform_noise_behind_the_normalisation_is_not_clipped() -> None:
    """Noise of half-width 1000 of one pixel decides alone: half of the images are right."""
    bench, _ = planes(500, margin=1.0)
    (found, *_) = scored(Noise((200.0,), space="normalised"), bench)
    assert (found.condition, found.n) == ("uniform normalised/200", 500)
    assert found.value == pytest.approx(0.5, abs=0.1)


def test_mean_and_worst_of_several_draws(planting: Any) -> None:
    """Each draw mixes the look-up model's images up in another way."""
    bench = planting.bench(LABELS, TABLE, parent=TABLE[::-1].copy())
    scores = {(one.metric, one.condition): one for one in scored(Noise((3.0,), draws=3), bench)}
    views = [View(transform=RandomNoise("uniform", 3.0, draw)) for draw in range(3)]
    mine, theirs = ([one.outputs(view) for view in views] for one in (bench, bench.parent))
    right = np.stack([one.correct for one in mine])
    agree = np.stack([a.predictions == b.predictions for a, b in zip(mine, theirs, strict=True)])
    np.testing.assert_allclose(scores["accuracy", "uniform/3:255"].evidence["test"], right.mean(0))
    np.testing.assert_array_equal(
        scores["accuracy", "worst of 3 uniform/3:255"].evidence["test"], right.all(0)
    )
    np.testing.assert_array_equal(
        scores["agreement", "worst of 3 uniform/3:255"].evidence["test"], agree.all(0)
    )
    assert right.all(0).sum() < right.sum(1).min()
    assert {one.group for one in scores.values()} == {"noise", ""}
    alone = accuracies(scored(Noise((3.0,)), bench))
    np.testing.assert_array_equal(alone["uniform/3:255"].evidence["test"], right[0])


def test_distances_and_the_first_percentile_are_those_of_plain_loops(planting: Any) -> None:
    bench = planting.bench(LABELS, TABLE, parent=TABLE[::-1].copy())
    evaluator = Noise((0.7,), draws=200, distances=True)
    scores = {(score.metric, score.condition): score for score in scored(evaluator, bench)}
    assert {name for name, _ in scores} >= {"logit_distance", "logit_distance_linf", "softmax_distance_linf"}
    views = [View(transform=RandomNoise("uniform", 0.7, draw)) for draw in range(200)]
    mine, theirs = ([network.outputs(view) for view in views] for network in (bench, bench.parent))
    agrees = np.stack([a.predictions == b.predictions for a, b in zip(mine, theirs, strict=True)])
    published = np.sort(agrees, axis=0)[int(0.01 * 200)]
    first = scores["agreement", "1st percentile of 200 uniform/0.7:255"].evidence["test"]
    np.testing.assert_array_equal(first, published)
    differences = [
        a.logits - a.logits.mean(1, keepdims=True) - b.logits + b.logits.mean(1, keepdims=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    np.testing.assert_allclose(
        scores["logit_distance", "uniform/0.7:255"].evidence["test"],
        np.mean([np.sqrt((z**2).sum(1)) for z in differences], axis=0), rtol=1e-5,
    )  # fmt: skip
    plain = {score.metric for score in scored(Noise((0.7,), draws=2), bench)}
    assert "logit_distance" not in plain


def test_a_model_is_no_distance_from_itself() -> None:
    bench, _ = planes(40, margin=1.0)
    for space in ("pixels", "normalised"):
        noise = Noise((4.0,), ("uniform", "gaussian"), space=space)
        values = {one.metric: one.value for one in scored(noise, bench)}
        assert (values["softmax_distance"], values["agreement"]) == (0, 1)


def test_an_unknown_normalisation_is_skipped(planting: Any) -> None:
    cell = measured(Noise(space="normalised"), planting.bench(LABELS, TABLE), digest="d")
    assert (cell.status, cell.reason[:40]) == ("skipped", "the model's mean and std are not known, ")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kinds": ()}, "noise: found no kinds, expected uniform, gaussian or both"),
        ({"kinds": ("uniform", "uniform")}, "noise: uniform is in kinds twice; name each once"),
        ({"draws": 0}, "noise: found draws = 0, expected at least 1"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=f"^{sentence}$"):
        Noise(**settings)


def test_the_control_meets_the_same_noise(planting: Any) -> None:
    other = np.roll(TABLE, 1, axis=1) * (np.arange(70) < 35)[:, None] + TABLE * (np.arange(70) >= 35)[:, None]
    parent = planting.bench(LABELS, TABLE)
    parent.set_control(Bench(planting.lookup(other), parent.image_source))
    scores = {(one.metric, one.condition): one for one in scored(Noise(epsilons=(0.25,)), parent)}
    assert scores["agreement", "control uniform/0.25:255"].value == 0.5
    assert scores["agreement", "uniform/0.25:255"].value == 1
    distance = scores["softmax_distance", "control uniform/0.25:255"].evidence["test"]
    assert (distance[35:] == 0).all()
    assert (distance[:35] > 1).all()
    assert ("accuracy", "control uniform/0.25:255") not in scores


def test_a_parent_with_noise_behind_its_normalisation_runs_once(planting: Any, monkeypatch: Any) -> None:
    from evalsuite.evaluators import noise

    model = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)), mean=[0.5] * 3, std=[0.5] * 3)
    images = planting.numbered(LABELS, classes=3)
    parent = Bench(model, planting.data(test=images))
    asked: list[nn.Module] = []
    kept = noise.with_internal_noise

    def counted(model: nn.Module, one: RandomNoise) -> nn.Module:
        asked.append(model)
        return kept(model, one)

    monkeypatch.setattr(noise, "with_internal_noise", counted)
    for _ in range(2):
        scored(Noise(epsilons=(0.1,), space="normalised"), Bench(model, parent.image_source, parent=parent))
    assert len(asked) == 3  # the parent, and each of two candidates
