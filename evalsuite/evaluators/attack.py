"""Adversarial attacks: the worst case within a radius."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.attacks.backends.autoattack import available_component
from evalsuite.attacks.specs import (
    ATTACK_SPECS,
    AttackBudget,
    AttackRunner,
    AttackSpec,
    Target,
    attack_spec,
    attack_target,
    check_settings,
)
from evalsuite.attacks.validity import AttackOutcomes, ValidityWarnings, validity_warnings
from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluators.accuracy import ROBUST_ACCURACY
from evalsuite.evaluators.base import (
    Condition,
    DataSummary,
    Evaluator,
    check_epsilons,
    check_once,
)
from evalsuite.evaluators.subset import population_of, subset_rows
from evalsuite.models.inference import gradient_obstacle
from evalsuite.types import Array, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

WORST = "worst"
BLACK_BOX = "black-box"
GROUP, BLACK_BOX_GROUP = "attack", "black-box attack"


@dataclass(frozen=True)
class Attack(Evaluator):
    """Robust accuracy under FGSM and LinfPGD or any others, and per image against the worst of them.

    ``worst`` counts an image as robust if it is classified correctly under every attack of the norm at this radius
    and all smaller ones, so its curve cannot rise. ``worst black-box`` is the same over the attacks that use outputs
    only: a model without gradients has these scores, with the parent's to compare them with, and a reason for the
    others; if no attack is black-box, it is skipped.

    Every white-box score carries the validity checks that it did not pass (`evalsuite.attacks.validity`).
    They attack the first `probe` images again, with more steps, more restarts, Square, the margin for a loss, the
    adversarials of the unpruned network and a large radius: at most six times the iterative attack's gradients at
    one radius, and `steps` + 100 passes without.

    Attributes:
        epsilons: Linf radii on [0, 1] images in units of 1/255.
        attacks: Names in `evalsuite.attacks.specs`: foolbox's at a fixed radius (``fgsm``, ``linf-pgd``,
            ``linf-noise``, ``fgm``, ``l2-pgd``), its minimal-norm attacks (``linf-deepfool``, ``linf-fmn``,
            ``l2-deepfool``, ``ddn``, ``l2-fmn``), and AutoAttack's components (``apgd-ce``, ``apgd-t``,
            ``apgd-dlr``, ``fab``, ``fab-t``, ``square``, each also with ``l2-`` before it).
        l2_epsilons: L2 radii on [0, 1] images, for the attacks in that norm.
        steps: Gradient steps of foolbox's iterative attacks; each is 2.5 / steps of the radius, so that the
            whole ball can be crossed. Draws of noise for ``linf-noise``.
        iterations: Iterations of APGD and FAB.
        restarts: Runs of PGD and APGD from different random starts.
        queries: Queries of Square per image; 5,000 in the published AutoAttack.
        images: Attack only the first so many test images, or evenly spaced ones where the images are sorted by class; 0
            for all.
        cascade: Attack only the images that are robust to all attacks before, in the order of `attacks`: cheaper,
            but only ``worst`` is then a number.
        probe: Images of the validity checks; 0 for none.

    References:
        Goodfellow et al. 2015, arXiv 1412.6572; Madry et al. 2018, arXiv 1706.06083; step size: the advice of
        foolbox's maintainers (bethgelab/foolbox#685); Croce and Hein 2020, arXiv 2003.01690.
    """

    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0)
    attacks: tuple[str, ...] = ("fgsm", "linf-pgd", "linf-noise")
    l2_epsilons: tuple[float, ...] = (0.1, 0.25, 0.5)
    steps: int = 20
    iterations: int = 100
    restarts: int = 1
    queries: int = 500
    images: int = 0
    cascade: bool = False
    probe: int = 128

    def __post_init__(self) -> None:
        check_epsilons("attack", self.epsilons)
        if not self.l2_epsilons or not all(0 < radius < math.inf for radius in self.l2_epsilons):
            raise SuiteError(
                f"attack: found l2_epsilons = {list(self.l2_epsilons)}, expected numbers above 0"
            )
        check_once("attack", "l2_epsilons", [f"{radius:g}" for radius in self.l2_epsilons])
        if not self.attacks:
            raise SuiteError(f"attack: found no attacks, expected some of {', '.join(sorted(ATTACK_SPECS))}")
        check_once("attack", "attacks", self.attacks)
        for key in ("images", "probe"):
            if getattr(self, key) < 0:
                default = "all" if key == "images" else "none"
                raise SuiteError(
                    f"attack: found {key} = {getattr(self, key)}, expected a count, or 0 for {default}"
                )
        for name in self.attacks:
            check_settings(
                attack_spec(name), 0.1, self.budget
            )  # refuses unknown names and numbers out of range

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Robust accuracy."""
        return (ROBUST_ACCURACY,)

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    @property
    def takes_gradient_steps(self) -> bool:
        """Whether PGD is among the attacks."""
        return any(attack_spec(name).follows_gradient_model for name in self.attacks)

    @property
    def budget(self) -> AttackBudget:
        """Steps, restarts and queries of the attacks."""
        return AttackBudget(self.steps, self.iterations, self.restarts, self.queries)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:
        """Yields one per attack and radius, and one per radius for the worst case of each image.

        Attacks that have no number here are declared as well: with too few classes, or for models without gradients.
        """
        specs, missing = self._runnable(data.classes)
        for order, norm_specs in _by_norm(specs):
            for name, group in self._names(norm_specs).items():
                for radius in self.radii(order):
                    yield Condition(ROBUST_ACCURACY.name, _condition(name, radius, order), group)
        yield from (Condition(ROBUST_ACCURACY.name, condition) for _, condition in self._missing(missing))

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score per attack and radius, and one per radius for the worst case of each image.

        Raises:
            SkippedError: If every attack, or one of a cascade, needs gradients and the model has none.
        """
        specs, missing = self._runnable(bench.classes)
        if not specs:
            names = ", ".join(missing)
            raise SkippedError(f"{names} cannot run with {bench.classes} classes; add apgd-ce or fab")
        obstacle = self._obstacle(bench, specs)
        labels = bench.outputs(View()).true_labels
        rows = subset_rows(labels, self.images)
        target = attack_target(bench, rows)
        for _, norm_specs in _by_norm(specs):
            yield from _NormRun(self, norm_specs, target, obstacle).scores(population_of(rows, len(labels)))
        for name, condition in self._missing(missing):
            reason = f"{name} needs more than {bench.classes} classes"
            yield Score(ROBUST_ACCURACY.name, condition, reason=reason)

    def radii(self, order: float) -> tuple[float, ...]:
        """Returns the radii of a norm in the unit of the suite, sorted."""
        return tuple(sorted(self.l2_epsilons if order == 2 else self.epsilons))

    def _runnable(self, classes: int) -> tuple[list[AttackSpec], list[str]]:
        """The attacks that the number of classes allows, without repetition, and the names of the others."""
        runnable: dict[str, AttackSpec] = {}
        missing = []
        for spec in map(attack_spec, self.attacks):
            prefix = spec.name.removesuffix(spec.component)
            component = spec.component
            if spec.kind == "autoattack":
                component = available_component(spec.component, classes=classes)
            if component:
                runnable[prefix + component] = attack_spec(prefix + component)
            else:
                missing.append(spec.name)
        return list(runnable.values()), missing

    def _missing(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yields attacks that cannot run, each with all of its conditions."""
        for name in names:
            order = attack_spec(name).order
            yield from ((name, _condition(name, radius, order)) for radius in self.radii(order))

    def _names(self, specs: list[AttackSpec]) -> dict[str, str]:
        """The names of what is reported at each radius of a norm, with its group: single attacks, and worst cases.

        The worst case over the black-box attacks is left out where a cascade tries them on what others left.
        """
        black_box = [spec for spec in specs if spec.black_box]
        names = {} if self.cascade else {spec.name: _group(spec) for spec in specs}
        if len(black_box) < len(specs):
            names[WORST] = ""
        if black_box and (not self.cascade or len(black_box) == len(specs)):
            names[f"{WORST} {BLACK_BOX}"] = ""
        return names

    def _obstacle(self, bench: Bench, specs: list[AttackSpec]) -> str:
        """The reason why white-box attacks have no number; empty if they have."""
        white_box = [spec.name for spec in specs if not spec.black_box]
        obstacle = gradient_obstacle(bench.model) if white_box else ""
        if not obstacle:
            return ""
        sentence = (
            f"the model has no gradients ({obstacle}): white-box attacks ({', '.join(white_box)}) cannot run; the test "
            "transfer shows it the adversarial images of the unpruned network"
        )
        if self.cascade or len(white_box) == len(specs):
            raise SkippedError(
                f'{sentence}, and linf-noise and square need no gradients (attacks = ["linf-noise"], without cascade)'
            )
        return sentence


@dataclass(frozen=True)
class _NormRun:
    """All attacks in one norm on one target.

    Attributes:
        settings: The evaluator.
        specs: The attacks, all in one norm.
        target: What is attacked.
        obstacle: Why white-box attacks have no number; empty if they have.
    """

    settings: Attack
    specs: list[AttackSpec]
    target: Target
    obstacle: str

    def scores(self, population: str) -> Iterator[Score]:
        """Yields the scores at each radius, smallest first."""
        order = self.specs[0].order
        names, specs = self.settings._names(self.specs), {spec.name: spec for spec in self.specs}
        outcomes = self._outcomes()
        warnings = self._warnings(outcomes)
        for radius in self.settings.radii(order):
            for name, group in names.items():
                condition = _condition(name, radius, order)
                black_box = specs[name].black_box if name in specs else name.endswith(BLACK_BOX)
                if self.obstacle and not black_box:
                    yield Score(ROBUST_ACCURACY.name, condition, group=group, reason=self.obstacle)
                    continue
                flags: tuple[str, ...] = ()
                if not black_box:
                    flags = (
                        warnings.on(specs[name], radius) if name in specs else warnings.on_worst_case(radius)
                    )
                robust = self._robust(name, radius, outcomes)
                yield Score(
                    ROBUST_ACCURACY.name, condition, evidence={population: robust}, group=group, flags=flags
                )

    def _robust(self, name: str, radius: float, outcomes: AttackOutcomes) -> Array:
        """The images that are classified correctly under an attack, or the worst case up to its radius."""
        single = [spec for spec in self.specs if spec.name == name]
        if single:
            return ~outcomes[single[0], radius]
        chosen = [spec for spec in self.specs if spec.black_box or not name.endswith(BLACK_BOX)]
        wrong = [hit for (spec, at), hit in outcomes.items() if spec in chosen and at <= radius]
        robust: Array = ~np.logical_or.reduce(wrong)  # the ball of a smaller radius is inside
        return robust

    def _outcomes(self) -> AttackOutcomes:
        """The images that each attack makes misclassified at each radius; in a cascade, that all up to it do."""
        outcomes: AttackOutcomes = {}
        runner, settings = AttackRunner(self.target), self.settings
        wrong = ~self.target.correct
        for radius in settings.radii(self.specs[0].order):
            for spec in self.specs:
                if self.obstacle and not spec.black_box:
                    continue
                among = ~wrong if settings.cascade else None
                epsilon = radius if spec.order == 2 else radius / 255
                hit = runner.misclassified(spec, epsilon, budget=settings.budget, among=among)
                wrong = wrong | hit
                outcomes[spec, radius] = wrong if settings.cascade else hit
        return outcomes

    def _warnings(self, outcomes: AttackOutcomes) -> ValidityWarnings:
        if self.obstacle or all(spec.black_box for spec in self.specs):
            return ValidityWarnings()
        settings = self.settings
        return validity_warnings(self.target, outcomes, budget=settings.budget, probe=settings.probe)


def _by_norm(specs: list[AttackSpec]) -> Iterator[tuple[float, list[AttackSpec]]]:
    """Yields each norm, linf first, with its attacks."""
    for order in sorted({spec.order for spec in specs}, reverse=True):
        yield order, [spec for spec in specs if spec.order == order]


def _group(spec: AttackSpec) -> str:
    return BLACK_BOX_GROUP if spec.black_box else GROUP


def _condition(name: str, radius: float, order: float) -> str:
    """The condition; the worst case names its norm if that is L2, as single attacks do."""
    if order == 2:
        return f"{name} l2/{radius:g}" if name.startswith(WORST) else f"{name}/{radius:g}"
    return f"{name}/{radius:g}:255"
