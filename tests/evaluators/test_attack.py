from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.bench import Bench
from evalsuite.data.dataset import Place
from evalsuite.data.views import Gallery
from evalsuite.errors import SuiteError, UserError
from evalsuite.evaluators.attack import Attack
from evalsuite.measuring import scored
from evalsuite.records import Array, ImageSet, Score

rng = np.random.default_rng(0)
PIXELS = rng.integers(
    96, 160, (48, 3, 8, 8), dtype=np.uint8
)  # so grey that no attack meets the ends of [0, 1]
WEIGHTS = rng.normal(size=(3, 8, 8)).astype(np.float32)
SIDE = (WEIGHTS * (PIXELS / 255 - 0.5)).sum((1, 2, 3))  # on which side of the plane, and how far
LABELS = np.where(np.arange(48) % 8 == 0, SIDE < 0, SIDE > 0).astype(
    np.int64
)  # every eighth image is misclassified
REACH = np.abs(WEIGHTS).sum() / 255  # how far one level of l-inf noise can push an image


class Plane(nn.Module):
    """Separates by a plane: an l-inf attack is as strong as epsilon times the l1 norm of its normal."""

    normal: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("normal", torch.from_numpy(WEIGHTS))

    def forward(self, images: Tensor) -> Tensor:
        side = ((images - 0.5) * self.normal).sum((1, 2, 3))
        return torch.stack([-side, side], 1)


@pytest.fixture
def bench() -> Bench:
    return Bench(Plane(), Gallery(ImageSet("grey", PIXELS, LABELS, 2), Place()))


def by_condition(scores: tuple[Score, ...]) -> dict[str, Score]:
    return {score.condition: score for score in scores}


def withstands(epsilon: float) -> Array:
    found: Array = ((SIDE > 0) == LABELS) & (np.abs(SIDE) > epsilon * REACH)
    return found


LEVELS = np.sort(np.abs(SIDE) / REACH)
EPSILONS = tuple(
    float(np.round(1.002 * LEVELS[place], 4)) for place in (14, 28)
)  # just enough for one image more


def test_a_plane_falls_exactly_where_it_must(bench: Bench) -> None:
    scores = by_condition(scored(Attack(EPSILONS, steps=10), bench))
    assert set(scores) == {
        f"{name}/{eps:g}:255" for name in ("fgsm", "linf-pgd", "worst") for eps in EPSILONS
    }
    for condition, one in scores.items():
        expected = withstands(float(condition.split("/")[1].split(":")[0]))
        np.testing.assert_array_equal(one.evidence["test"], expected, err_msg=condition)
        assert one.value == pytest.approx(expected.mean())
        assert (one.metric, one.n) == ("robust_accuracy", 48)
        assert one.group == ("" if condition.startswith("worst") else "attack")
    values = [scores[f"worst/{eps:g}:255"].value for eps in EPSILONS]
    assert 0.1 < (values[1] or 0) < (values[0] or 0) < 0.9


def test_the_worst_case_is_taken_image_by_image(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"fgsm": np.arange(48) % 2 == 0, "linf-pgd": np.arange(48) % 3 == 0}
    monkeypatch.setattr(Attack, "_robust", lambda _, __, ___, attack: outcomes[attack.name])
    scores = by_condition(scored(Attack((2.0,)), bench))
    assert [scores[f"{name}/2:255"].value for name in ("fgsm", "linf-pgd", "worst")] == [
        24 / 48,
        16 / 48,
        8 / 48,
    ]


def test_only_the_first_images_are_attacked(bench: Bench) -> None:
    few = by_condition(scored(Attack(EPSILONS[:1], ("fgsm",), images=10), bench))
    one = few[f"fgsm/{EPSILONS[0]:g}:255"]
    assert (one.n, list(one.evidence)) == (
        10,
        ["test[:10]"],
    )  # another population: never paired with all images
    np.testing.assert_array_equal(one.evidence["test[:10]"], withstands(EPSILONS[0])[:10])
    for count in (48, 99):
        whole = by_condition(scored(Attack(EPSILONS[:1], ("fgsm",), images=count), bench))
        assert list(whole[f"fgsm/{EPSILONS[0]:g}:255"].evidence) == ["test"]


def test_float_images_and_small_labels_are_attacked_alike() -> None:
    floats = ImageSet("grey", (PIXELS / np.float32(255)).astype(np.float32), LABELS.astype(np.uint8), 2)
    one = by_condition(scored(Attack(EPSILONS[:1], ("fgsm",)), Bench(Plane(), Gallery(floats, Place()))))
    np.testing.assert_array_equal(one[f"fgsm/{EPSILONS[0]:g}:255"].evidence["test"], withstands(EPSILONS[0]))


def test_the_random_start_is_the_benchs_and_torch_is_left_alone() -> None:
    """In one small step from a random start it matters where the start is."""
    attack = Attack((EPSILONS[1],), ("linf-pgd",), steps=100)
    shown = Gallery(ImageSet("grey", PIXELS, LABELS, 2), Place())
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, second = (scored(attack, Bench(Plane(), shown, seed=1))[0].evidence["test"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        (
            {"epsilons": ()},
            SuiteError,
            r"attack: found epsilons = \[\], expected at least one number in \(0, 255\]",
        ),
        ({"epsilons": (2.0, 2.0)}, SuiteError, "attack: 2 is in epsilons twice; name each once"),
        ({"attacks": ()}, SuiteError, "attack: found no attacks, expected some of "),
        ({"attacks": ("fgsm", "fgsm")}, SuiteError, "attack: fgsm is in attacks twice; name each once"),
        ({"attacks": ("pgd",)}, UserError, "unknown attack 'pgd'"),
        ({"steps": 0}, UserError, "fgsm: steps = 0 .*, expected at least 1"),
        ({"images": -1}, SuiteError, "attack: found images = -1, expected a count, or 0 for all"),
    ],
    ids=["no radius", "radius twice", "no attack", "attack twice", "unknown", "steps", "images"],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{sentence}"):
        Attack(**settings)
