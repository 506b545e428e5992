from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.attacks.specs import AttackRunner
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import SuiteError, UserError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.attack import Attack
from evalsuite.evaluators.base import sorted_by_class
from evalsuite.evaluators.minimal_norm import MinimalNorm
from evalsuite.evaluators.subset import subset_rows
from evalsuite.execution.measuring import measured, scored
from evalsuite.types import Array, ImageSet, Score

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
    return Bench(Plane(), ImageSource(ImageSet("grey", PIXELS, LABELS, 2), Place()))


def by_condition(scores: tuple[Score, ...]) -> dict[str, Score]:
    return {score.condition: score for score in scores}


def withstands(epsilon: float) -> Array:
    found: Array = ((SIDE > 0) == LABELS) & (np.abs(SIDE) > epsilon * REACH)
    return found


LEVELS = np.sort(np.abs(SIDE) / REACH)
EPSILONS = tuple(
    float(np.round(1.002 * LEVELS[place], 4)) for place in (14, 28)
)  # just enough for one image more


def test_the_robust_images_of_a_plane_are_exact(bench: Bench) -> None:
    scores = by_condition(scored(Attack(EPSILONS, ("fgsm", "linf-pgd"), steps=10), bench))
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
    monkeypatch.setattr(AttackRunner, "misclassified", lambda _, one, *__, **___: ~outcomes[one.name])
    scores = by_condition(scored(Attack((2.0,), ("fgsm", "linf-pgd"), probe=0), bench))
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


def test_of_images_in_the_order_of_their_classes_evenly_spaced_ones_are_attacked(bench: Bench) -> None:
    """The first images of a folder that is sorted by class do not represent the others, and no interval shows that."""
    order = np.argsort(-LABELS, kind="stable")
    halves = ImageSource(ImageSet("grey", PIXELS[order], LABELS[order], 2), Place())
    shown = Bench(Plane(), halves, parent=Bench(Plane(), halves))
    shuffled = Bench(Plane(), bench.image_source, parent=bench)
    few = Attack(EPSILONS[:1], ("fgsm",), images=28)
    assert {name for one in scored(few, shuffled) for name in one.evidence} == {"test[:28]"}
    for test in (few, MinimalNorm(("ddn",), images=28)):
        scores = [*scored(test, shown)]
        assert {name for one in scores for name in one.evidence} == {"test[28 evenly spaced]"}
        assert not any("sorted by class" in flag for one in scores for flag in one.flags)
    rows = subset_rows(LABELS[order], 28)
    (score,) = (one for one in scored(few, shown) if one.condition.startswith("fgsm"))
    (robust,) = score.evidence.values()
    np.testing.assert_array_equal(robust, withstands(EPSILONS[0])[order][rows])


def test_every_beginning_of_evenly_spaced_images_shows_all_classes() -> None:
    labels = np.repeat(np.arange(10), 60)
    rows = subset_rows(labels, 200)
    assert len({*rows}) == 200
    for part in (20, 64, 128, 200):
        counts = np.bincount(labels[rows[:part]], minlength=10)
        assert abs(counts - part / 10).max() <= 2
    np.testing.assert_array_equal(subset_rows(labels, 0), np.arange(600))


def test_a_beginning_that_shows_few_classes_is_told() -> None:
    labels = np.repeat(np.arange(10), 20)
    (sentence,) = sorted_by_class(labels, 30)
    assert sentence == (
        "The first 30 of 200 images show 2 of 10 classes, where 30 drawn at random would show 10: they are sorted by "
        "class, so shuffle them or look at all."
    )
    draws = np.random.default_rng(0)
    for classes in (labels, np.repeat([0, 1], [180, 20]), np.arange(200) % 100):
        assert not any(
            sorted_by_class(draws.permutation(classes), n) for n in range(1, 201) for _ in range(20)
        )


def test_float_images_and_small_integer_labels_are_attacked_too() -> None:
    floats = ImageSet("grey", (PIXELS / np.float32(255)).astype(np.float32), LABELS.astype(np.uint8), 2)
    one = by_condition(scored(Attack(EPSILONS[:1], ("fgsm",)), Bench(Plane(), ImageSource(floats, Place()))))
    np.testing.assert_array_equal(one[f"fgsm/{EPSILONS[0]:g}:255"].evidence["test"], withstands(EPSILONS[0]))


def test_the_random_start_depends_on_the_seed_of_the_bench_and_not_on_torch() -> None:
    """In one small step from a random start it matters where the start is."""
    attack = Attack((EPSILONS[1],), ("linf-pgd",), steps=100)
    shown = ImageSource(ImageSet("grey", PIXELS, LABELS, 2), Place())
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, second = (scored(attack, Bench(Plane(), shown, seed=1))[0].evidence["test"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


LENGTH = float(np.linalg.norm(WEIGHTS))


def test_the_robust_images_of_a_plane_are_exact_in_both_norms_and_for_minimal_norms(bench: Bench) -> None:
    """Minimal norms are searched once; radii in L2 are for images in [0, 1]."""
    radius = float(np.sort(np.abs(SIDE))[20] / LENGTH * 1.002)
    attacks = ("linf-deepfool", "fgm", "l2-deepfool", "l2-fab-t", "apgd-ce", "l2-square")
    attack = Attack(EPSILONS[:1], attacks, (radius,), iterations=30, queries=5, probe=0)
    scores = by_condition(scored(attack, bench))
    expected = {
        "linf": withstands(EPSILONS[0]),
        "l2": ((SIDE > 0) == LABELS) & (np.abs(SIDE) > radius * LENGTH),
    }
    assert 0 < expected["l2"].sum() < (SIDE * (2 * LABELS - 1) > 0).sum()
    linf, l2 = f"/{EPSILONS[0]:g}:255", f"/{radius:g}"
    for name in ("linf-deepfool", "apgd-ce", "worst"):
        np.testing.assert_array_equal(scores[name + linf].evidence["test"], expected["linf"], err_msg=name)
    for name in ("fgm", "l2-deepfool", "worst l2"):
        np.testing.assert_array_equal(scores[name + l2].evidence["test"], expected["l2"], err_msg=name)
    fab = scores[f"l2-fab-t{l2}"].evidence["test"]  # which stops a little beyond the boundary
    assert not (expected["l2"] & ~fab).any()
    assert (fab != expected["l2"]).sum() <= 3
    square = scores[f"l2-square{l2}"]
    assert square.group == "black-box attack"
    np.testing.assert_array_equal(scores[f"worst black-box l2{l2}"].evidence["test"], square.evidence["test"])
    assert len(scores) == 9


def test_the_worst_case_cannot_rise_with_the_radius(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {1 / 255: np.arange(48) % 2 == 0, 2 / 255: np.arange(48) % 3 == 0}
    monkeypatch.setattr(AttackRunner, "misclassified", lambda _, __, epsilon, **___: ~outcomes[epsilon])
    scores = by_condition(scored(Attack((2.0, 1.0), ("linf-pgd",), probe=0), bench))
    assert [scores[f"{name}:255"].value for name in ("linf-pgd/1", "linf-pgd/2", "worst/1", "worst/2")] == [
        24 / 48,
        16 / 48,
        24 / 48,
        8 / 48,
    ]


def test_a_cascade_attacks_only_images_that_are_still_robust(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = ("fgsm", "linf-pgd", "linf-noise")
    whole = by_condition(scored(Attack(EPSILONS, attacks, probe=0), bench))
    met: list[int] = []
    broken = AttackRunner.misclassified

    def counted(*arguments: Any, **settings: Any) -> Array:
        met.append(int(settings["among"].sum()))
        return broken(*arguments, **settings)

    monkeypatch.setattr(AttackRunner, "misclassified", counted)
    scores = by_condition(scored(Attack(EPSILONS, attacks, cascade=True, probe=0), bench))
    assert list(scores) == [f"worst/{epsilon:g}:255" for epsilon in EPSILONS]
    for condition, one in scores.items():
        np.testing.assert_array_equal(one.evidence["test"], whole[condition].evidence["test"])
    first, second = (int(withstands(epsilon).sum()) for epsilon in EPSILONS)
    right = int(((SIDE > 0) == LABELS).sum())
    assert met == [right, first, first, first, second, second]


def test_too_few_classes_for_a_margin_loss(bench: Bench) -> None:
    attack = Attack(EPSILONS[:1], ("apgd-t", "apgd-ce"), iterations=20, probe=0)
    scores = by_condition(scored(attack, bench))
    missing = scores[f"apgd-t/{EPSILONS[0]:g}:255"]
    assert (missing.reason, missing.value) == ("apgd-t needs more than 2 classes", None)
    np.testing.assert_array_equal(
        scores[f"worst/{EPSILONS[0]:g}:255"].evidence["test"], withstands(EPSILONS[0])
    )
    cell = measured(Attack(attacks=("apgd-t", "l2-apgd-dlr")), bench)
    assert (cell.status, cell.reason) == (
        "skipped",
        "apgd-t, l2-apgd-dlr cannot run with 2 classes; add apgd-ce or fab",
    )


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
        ({"probe": -1}, SuiteError, "attack: found probe = -1, expected a count, or 0 for none"),
        (
            {"l2_epsilons": (0.0,)},
            SuiteError,
            r"attack: found l2_epsilons = \[0.0\], expected numbers above 0",
        ),
        ({"l2_epsilons": (0.5, 0.5)}, SuiteError, "attack: 0.5 is in l2_epsilons twice; name each once"),
        ({"attacks": ("square",), "queries": 0}, UserError, "square: .* queries = 0, expected at least 1"),
    ],
    ids=[
        "no radius",
        "radius twice",
        "no attack",
        "attack twice",
        "unknown",
        "steps",
        "images",
        "probe",
        "L2 radius",
        "L2 radius twice",
        "queries",
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{sentence}"):
        Attack(**settings)
