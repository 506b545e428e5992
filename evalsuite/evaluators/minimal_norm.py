"""The smallest change of an image that makes a network err."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from evalsuite.attacks.backends.foolbox import MINIMAL_NAMES, MinimalAttack
from evalsuite.attacks.specs import AttackRunner, AttackSpec, Target, attack_spec, target
from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import POPULATION
from evalsuite.evaluators.base import Evaluator, check_once, sorted_by_class
from evalsuite.models.inference import gradient_obstacle
from evalsuite.types import Array, Metric, Score

GROUP = "minimal norm"
NEAREST = "nearest"
MISSED = 0.01
"""Share of the images without an adversarial from which on the attack is doubted."""


def _metrics(norm: str) -> tuple[Metric, ...]:
    unit = f"{norm} distance"
    return (
        Metric(
            f"median_{norm}_norm", higher_is_better=True, unit=unit, functional="median",
            text=f"Median over all images of the {norm} distance to the nearest adversarial that was found, 0 for "
            "images that are wrong as they are: the radius at which half of the images are wrong.",
        ),
        Metric(
            f"median_{norm}_norm_right", higher_is_better=None, unit=unit,
            text=f"Median {norm} distance to the nearest adversarial over the images that are right as they are.",
        ),
        Metric(
            f"mean_{norm}_norm_right", higher_is_better=None, unit=unit,
            text=f"Mean {norm} distance to the nearest adversarial over the images that are right as they are and "
            "have one.",
        ),
        Metric(
            f"{norm}_found", higher_is_better=None, unit="fraction",
            text=f"Share of the images that are right as they are for which an {norm} adversarial was found.",
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class MinimalNorm(Evaluator):
    """Distance to the nearest adversarial under DeepFool, DDN and FMN, and under the best of them per image.

    The median that thresholds use is over all images, with 0 for those that are wrong as they are: every
    candidate is then judged on the same images, and the number is the radius at which its robust accuracy
    falls to one half. Means and medians over the images that are right, as papers have them, only describe:
    each candidate chooses these images itself. An image without adversarial counts as farther than any other;
    if these are half of all, there is no median, and the reason says so.

    Attributes:
        attacks: Some of ``l2-deepfool``, ``ddn``, ``l2-fmn``, ``linf-deepfool``, ``linf-fmn``.
        steps: Gradient steps; 0 for the library's own, 50 for DeepFool and 100 for the others.
        images: Attack only the first so many test images; 0 for all.

    References:
        Moosavi-Dezfooli et al. 2016, arXiv 1511.04599; Rony et al. 2019, arXiv 1811.09600; Pintor et al.
        2021, arXiv 2102.12827.
    """

    attacks: tuple[str, ...] = ("l2-deepfool", "ddn", "linf-deepfool", "linf-fmn")
    steps: int = 0
    images: int = 200

    def __post_init__(self) -> None:
        if not self.attacks:
            raise SuiteError(f"minimal-norm: found no attacks, expected some of {', '.join(MINIMAL_NAMES)}")
        check_once("minimal-norm", "attacks", self.attacks)
        if self.images < 0:
            raise SuiteError(f"minimal-norm: found images = {self.images}, expected a count, or 0 for all")
        for name in self.attacks:
            MinimalAttack(name, self.steps)  # refuses unknown names and numbers out of range

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Four per norm."""
        return tuple(metric for order in self._orders for metric in _metrics(_norm(order)))

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields four scores per attack, and four per norm for the nearest adversarial of all attacks.

        Raises:
            SkippedError: If the model has no gradients.
        """
        if obstacle := gradient_obstacle(bench.model):
            raise SkippedError(f"the model has no gradients ({obstacle}), which all of these attacks need")
        aim = target(bench, self.images)
        whole = len(aim.labels) == len(bench.outputs(View()).known)
        population = POPULATION if whole else f"{POPULATION}[:{self.images}]"
        attacker = AttackRunner(aim)
        partial = sorted_by_class(bench.outputs(View()).known, self.images)
        for order in self._orders:
            found = {
                one.name: np.where(aim.right, attacker.norms(one, steps=self.steps), 0.0)
                for one in self._weapons
                if one.order == order
            }
            found[f"{NEAREST} {_norm(order)}"] = np.minimum.reduce(list(found.values()))
            for condition, norms in found.items():
                for score in _scores(condition, norms, aim, order=order, population=population):
                    yield score if score.reason else replace(score, flags=(*partial, *score.flags))

    @property
    def _weapons(self) -> list[AttackSpec]:
        return [attack_spec(name) for name in self.attacks]

    @property
    def _orders(self) -> list[float]:
        return sorted({one.order for one in self._weapons})


def _scores(condition: str, norms: Array, aim: Target, *, order: float, population: str) -> Iterator[Score]:
    """Scores of one attack; `norms` are 0 where the image is wrong and infinite where nothing was found."""
    norm, cap = _norm(order), float(np.linalg.norm(np.ones(aim.images[0].numel()), ord=order))
    right = norms[aim.right]
    found = right[np.isfinite(right)]
    missed = len(right) - len(found)
    flags: tuple[str, ...] = ()
    if missed > 1 and missed > MISSED * len(right):
        flags = (f"{condition} found no adversarial for {missed} of {len(right)} images.",)
    capped = np.where(np.isfinite(norms), norms, cap)
    if 2 * missed >= len(norms):
        yield Score(f"median_{norm}_norm", condition, group=GROUP, reason=_unfound(missed, len(norms)))
    else:
        yield Score(f"median_{norm}_norm", condition, evidence={population: capped}, group=GROUP, flags=flags)
    values = {
        f"median_{norm}_norm_right": (
            float(np.median(right)) if 2 * missed < len(right) else math.nan,
            len(right),
        ),
        f"mean_{norm}_norm_right": (float(found.mean()) if len(found) else math.nan, len(found)),
        f"{norm}_found": (len(found) / len(right) if len(right) else math.nan, len(right)),
    }
    for name, (value, n) in values.items():
        if math.isnan(value):
            yield Score(name, condition, reason=_unfound(missed, len(right)))
        else:
            yield Score(name, condition, value=value, n=n, flags=flags)


def _unfound(missed: int, total: int) -> str:
    if not total:
        return "no image is right as it is"
    return f"no adversarial was found for {missed} of {total} images"


def _norm(order: float) -> str:
    return "l2" if order == 2 else "linf"
