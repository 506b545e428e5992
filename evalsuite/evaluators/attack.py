"""Adversarial attacks: the worst that can happen within a radius."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from evalsuite.bench import Bench
from evalsuite.compat import foolbox
from evalsuite.data.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluators.accuracy import POPULATION
from evalsuite.evaluators.contract import Evaluator, check_epsilons, check_once
from evalsuite.models.forward import gradient_obstacle
from evalsuite.records import Array, Metric, Score

ROBUST_ACCURACY = Metric(
    "robust_accuracy", higher_is_better=True, unit="fraction", tolerance=0.01,
    text="Share of images that are classified correctly before and after the attack, which may use the weights.",
)  # fmt: skip
WORST = "worst"
WORST_BLACK_BOX = "worst black-box"


@dataclass(frozen=True)
class Attack(Evaluator):
    """Robust accuracy under foolbox's FGSM and LinfPGD, and per image against the worst of them.

    A model without gradients is skipped; ``attacks = ["linf-noise"]`` in an evaluator of its own needs none.

    Attributes:
        epsilons: Radii on [0, 1] images in units of 1/255.
        attacks: Names in `evalsuite.compat.foolbox`.
        steps: Gradient steps of iterative attacks; each is 2.5 / steps of the radius, so that the whole ball
            can be crossed. Draws of noise for those that ask the model only.
        images: Attack only the first so many test images; 0 for all.

    References:
        Goodfellow et al. 2015, arXiv 1412.6572; Madry et al. 2018, arXiv 1706.06083; step size: the advice of
        foolbox's maintainers (bethgelab/foolbox#685).
    """

    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0)
    attacks: tuple[str, ...] = ("fgsm", "linf-pgd")
    steps: int = 20
    images: int = 0

    def __post_init__(self) -> None:
        check_epsilons("attack", self.epsilons)
        if not self.attacks:
            raise SuiteError(f"attack: found no attacks, expected some of {', '.join(foolbox.NAMES)}")
        check_once("attack", "attacks", self.attacks)
        if self.images < 0:
            raise SuiteError(f"attack: found images = {self.images}, expected a count, or 0 for all")
        for name in self.attacks:
            self._attack(name, self.epsilons[0])  # refuses unknown names and numbers out of range

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Robust accuracy."""
        return (ROBUST_ACCURACY,)

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score per attack and radius, and one per radius for the worst case of each image.

        Raises:
            SkippedError: If an attack needs gradients and the model has none.
        """
        needy = [name for name in self.attacks if self._attack(name, self.epsilons[0]).needs_gradients]
        _check_gradients(bench, needy)
        worst_of = WORST if needy else WORST_BLACK_BOX
        chosen = slice(0, self.images or None)
        images, labels = bench.images(View()).images[chosen], bench.outputs(View()).known[chosen]
        population = (
            POPULATION if len(labels) == len(bench.outputs(View()).known) else f"{POPULATION}[:{self.images}]"
        )
        for epsilon in self.epsilons:
            worst = np.ones(len(labels), dtype=bool)
            for name in self.attacks:
                robust = self._robust(bench, (images, labels), self._attack(name, epsilon))
                worst &= robust
                evidence = {population: robust}
                yield Score(
                    ROBUST_ACCURACY.name, f"{name}/{epsilon:g}:255", evidence=evidence, group="attack"
                )
            yield Score(ROBUST_ACCURACY.name, f"{worst_of}/{epsilon:g}:255", evidence={population: worst})

    def _attack(self, name: str, epsilon: float) -> foolbox.Attack:
        return foolbox.Attack(name, epsilon / 255, self.steps)

    def _robust(self, bench: Bench, target: tuple[Array, Array], attack: foolbox.Attack) -> Array:
        images = torch.from_numpy(np.array(target[0])).float()
        scaled = images / 255 if target[0].dtype == np.uint8 else images
        labels = torch.from_numpy(np.array(target[1], dtype=np.int64))
        found = foolbox.attack_success(bench.ready, scaled, labels, attack=attack, seed=bench.seed)
        return (~found.broken).numpy()


def _check_gradients(bench: Bench, attacks: list[str]) -> None:
    """Parts of a mixture are not reported: its worst case would be another than the parent's."""
    obstacle = gradient_obstacle(bench.model)
    if attacks and obstacle:
        raise SkippedError(
            f"the model has no gradients ({obstacle}): white-box attacks ({', '.join(attacks)}) cannot run; "
            'linf-noise in an attack evaluator of its own can (attacks = ["linf-noise"])'
        )
