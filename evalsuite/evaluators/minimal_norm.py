"""Minimal adversarial perturbations: the distance from an image to its nearest adversarial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.attacks.backends.foolbox import MINIMAL_NORM_NAMES, MinimalNormAttack
from evalsuite.attacks.specs import AttackRunner, AttackSpec, Target, attack_spec, attack_target
from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluators.base import (
    Condition,
    DataSummary,
    Evaluator,
    check_once,
    declare,
)
from evalsuite.evaluators.subset import population_of, subset_rows
from evalsuite.models.inference import gradient_obstacle
from evalsuite.types import Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

GROUP = "minimal norm"
NEAREST = "nearest"
MISSED = 0.01
"""Share of the images without an adversarial above which the attack is reported as too weak."""


def _metrics(norm: str) -> tuple[Metric, ...]:
    unit = f"{norm} distance"
    return (
        Metric(
            f"median_{norm}_norm", higher_is_better=True, unit=unit, functional="median",
            text=f"Median over all images of the {norm} distance to the nearest adversarial that was found, 0 for "
            "images that are misclassified as they are: the radius at which half of the images are misclassified.",
        ),
        Metric(
            f"median_{norm}_norm_right", higher_is_better=None, unit=unit,
            text=f"Median {norm} distance to the nearest adversarial over the images that are classified correctly.",
        ),
        Metric(
            f"mean_{norm}_norm_right", higher_is_better=None, unit=unit,
            text=f"Mean {norm} distance to the nearest adversarial over the images that are classified correctly and "
            "have one.",
        ),
        Metric(
            f"{norm}_found", higher_is_better=None, unit="fraction",
            text=f"Share of the images that are classified correctly for which an {norm} adversarial was found.",
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class MinimalNorm(Evaluator):
    """Distance to the nearest adversarial under DeepFool, DDN and FMN, and under the best of them per image.

    The median that thresholds use is over all images, with 0 for those that are misclassified as they are: every
    candidate is then judged on the same images, and the number is the radius at which its robust accuracy
    falls to one half. Means and medians over the images that are classified correctly, as in papers, only describe:
    they are other images for each candidate. An image without adversarial counts as farther than any other;
    if these are half of all, there is no median but a reason.

    Attributes:
        attacks: Some of ``l2-deepfool``, ``ddn``, ``l2-fmn``, ``linf-deepfool``, ``linf-fmn``.
        steps: Gradient steps; 0 for the library's default, 50 for DeepFool and 100 for the others.
        images: Attack only the first so many test images, or evenly spaced ones where the images are sorted by class; 0
            for all.

    References:
        Moosavi-Dezfooli et al. 2016, arXiv 1511.04599; Rony et al. 2019, arXiv 1811.09600; Pintor et al.
        2021, arXiv 2102.12827.
    """

    attacks: tuple[str, ...] = ("l2-deepfool", "ddn", "linf-deepfool", "linf-fmn")
    steps: int = 0
    images: int = 200

    def __post_init__(self) -> None:
        if not self.attacks:
            raise SuiteError(
                f"minimal-norm: found no attacks, expected some of {', '.join(MINIMAL_NORM_NAMES)}"
            )
        check_once("minimal-norm", "attacks", self.attacks)
        if self.images < 0:
            raise SuiteError(f"minimal-norm: found images = {self.images}, expected a count, or 0 for all")
        for name in self.attacks:
            MinimalNormAttack(name, self.steps)  # refuses unknown names and numbers out of range

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Four per norm."""
        return tuple(metric for order in self._orders for metric in _metrics(_norm(order)))

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:  # noqa: ARG002  # the same for all data
        """Yields four metrics per attack, and four per norm for the nearest adversarial of all attacks."""
        for order in self._orders:
            names = [attack.name for attack in self._attacks if attack.order == order]
            median, *others = _metrics(_norm(order))
            for condition in (*names, _nearest(order)):
                yield Condition(median.name, condition, GROUP)
                yield from declare(others, condition)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields four scores per attack, and four per norm for the nearest adversarial of all attacks.

        Raises:
            SkippedError: If the model has no gradients.
        """
        if obstacle := gradient_obstacle(bench.model):
            raise SkippedError(f"the model has no gradients ({obstacle}), which all of these attacks need")
        labels = bench.outputs(View()).true_labels
        rows = subset_rows(labels, self.images)
        target, population = attack_target(bench, rows), population_of(rows, len(labels))
        runner = AttackRunner(target)
        for order in self._orders:
            distances = {
                attack.name: np.where(target.correct, runner.norms(attack, steps=self.steps), 0.0)
                for attack in self._attacks
                if attack.order == order
            }
            distances[_nearest(order)] = np.minimum.reduce(list(distances.values()))
            for condition, norms in distances.items():
                yield from _scores(condition, norms, target, order=order, population=population)

    @property
    def _attacks(self) -> list[AttackSpec]:
        return [attack_spec(name) for name in self.attacks]

    @property
    def _orders(self) -> list[float]:
        return sorted({attack.order for attack in self._attacks})


def _scores(
    condition: str, norms: Array, target: Target, *, order: float, population: str
) -> Iterator[Score]:
    """Scores of one attack; `norms` are 0 for misclassified images and infinite where there is no adversarial."""
    norm, largest = _norm(order), float(np.linalg.norm(np.ones(target.images[0].numel()), ord=order))
    correct = norms[target.correct]
    finite = correct[np.isfinite(correct)]
    missed = len(correct) - len(finite)
    flags: tuple[str, ...] = ()
    if missed > 1 and missed > MISSED * len(correct):
        flags = (f"{condition} found no adversarial for {missed} of {len(correct)} images.",)
    capped = np.where(np.isfinite(norms), norms, largest)
    if 2 * missed >= len(norms):
        yield Score(f"median_{norm}_norm", condition, group=GROUP, reason=_unfound(missed, len(norms)))
    else:
        yield Score(f"median_{norm}_norm", condition, evidence={population: capped}, group=GROUP, flags=flags)
    values = {
        f"median_{norm}_norm_right": (
            float(np.median(correct)) if 2 * missed < len(correct) else math.nan,
            len(correct),
        ),
        f"mean_{norm}_norm_right": (float(finite.mean()) if len(finite) else math.nan, len(finite)),
        f"{norm}_found": (len(finite) / len(correct) if len(correct) else math.nan, len(correct)),
    }
    for name, (value, n) in values.items():
        if math.isnan(value):
            yield Score(name, condition, reason=_unfound(missed, len(correct)))
        else:
            yield Score(name, condition, value=value, n=n, flags=flags)


def _unfound(missed: int, total: int) -> str:
    if not total:
        return "no image is classified correctly"
    return f"no adversarial was found for {missed} of {total} images"


def _nearest(order: float) -> str:
    """The condition of the nearest adversarial of all attacks in a norm."""
    return f"{NEAREST} {_norm(order)}"


def _norm(order: float) -> str:
    return "l2" if order == 2 else "linf"
