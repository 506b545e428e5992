"""Adversarial attacks: the worst that can happen within a radius."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from evalsuite.attacks.backends.autoattack import playable
from evalsuite.attacks.specs import (
    WEAPONS,
    AttackBudget,
    AttackRunner,
    AttackSpec,
    Target,
    attack_spec,
    check,
    target,
)
from evalsuite.attacks.validity import Record, ValidityWarnings, validity_warnings
from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import POPULATION
from evalsuite.evaluators.base import (
    Evaluator,
    check_epsilons,
    check_once,
    sorted_by_class,
)
from evalsuite.models.inference import gradient_obstacle
from evalsuite.types import Array, Metric, Score

ROBUST_ACCURACY = Metric(
    "robust_accuracy", higher_is_better=True, unit="fraction", tolerance=0.01,
    text="Share of images that are classified correctly before and after the attack, which may use the weights.",
)  # fmt: skip
WORST = "worst"
BLACK_BOX = "black-box"
GROUP, BLACK_BOX_GROUP = "attack", "black-box attack"


@dataclass(frozen=True)
class Attack(Evaluator):
    """Robust accuracy under FGSM and LinfPGD or any others, and per image against the worst of them.

    ``worst`` counts an image as robust if no attack of the norm broke it at this radius or a smaller one, so
    its curve cannot rise. ``worst black-box`` is the same over the attacks that only ask for answers: a model
    without gradients has these scores, with the parent's to compare them with, and a reason for the others;
    if no attack is black-box, it is skipped.

    Every white-box score carries the validity checks that it did not pass (`evalsuite.attacks.validity`).
    They attack the first `probe` images again, with more steps, more restarts, Square, the margin for a loss, the
    adversarials of the unpruned network and a large radius: at most six times the iterative attack's gradients at
    one radius, and `steps` + 100 passes without.

    Attributes:
        epsilons: Linf radii on [0, 1] images in units of 1/255.
        attacks: Names in `evalsuite.attacks.specs`: foolbox's at a fixed radius (``fgsm``, ``linf-pgd``,
            ``linf-noise``, ``fgm``, ``l2-pgd``), its minimal-norm attacks (``linf-deepfool``, ``linf-fmn``,
            ``l2-deepfool``, ``ddn``, ``l2-fmn``), and AutoAttack's parts (``apgd-ce``, ``apgd-t``,
            ``apgd-dlr``, ``fab``, ``fab-t``, ``square``, each also with ``l2-`` before it).
        l2_epsilons: L2 radii on [0, 1] images, for the attacks in that norm.
        steps: Gradient steps of foolbox's iterative attacks; each is 2.5 / steps of the radius, so that the
            whole ball can be crossed. Draws of noise for ``linf-noise``.
        iterations: Iterations of APGD and FAB.
        restarts: Runs of PGD and APGD from different random starts.
        queries: Questions of Square per image; 5,000 in the published AutoAttack.
        images: Attack only the first so many test images; 0 for all.
        cascade: Give each attack only what stands after those before it, in the order of `attacks`: cheaper,
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
            raise SuiteError(f"attack: found no attacks, expected some of {', '.join(sorted(WEAPONS))}")
        check_once("attack", "attacks", self.attacks)
        for key in ("images", "probe"):
            if getattr(self, key) < 0:
                default = "all" if key == "images" else "none"
                raise SuiteError(
                    f"attack: found {key} = {getattr(self, key)}, expected a count, or 0 for {default}"
                )
        for name in self.attacks:
            check(attack_spec(name), 0.1, self.force)  # refuses unknown names and numbers out of range

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Robust accuracy."""
        return (ROBUST_ACCURACY,)

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    @property
    def force(self) -> AttackBudget:
        """How hard the attacks try."""
        return AttackBudget(self.steps, self.iterations, self.restarts, self.queries)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score per attack and radius, and one per radius for the worst case of each image.

        Raises:
            SkippedError: If every attack, or one of a cascade, needs gradients and the model has none.
        """
        weapons, missing = self._playable(bench.classes)
        obstacle = self._obstacle(bench, weapons)
        aim = target(bench, self.images)
        whole = len(aim.labels) == len(bench.outputs(View()).known)
        population = POPULATION if whole else f"{POPULATION}[:{self.images}]"
        campaign = _AttackRun(self, aim, population)
        partial = sorted_by_class(bench.outputs(View()).known, self.images)
        for order in sorted({one.order for one in weapons}, reverse=True):
            for score in campaign.scores([one for one in weapons if one.order == order], obstacle):
                yield score if score.reason else replace(score, flags=(*partial, *score.flags))
        for name in missing:
            reason = f"{name} needs more than {bench.classes} classes"
            yield from (
                Score(ROBUST_ACCURACY.name, _named(name, radius, attack_spec(name).order), reason=reason)
                for radius in self.radii(attack_spec(name).order)
            )

    def radii(self, order: float) -> tuple[float, ...]:
        """Returns the radii of a norm as the suite has them, rising."""
        return tuple(sorted(self.l2_epsilons if order == 2 else self.epsilons))

    def _playable(self, classes: int) -> tuple[list[AttackSpec], list[str]]:
        """The attacks that the number of classes allows, without repetition, and the names of the others."""
        found: dict[str, AttackSpec] = {}
        missing = []
        for one in map(attack_spec, self.attacks):
            prefix = one.name.removesuffix(one.plain)
            stand_in = playable(one.plain, classes=classes) if one.kind == "strong" else one.plain
            if stand_in:
                found[prefix + stand_in] = attack_spec(prefix + stand_in)
            else:
                missing.append(one.name)
        if not found:
            raise SkippedError(f"{', '.join(missing)} cannot run with {classes} classes; add apgd-ce or fab")
        return list(found.values()), missing

    def _obstacle(self, bench: Bench, weapons: list[AttackSpec]) -> str:
        """Why the white-box attacks have no number; empty if they have."""
        needy = [one.name for one in weapons if not one.black_box]
        obstacle = gradient_obstacle(bench.model) if needy else ""
        if not obstacle:
            return ""
        sentence = (
            f"the model has no gradients ({obstacle}): white-box attacks ({', '.join(needy)}) cannot run"
        )
        if self.cascade or len(needy) == len(weapons):
            raise SkippedError(
                f'{sentence}; linf-noise and square can (attacks = ["linf-noise"], without cascade)'
            )
        return sentence


@dataclass(frozen=True)
class _AttackRun:
    """Is what happens to one target."""

    attack: Attack
    target: Target
    population: str
    attacker: AttackRunner = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacker", AttackRunner(self.target))

    def scores(self, weapons: list[AttackSpec], obstacle: str) -> Iterator[Score]:
        """Yields the scores of all attacks in one norm."""
        order = weapons[0].order
        radii = self.attack.radii(order)
        usable = [one for one in weapons if one.black_box or not obstacle]
        record = self._record(usable, radii)
        white = [] if obstacle else [one for one in weapons if not one.black_box]
        found = ValidityWarnings()
        if white:
            found = validity_warnings(self.target, record, force=self.attack.force, probe=self.attack.probe)
        for radius in radii:
            if not self.attack.cascade:
                for one in weapons:
                    yield self._score(one, radius, record, doubt=found, obstacle=obstacle)
            yield from self._worst(weapons, radius, record, doubt=found, obstacle=obstacle)

    def _record(self, weapons: list[AttackSpec], radii: tuple[float, ...]) -> Record:
        """Which images each attack broke at each radius; in a cascade, what was broken when it was done."""
        record: Record = {}
        fallen = ~self.target.right
        for radius in radii:
            for one in weapons:
                among = ~fallen if self.attack.cascade else None
                hit = self.attacker.broken(
                    one, _unit(radius, one.order), force=self.attack.force, among=among
                )
                fallen = fallen | hit
                record[one, radius] = fallen if self.attack.cascade else hit
        return record

    def _score(
        self, one: AttackSpec, radius: float, record: Record, *, doubt: ValidityWarnings, obstacle: str
    ) -> Score:
        condition = _named(one.name, radius, one.order)
        group = BLACK_BOX_GROUP if one.black_box else GROUP
        if obstacle and not one.black_box:
            return Score(ROBUST_ACCURACY.name, condition, group=group, reason=obstacle)
        evidence = {self.population: ~record[one, radius]}
        flags = () if one.black_box else doubt.on(one, radius)
        return Score(ROBUST_ACCURACY.name, condition, evidence=evidence, group=group, flags=flags)

    def _worst(
        self,
        weapons: list[AttackSpec],
        radius: float,
        record: Record,
        *,
        doubt: ValidityWarnings,
        obstacle: str,
    ) -> Iterator[Score]:
        """The worst case over all attacks, and over the black-box ones if they are a part of them."""
        black = [one for one in weapons if one.black_box]
        order = weapons[0].order
        if len(black) < len(weapons):
            condition = _named(WORST, radius, order)
            if obstacle:
                yield Score(ROBUST_ACCURACY.name, condition, reason=obstacle)
            else:
                evidence = {self.population: _survived(weapons, radius, record)}
                yield Score(ROBUST_ACCURACY.name, condition, evidence=evidence, flags=doubt.worst(radius))
        if black and (not self.attack.cascade or len(black) == len(weapons)):
            condition = _named(f"{WORST} {BLACK_BOX}", radius, order)
            yield Score(
                ROBUST_ACCURACY.name, condition, evidence={self.population: _survived(black, radius, record)}
            )


def _survived(weapons: list[AttackSpec], radius: float, record: Record) -> Array:
    """Images that none of the attacks broke up to the radius: the ball of a smaller one is inside."""
    hits = [hit for (one, at), hit in record.items() if one in weapons and at <= radius]
    survived: Array = ~np.logical_or.reduce(hits)
    return survived


def _unit(radius: float, order: float) -> float:
    """A radius of the suite for images in [0, 1]."""
    return radius if order == 2 else radius / 255


def _named(name: str, radius: float, order: float) -> str:
    """The condition; L2 is said where the name does not."""
    if order == 2:
        return f"{name} l2/{radius:g}" if name.startswith(WORST) else f"{name}/{radius:g}"
    return f"{name}/{radius:g}:255"
