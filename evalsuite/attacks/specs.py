"""The attacks of all libraries under one name each, and one way to call them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.attacks.backends import autoattack, foolbox
from evalsuite.attacks.backends.base import misclassified
from evalsuite.compat.calls import device_of, unit_images
from evalsuite.datasets.views import View
from evalsuite.errors import UnknownNameError
from evalsuite.evaluation import Bench
from evalsuite.models.inference import gradient_obstacle
from evalsuite.registry import unknown
from evalsuite.types import Array

Kind = Literal["fixed", "minimal", "strong"]


@dataclass(frozen=True, slots=True)
class AttackSpec:
    """Is a kind of attack.

    Attributes:
        name: What suites and conditions call it.
        order: The p of its norm: 2 or infinity.
        kind: ``fixed`` radius (foolbox), ``minimal`` norm (foolbox), ``strong`` (AutoAttack).
        black_box: Whether it asks the model for its answers only.
        iterative: Whether it takes many gradient steps inside a fixed radius.
    """

    name: str
    order: float
    kind: Kind
    black_box: bool = False
    iterative: bool = False

    @property
    def plain(self) -> str:
        """The name without the norm, as AutoAttack has it."""
        return self.name.removeprefix("l2-")


@dataclass(frozen=True, slots=True)
class AttackBudget:
    """Is how hard attacks try.

    Attributes:
        steps: Gradient steps of foolbox's iterative attacks, draws of its noise.
        iterations: Iterations of APGD and FAB.
        restarts: Runs from different random starts.
        queries: Questions of Square per image.
    """

    steps: int = 20
    iterations: int = 100
    restarts: int = 1
    queries: int = 500

    def doubled(self) -> AttackBudget:
        """Returns twice the steps."""
        return replace(self, steps=2 * self.steps, iterations=2 * self.iterations)


@dataclass(frozen=True)
class Target:
    """Is what is attacked.

    Attributes:
        model: Prepared; takes images in [0, 1].
        images: float32 in [0, 1], (N, C, H, W).
        labels: int64 (N,).
        right: Whether the model is right on each image as it is, bool (N,).
        classes: Number of classes.
        seed: Of everything random.
        parent: The unpruned network, prepared, whose adversarials may fool the model too; ``None`` if this is it or
            has no gradients.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    right: Array
    classes: int
    seed: int
    parent: nn.Module | None = None

    def first(self, count: int) -> Target:
        """Returns the first `count` images only."""
        cut = slice(0, count)
        return replace(self, images=self.images[cut], labels=self.labels[cut], right=self.right[cut])


def target(bench: Bench, count: int) -> Target:
    """Returns the first `count` clean test images of a bench, all for 0, as a target."""
    outputs, cut = bench.outputs(View()), slice(0, count or None)
    return Target(
        model=bench.inference_model,
        images=unit_images(np.array(bench.images(View()).images[cut])),
        labels=torch.from_numpy(np.array(outputs.known[cut], dtype=np.int64)),
        right=outputs.correct[cut],
        classes=bench.classes,
        seed=bench.seed,
        parent=None
        if bench.parent is bench or gradient_obstacle(bench.parent.model)
        else bench.parent.inference_model,
    )


def _attack_specs() -> Mapping[str, AttackSpec]:
    found = [
        AttackSpec(one.name, one.order, "fixed", black_box=not one.needs_gradients, iterative=one.iterative)
        for one in (foolbox.Attack(name, 0.0) for name in foolbox.NAMES)
    ]
    found += [
        AttackSpec(name, foolbox.MinimalAttack(name).order, "minimal") for name in foolbox.MINIMAL_NAMES
    ]
    for prefix, order in (("", math.inf), ("l2-", 2.0)):
        found += [
            AttackSpec(f"{prefix}{name}", order, "strong", name == "square", name.startswith("apgd"))
            for name in autoattack.STRONG_NAMES
        ]
    return MappingProxyType({weapon.name: weapon for weapon in found})


WEAPONS = _attack_specs()
"""Name to weapon: linf where the name says nothing."""


def attack_spec(name: str) -> AttackSpec:
    """Returns the weapon called `name`.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in WEAPONS:
        raise UnknownNameError(unknown("attack", name, WEAPONS))
    return WEAPONS[name]


def check(weapon: AttackSpec, epsilon: float, force: AttackBudget) -> None:
    """Checks the numbers that an attack is told.

    Raises:
        UserError: If one is out of its range.
    """
    if weapon.kind == "fixed":
        _fixed(weapon, epsilon, force)
    elif weapon.kind == "strong":
        _strong(weapon, epsilon, force)


class AttackRunner:
    """Attacks one target; minimal norms are searched once and serve every radius."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._norms: dict[str, Array] = {}

    def norms(self, weapon: AttackSpec, *, steps: int = 0) -> Array:
        """Returns each image's distance to the nearest adversarial, float64 (N,); see `minimal_norms`."""
        if weapon.name not in self._norms:
            at = self._target
            attack = foolbox.MinimalAttack(weapon.name, steps)
            found = foolbox.minimal_norms(at.model, at.images, at.labels, attack=attack, seed=at.seed)
            self._norms[weapon.name] = found.cpu().numpy().astype(np.float64)
        return self._norms[weapon.name]

    def broken(
        self, weapon: AttackSpec, epsilon: float, *, force: AttackBudget, among: Array | None = None
    ) -> Array:
        """Returns which images are wrong as they are or fall, bool (N,).

        Args:
            weapon: What to attack with.
            epsilon: Radius for images in [0, 1].
            force: How hard.
            among: The images that are attacked, bool (N,); all by default.
        """
        if weapon.kind == "minimal":
            met: Array = self.norms(weapon) <= epsilon
            return met if among is None else met & among
        at = self._target
        chosen = None if among is None else torch.from_numpy(np.array(among, dtype=bool))
        if weapon.kind == "fixed":
            found = foolbox.attack_success(
                at.model, at.images, at.labels,
                attack=_fixed(weapon, epsilon, force), seed=at.seed, among=chosen,
            )  # fmt: skip
        else:
            found = autoattack.strong_success(
                at.model, at.images, at.labels,
                attack=_strong(weapon, epsilon, force), seed=at.seed, among=chosen,
            )  # fmt: skip
        hit: Array = found.broken.cpu().numpy()
        return hit


def transferred(target: Target, order: float, epsilon: float, *, force: AttackBudget) -> Array:
    """Returns which images of a target PGD on its parent turns into some that it gets wrong, bool (N,).

    Args:
        target: With a parent.
        order: The p of the norm.
        epsilon: Radius for images in [0, 1].
        force: How hard the parent is attacked.
    """
    if target.parent is None:
        return np.zeros(len(target.labels), bool)
    attack = _fixed(attack_spec("l2-pgd" if order == 2 else "linf-pgd"), epsilon, replace(force, restarts=1))
    shown = foolbox.last_points(target.parent, target.images, target.labels, attack=attack, seed=target.seed)
    device = device_of(target.model)
    hit: Array = misclassified(target.model, shown.to(device), target.labels.to(device)).cpu().numpy()
    return hit


def _fixed(weapon: AttackSpec, epsilon: float, force: AttackBudget) -> foolbox.Attack:
    restarts = force.restarts if weapon.iterative else 1
    return foolbox.Attack(weapon.name, epsilon, force.steps, restarts=restarts)


def _strong(weapon: AttackSpec, epsilon: float, force: AttackBudget) -> autoattack.StrongAttack:
    return autoattack.StrongAttack(
        weapon.plain, epsilon, "L2" if weapon.order == 2 else "Linf",
        steps=force.iterations, restarts=force.restarts, queries=force.queries,
    )  # fmt: skip
