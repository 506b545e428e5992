"""The attacks of all libraries under one name each, and one way to run them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from evalsuite.attacks.backends import autoattack, foolbox
from evalsuite.attacks.backends.base import misclassified
from evalsuite.compat.calls import class_labels, device_of, frozen_eval, unit_images
from evalsuite.datasets.views import View
from evalsuite.errors import UnknownNameError
from evalsuite.models.inference import gradient_obstacle
from evalsuite.registry import unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evalsuite.evaluation import Bench
    from evalsuite.types import Array

Kind = Literal["fixed-radius", "minimal-norm", "autoattack"]


@dataclass(frozen=True, slots=True)
class AttackSpec:
    """A kind of attack.

    Attributes:
        name: Its name in suites and conditions.
        order: The p of its norm: 2 or infinity.
        kind: ``fixed-radius`` and ``minimal-norm`` attacks are foolbox's, components of ``autoattack`` are
            pyautoattack's.
        black_box: Whether it uses the model's outputs only, and no gradients.
        iterative: Whether it takes many gradient steps inside a fixed radius.
    """

    name: str
    order: float
    kind: Kind
    black_box: bool = False
    iterative: bool = False

    @property
    def component(self) -> str:
        """The name without the norm, as AutoAttack has it."""
        return self.name.removeprefix("l2-")

    @property
    def follows_gradient_model(self) -> bool:
        """Whether its steps follow `Target.gradient_model`."""
        return self.kind == "fixed-radius" and self.iterative


@dataclass(frozen=True, slots=True)
class AttackBudget:
    """The budget of attacks: steps, restarts and queries.

    Attributes:
        steps: Gradient steps of foolbox's iterative attacks, draws of its noise.
        iterations: Iterations of APGD and FAB.
        restarts: Runs from different random starts.
        queries: Queries of Square per image.
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
    """A model and the images that it is attacked on.

    Attributes:
        model: Prepared for inference; takes images in [0, 1].
        images: float32 in [0, 1], (N, C, H, W).
        labels: int64 (N,).
        correct: Whether the model classifies each clean image correctly, bool (N,).
        classes: Number of classes.
        seed: Of everything random.
        parent: The unpruned network, prepared for inference, whose adversarials may transfer to the model; ``None``
            if this is it or has no gradients.
        memoise: Returns what a function of the parent alone returned at the first call with a key, for all
            candidates of the parent.
        gradient_model: The same model in less precision, for the gradients of PGD; ``None`` for `model` itself.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    correct: Array
    classes: int
    seed: int
    parent: nn.Module | None = None
    memoise: Callable[[Hashable, Callable[[], Tensor]], Tensor] = lambda _, compute: compute()
    gradient_model: nn.Module | None = None

    def first(self, count: int) -> Target:
        """Returns the first `count` images only."""
        cut = slice(0, count)
        return replace(self, images=self.images[cut], labels=self.labels[cut], correct=self.correct[cut])


def attack_target(bench: Bench, rows: Array | slice) -> Target:
    """Returns some of the clean test images of a bench as a target, in this order."""
    outputs = bench.outputs(View())
    return Target(
        model=bench.inference_model,
        images=unit_images(np.array(bench.images(View()).images[rows])),
        labels=torch.from_numpy(np.array(outputs.true_labels[rows], dtype=np.int64)),
        correct=outputs.correct[rows],
        classes=bench.classes,
        seed=bench.seed,
        parent=None
        if bench.parent is bench or gradient_obstacle(bench.parent.model)
        else bench.parent.inference_model,
        memoise=bench.parent.memoise,
        gradient_model=None if bench.gradient_model is bench.inference_model else bench.gradient_model,
    )


def _attack_specs() -> Mapping[str, AttackSpec]:
    fixed_radius = (foolbox.FixedRadiusAttack(name, 0.0) for name in foolbox.FIXED_RADIUS_NAMES)
    minimal_norm = map(foolbox.MinimalNormAttack, foolbox.MINIMAL_NORM_NAMES)
    specs = [
        *(
            AttackSpec(one.name, one.order, "fixed-radius", not one.needs_gradients, one.iterative)
            for one in fixed_radius
        ),
        *(AttackSpec(one.name, one.order, "minimal-norm") for one in minimal_norm),
        *(
            AttackSpec(f"{prefix}{name}", order, "autoattack", name == "square", name.startswith("apgd"))
            for prefix, order in (("", math.inf), ("l2-", 2.0))
            for name in autoattack.COMPONENT_NAMES
        ),
    ]
    return MappingProxyType({spec.name: spec for spec in specs})


ATTACK_SPECS = _attack_specs()
"""Name to attack; the norm is linf where the name has none."""


def attack_spec(name: str) -> AttackSpec:
    """Returns the attack called `name`.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in ATTACK_SPECS:
        raise UnknownNameError(unknown_name("attack", name, ATTACK_SPECS))
    return ATTACK_SPECS[name]


def check_settings(spec: AttackSpec, epsilon: float, budget: AttackBudget) -> None:
    """Checks the radius and the budget of an attack.

    Raises:
        UserError: If a number is out of its range.
    """
    if spec.kind == "fixed-radius":
        _fixed_radius_attack(spec, epsilon, budget)
    elif spec.kind == "autoattack":
        _autoattack_component(spec, epsilon, budget)


class AttackRunner:
    """Attacks on one target; minimal norms are searched once and serve every radius."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._norms: dict[str, Array] = {}

    @cached_property
    def _wrong_before(self) -> Tensor:
        """The images that the model misclassifies as they are, in the passes of the attacks; one for all attacks."""
        with frozen_eval(self._target.model) as device:
            labels = class_labels(self._target.labels, count=len(self._target.images))
            return misclassified(self._target.model, self._target.images.to(device), labels.to(device))

    def norms(self, spec: AttackSpec, *, steps: int = 0) -> Array:
        """Returns each image's distance to the nearest adversarial, float64 (N,); see `minimal_norms`."""
        if spec.name not in self._norms:
            target = self._target
            attack = foolbox.MinimalNormAttack(spec.name, steps)
            distances = foolbox.minimal_norms(
                target.model, target.images, target.labels, attack=attack, seed=target.seed
            )
            self._norms[spec.name] = distances.cpu().numpy().astype(np.float64)
        return self._norms[spec.name]

    def misclassified(
        self, spec: AttackSpec, epsilon: float, *, budget: AttackBudget, among: Array | None = None
    ) -> Array:
        """Returns which images are misclassified before the attack or through it, bool (N,).

        Args:
            spec: The attack.
            epsilon: Radius for images in [0, 1].
            budget: Its steps, restarts and queries.
            among: The images that are attacked, bool (N,); all by default.
        """
        if spec.kind == "minimal-norm":
            within: Array = self.norms(spec) <= epsilon
            return within if among is None else within & among
        target = self._target
        chosen = None if among is None else torch.from_numpy(np.array(among, dtype=bool))
        if spec.kind == "fixed-radius":
            result = foolbox.attack_success(
                target.model, target.images, target.labels,
                attack=_fixed_radius_attack(spec, epsilon, budget), seed=target.seed, among=chosen,
                wrong_before=self._wrong_before, gradient_model=target.gradient_model,
            )  # fmt: skip
        else:
            result = autoattack.autoattack_success(
                target.model, target.images, target.labels,
                attack=_autoattack_component(spec, epsilon, budget), seed=target.seed, among=chosen,
                wrong_before=self._wrong_before,
            )  # fmt: skip
        success: Array = result.misclassified.cpu().numpy()
        return success


def transfer_attack(target: Target, order: float, epsilon: float, *, budget: AttackBudget) -> Array:
    """Returns which images of a target are misclassified where PGD on its parent ends, bool (N,).

    The parent is attacked once for all of its candidates.

    Args:
        target: With a parent.
        order: The p of the norm.
        epsilon: Radius for images in [0, 1].
        budget: Of the attack on the parent.
    """
    if target.parent is None:
        return np.zeros(len(target.labels), bool)
    spec = attack_spec("l2-pgd" if order == 2 else "linf-pgd")
    parent, attack = target.parent, _fixed_radius_attack(spec, epsilon, replace(budget, restarts=1))
    adversarials = target.memoise(
        ("adversarials", attack, len(target.labels), target.seed),
        lambda: foolbox.last_points(parent, target.images, target.labels, attack=attack, seed=target.seed),
    )
    device = device_of(target.model)
    transferred: Array = (
        misclassified(target.model, adversarials.to(device), target.labels.to(device)).cpu().numpy()
    )
    return transferred


def _fixed_radius_attack(spec: AttackSpec, epsilon: float, budget: AttackBudget) -> foolbox.FixedRadiusAttack:
    restarts = budget.restarts if spec.iterative else 1
    return foolbox.FixedRadiusAttack(spec.name, epsilon, budget.steps, restarts=restarts)


def _autoattack_component(
    spec: AttackSpec, epsilon: float, budget: AttackBudget
) -> autoattack.AutoAttackComponent:
    return autoattack.AutoAttackComponent(
        spec.component, epsilon, "L2" if spec.order == 2 else "Linf",
        steps=budget.iterations, restarts=budget.restarts, queries=budget.queries,
    )  # fmt: skip
