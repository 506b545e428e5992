"""Planted defects: each is named, and none becomes a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.datasets.views import View
from evalsuite.errors import DataError, EvalsuiteError, InvalidModelError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.execution.measuring import measured
from evalsuite.model_checks import check_model, check_preprocessing
from evalsuite.models.architectures.base import Normalized
from evalsuite.types import ImageSet

K = 4
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)


class Net(nn.Module):
    """Logits from two convolutions; `middle` and `end` are where defects go."""

    def __init__(
        self, middle: nn.Module | None = None, end: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.middle = nn.Conv2d(3, 8, 3), middle or nn.Identity()
            self.last = nn.Conv2d(8, K, 6)
        self.end = end or (lambda z: z)

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.last(self.middle(self.first(images))).flatten(1))


class Stubborn(nn.Dropout):
    """Stays in training mode whatever it is told."""

    def train(self, mode: bool = True) -> Stubborn:  # noqa: ARG002  # that is the defect
        return super().train(True)


def bench(planting: Any, model: nn.Module, images: Any = IMAGES) -> Bench:
    labels = np.arange(len(images)) % K
    return Bench(model, planting.data(test=ImageSet("planted", images, labels, K)))


def test_a_sound_model_passes(planting: Any) -> None:
    for middle in (None, nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Dropout()):
        assert bench(planting, Net(middle).train()).outputs(View()).logits.shape == (40, K)
    floats = IMAGES.astype(np.float32) / 255
    assert bench(planting, Net(), floats).outputs(View()).logits.shape == (40, K)


DEFECTS: dict[str, tuple[nn.Module, str]] = {
    "training mode, random": (Net(Stubborn()), r"two forward passes over the same images differ by up to"),
    "training mode, quiet": (Net(Stubborn(0.0)), "middle stays in training mode when the model is put into"),
    "batch statistics": (
        Net(nn.BatchNorm2d(8, track_running_stats=False)),
        r"the logits of an image change by up to [\d.]+ with the other images in its batch; normalise by running",
    ),
    "looks at its neighbours": (Net(end=lambda z: z + z.flip(0)), "the logits of an image change by up to"),
    "probabilities": (
        Net(end=lambda z: z.softmax(1)),
        r"the model returns probabilities \(rows in \[0, 1\] that sum to 1\), expected logits: remove its softmax",
    ),
    "constant": (
        Net(end=lambda z: 0 * z + torch.arange(K)),
        "the model returns the same logits for every image, those of the data and pale negatives of them: nothing",
    ),
    "zeros": (Net(end=lambda z: 0 * z), "the model returns the same logits for every image"),
    "NaN": (Net(end=lambda z: z.log().sqrt()), "the model returns NaN or infinite logits for"),
    "too few classes": (
        Net(end=lambda z: z[:, :2]),
        "the model returns 2 logits per image, but the data set has 4",
    ),
    "one number": (Net(end=lambda z: z[:, 0]), r"the model returns shape \(32,\) for 32 images"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_invalid_and_no_number(planting: Any, defect: str) -> None:
    model, sentence = DEFECTS[defect]
    with pytest.raises(InvalidModelError, match=f"^{sentence}"):
        bench(planting, model).outputs(View())
    cell = measured(Accuracy(), bench(planting, model))
    assert (cell.status, cell.scores) == ("invalid", ())


def test_a_pruned_network_that_nothing_passes_through_is_named(planting: Any) -> None:
    severed = Net()
    nn.init.zeros_(severed.first.weight)
    with pytest.raises(
        InvalidModelError, match=r"check that its weights were loaded, and that no layer is empty$"
    ):
        bench(planting, severed).outputs(View())
    nn.init.constant_(
        severed.first.weight[0, 0, 0, :1].detach(), 1e-3
    )  # one weight: hardly anything, but something
    assert np.ptp(bench(planting, severed).outputs(View()).logits, axis=0).max() > 0


def test_a_collapse_on_the_data_alone_is_a_result_and_no_defect(planting: Any) -> None:
    table = np.zeros((256, K))
    table[:40] = [3.0, 1.0, 0.0, 0.0]  # the same for all forty images, and another for their negatives
    assert planting.bench(np.arange(40) % K, table).outputs(View()).correct.mean() == 0.25


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (
            (IMAGES > 127).astype(np.uint8),
            r"the first 32 test images hold no value above 1 of 255; give uint8 in",
        ),
        (
            (IMAGES / 255 / 255).astype(np.float32),
            r"hold no value above 0.0039\d* of 1, as if they had been divided",
        ),
        (IMAGES.astype(np.float32), r"found float values from 0 to 255, expected \[0, 1\]"),
        ((IMAGES / 255 - 0.5).astype(np.float32), r"found float values from -0.5 to 0.5, expected \[0, 1\]"),
        (IMAGES.astype(np.int32), "found dtype int32, expected uint8"),
        (np.clip(IMAGES[:, 0], 1, 200), r"found shape \(40, 8, 8\), expected"),
    ],
    ids=["cast", "twice", "0 to 255", "normalised", "integers", "no channels"],
)
def test_images_out_of_range(planting: Any, images: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        bench(planting, Net(), images).outputs(View())


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_few_images_are_enough(count: int) -> None:
    def asked(images: Any) -> Any:
        with torch.no_grad():
            return Net()(torch.from_numpy(images).float() / 255).numpy()

    check_model(Net().eval(), asked, IMAGES[:count])
    with pytest.raises(EvalsuiteError, match="same logits"):
        check_model(Net().eval(), lambda images: np.ones((len(images), K)), IMAGES[:count])


def test_small_rounding_by_the_batch_is_allowed() -> None:
    """Integer arithmetic scales by the largest number of a batch."""

    def asked(images: Any) -> Any:
        z = images.reshape(len(images), -1)[:, :K].astype(np.float64)
        return np.round(z / z.max() * 127) * z.max() / 127 + len(images) % 7 * 0.3

    check_model(Net().eval(), asked, IMAGES)


def test_the_same_images_may_have_the_same_logits() -> None:
    white = np.full(
        (5, 3, 8, 8), 204, np.uint8
    )  # 255 - 204 // 4 is 204: its pale negative is the image itself
    check_model(Net().eval(), lambda images: np.ones((len(images), K)), white)


MEAN, STD = (0.6, 0.5, 0.4), (0.3, 0.2, 0.25)


class Threshold(nn.Module):
    """Predicts class 1 where the mean of its input is above a border."""

    def __init__(self, border: float) -> None:
        super().__init__()
        self.border = border

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean(dim=(1, 2, 3)) - self.border
        return torch.stack([-level, level], dim=1) * 5


RAMP = (
    np.random.default_rng(0).integers(0, 256, (300, 3, 8, 8)) * np.linspace(0.2, 1, 300)[:, None, None, None]
)
RAMP = RAMP.astype(np.uint8)
LEVEL = RAMP.mean(axis=(1, 2, 3)) / 255
BORDER = float(np.median(LEVEL))
LABELS = (LEVEL > BORDER).astype(np.int64)


def seen(mean: tuple[float, ...], std: tuple[float, ...]) -> float:
    """The border as a network sees it that was trained behind this preprocessing."""
    return float(np.mean([(BORDER - m) / s for m, s in zip(mean, std, strict=True)]))


@pytest.mark.parametrize(
    ("trained", "given", "warning"),
    [
        ((MEAN, STD), (MEAN, STD), ""),
        (((0.0,) * 3, (1.0,) * 3), (MEAN, STD), "without normalisation"),
        (((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3), "mean and standard deviation 0.5"),
    ],
    ids=["right", "not at all", "another"],
)
def test_a_network_that_was_trained_behind_another_normalisation_is_reported(
    trained: tuple[tuple[float, ...], tuple[float, ...]],
    given: tuple[tuple[float, ...], tuple[float, ...]],
    warning: str,
) -> None:
    model = Normalized(Threshold(seen(*trained)), mean=given[0], std=given[1]).eval()
    warnings = check_preprocessing(model, RAMP, LABELS)
    assert (len(warnings) == 1 and warning in warnings[0]) if warning else not warnings


@pytest.mark.parametrize("odd", [0, 5, 12], ids=["constant", "nearly constant", "less constant"])
def test_no_normalisation_is_recommended_to_a_parent_that_gives_almost_one_class(odd: int) -> None:
    """Three of four images are of class 1, so that giving all of them class 1 is right on more than giving class 0."""
    labels = (np.arange(len(RAMP)) % 4 > 0).astype(np.int64)
    border = (
        seen((0.0,) * 3, (1.0,) * 3) - 0.4
    )  # unnormalised images are above it, normalised ones below but for `odd`
    order = np.sort(((LEVEL - 0.5) / 0.5)[:256])
    border = float((order[-odd - 1] + order[-odd]) / 2) if odd else float(order[-1] + 0.01)
    model = Normalized(Threshold(border), mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    given = Threshold(border)(torch.tensor((RAMP[:256] / 255 - 0.5) / 0.5)).argmax(1)
    assert int(given.sum()) == odd
    assert check_preprocessing(model, RAMP, labels) == ()


def test_a_model_without_a_known_normalisation_is_not_checked() -> None:
    assert not check_preprocessing(Threshold(0.0), RAMP, LABELS)
