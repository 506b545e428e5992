"""The attacks of foolbox 3.3: at a fixed radius, and with minimal norm.

What the library gets wrong is corrected here. Its default steps cannot cross the ball that they search (relative
step 1/30: a third of epsilon in 10 steps), it returns the last point instead of any that succeeded and goes on with
images that it has broken, it draws random
starts and noise from torch's global generator, its l-inf noise is scaled by the largest entry instead of the largest
absolute one, and it checks its inputs with assertions that have no text.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from evalsuite.attacks.backends.active_set import projected_gradient
from evalsuite.attacks.backends.base import (
    BATCH,
    AllMisclassified,
    AttackResult,
    QueryRecorder,
    check_distance,
    check_numbers,
    errors_on,
    norms,
    per_image,
    run_attack,
    verify_success,
)
from evalsuite.compat.calls import device_of, frozen_eval, quiet_imports
from evalsuite.errors import UnknownNameError, UserError
from evalsuite.random_streams import BLOCK, address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


TRAVEL = 2.5
"""Distance that all steps of an iterative attack can travel together, in units of epsilon."""


@dataclass(frozen=True, slots=True)
class FixedRadiusAttack:
    """One attack at one radius, with everything that its result depends on but the seed.

    Attributes:
        name: One of `FIXED_RADIUS_NAMES`.
        epsilon: Radius in the attack's norm, for images in [0, 1].
        steps: Number of gradient steps, or of draws of noise; single-step attacks ignore it. Each step is
            ``2.5 / steps`` of epsilon, always.
        random_start: Whether iterative attacks start at a random point of the ball.
        restarts: Number of runs from different random starts; the union of their successes counts.

    Raises:
        UnknownNameError: If there is no such attack.
        UserError: If a number is out of its range.
    """

    name: str
    epsilon: float
    steps: int = 20
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.name not in _FIXED_RADIUS_TABLE:
            raise UnknownNameError(f"unknown attack {self.name!r}; known: {', '.join(FIXED_RADIUS_NAMES)}")
        check_numbers(self.name, self.epsilon, {"steps": self.steps, "restarts": self.restarts})
        if self.restarts > 1 and not self.starts_randomly:
            raise UserError(
                f"{self.name}: {self.restarts} restarts without a random start all find the same; set restarts = 1"
            )

    @property
    def order(self) -> float:
        """The p of the attack's norm."""
        return _FIXED_RADIUS_TABLE[self.name].order

    @property
    def iterative(self) -> bool:
        """Whether it takes several gradient steps."""
        return _FIXED_RADIUS_TABLE[self.name].settings is _projected

    @property
    def starts_randomly(self) -> bool:
        """Whether runs differ at all."""
        return self.random_start and self.iterative

    @property
    def needs_gradients(self) -> bool:
        """Whether the attack uses gradients of the model, and not its outputs only."""
        return _FIXED_RADIUS_TABLE[self.name].settings is not _repeated


@dataclass(frozen=True, slots=True)
class _FixedRadiusEntry:
    """The class of an attack in the library, the p of its norm, and the arguments of its constructor."""

    title: str
    order: float
    settings: Callable[[FixedRadiusAttack], Mapping[str, Any]]


def _single(_: FixedRadiusAttack) -> Mapping[str, Any]:
    return {}


def _projected(attack: FixedRadiusAttack) -> Mapping[str, Any]:
    step = TRAVEL / attack.steps
    return {"rel_stepsize": step, "steps": attack.steps, "random_start": attack.random_start}


def _repeated(attack: FixedRadiusAttack) -> Mapping[str, Any]:
    return {"repeats": attack.steps}


_FIXED_RADIUS_TABLE: Mapping[str, _FixedRadiusEntry] = MappingProxyType(
    {
        "fgsm": _FixedRadiusEntry("LinfFastGradientAttack", math.inf, _single),
        "linf-pgd": _FixedRadiusEntry("LinfProjectedGradientDescentAttack", math.inf, _projected),
        "linf-noise": _FixedRadiusEntry("LinfRepeatedAdditiveUniformNoiseAttack", math.inf, _repeated),
        "fgm": _FixedRadiusEntry("L2FastGradientAttack", 2, _single),
        "l2-pgd": _FixedRadiusEntry("L2ProjectedGradientDescentAttack", 2, _projected),
    }
)

FIXED_RADIUS_NAMES = tuple(sorted(_FIXED_RADIUS_TABLE))
"""Names of the attacks at a fixed radius."""


@functools.cache
def foolbox() -> ModuleType:
    """Returns the library, imported on the first call."""
    key, before = "GIT_PYTHON_REFRESH", os.environ.get("GIT_PYTHON_REFRESH")
    os.environ[key] = "quiet"  # its model zoo imports GitPython, which fails where there is no git
    try:
        with quiet_imports():
            return importlib.import_module("foolbox")
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def foolbox_model(model: nn.Module) -> Any:
    """Returns a model in the library's wrapper, on its own device: without one it would be moved to a GPU."""
    return foolbox().PyTorchModel(model, bounds=(0, 1), device=device_of(model))


def attack_success(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: FixedRadiusAttack,
    seed: int,
    among: Tensor | None = None,
    wrong_before: Tensor | None = None,
    gradient_model: nn.Module | None = None,
) -> AttackResult:
    """Attacks every image that the model classifies correctly, and checks what the library claims.

    An attack succeeds if any point that it visited is misclassified; the image then takes part in no further
    step and no further restart. The random start of an image depends
    on the seed, the name of the attack and the image's index alone: neither on the batch nor on which other images
    are still in it, so that a network and its pruned children have the same starts.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        attack: What to run.
        seed: Of the random starts.
        among: bool (N,): the images to attack; all by default.
        wrong_before: bool (N,): which images are misclassified as they are, if it is known; else a pass says it.
        gradient_model: The same network in less precision, whose gradients iterative attacks follow; success is
            always that on `model`.

    Returns:
        Which images are misclassified, and the adversarials; ``1 - misclassified.mean()`` is the robust accuracy.

    Raises:
        DataError: If images or labels are not as above.
        InvalidModelError: If the model is in training mode or its logits are not finite.
        ContractError: If the library claims an adversarial that is none.

    References:
        Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples" (FGSM); Madry et al. 2018,
        "Towards Deep Learning Models Resistant to Adversarial Attacks" (PGD).
    """

    def run(clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:
        tool = _tool(attack, index.tolist(), ("foolbox", seed, attack.name, restart))
        if attack.iterative:
            return projected_gradient(
                model,
                tool,
                clean,
                labels=labels,
                epsilon=attack.epsilon,
                order=attack.order,
                gradient_model=gradient_model,
            )
        return _run_tool(model, tool, clean, labels=labels, attack=attack)

    return run_attack(
        model,
        images,
        labels,
        rounds=attack.restarts,
        prepare=lambda: run,
        among=among,
        wrong_before=wrong_before,
    )


def last_points(
    model: nn.Module, images: Tensor, labels: Tensor, *, attack: FixedRadiusAttack, seed: int
) -> Tensor:
    """Returns the last points of an attack on one model, for a transfer to another model.

    The first misclassified point lies just behind the boundary of the attacked model, and often in front of the
    other's; the last one lies as far behind it as the ball allows.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W); those that are misclassified as they are are attacked too.
        labels: int64, shape (N,).
        attack: What to run, once.
        seed: Of the random starts.

    Returns:
        float32 in [0, 1], inside the ball, shape (N, C, H, W).

    Raises:
        ContractError: If the library leaves the ball.
    """
    ends = []
    with frozen_eval(model) as device:
        for start in range(0, len(images), BATCH):
            index = list(range(start, min(start + BATCH, len(images))))
            # libraries call view() on what is shaped like their images
            clean = images[index].clone(memory_format=torch.contiguous_format).to(device)
            tool = _tool(attack, index, ("foolbox", seed, attack.name, 0))
            _, last, _ = tool(foolbox_model(model), clean, labels[index].to(device), epsilons=attack.epsilon)
            end = last.detach().clamp(0, 1)
            check_distance(attack.name, end - clean, order=attack.order, epsilon=attack.epsilon)
            ends.append(end.to(images.device))
    return torch.cat(ends)


def _tool(attack: FixedRadiusAttack, index: list[int], key: tuple[str | int, ...]) -> Any:
    kind = _FIXED_RADIUS_TABLE[attack.name]
    tool = getattr(foolbox().attacks, kind.title)(**kind.settings(attack))
    if attack.starts_randomly:
        start_by_index(tool, index, key)
    elif not attack.needs_gradients:
        noise_by_index(tool, index, key)
    return tool


def _run_tool(
    model: nn.Module, tool: Any, clean: Tensor, *, labels: Tensor, attack: FixedRadiusAttack
) -> AttackResult:
    recorder = QueryRecorder(model, labels)
    try:
        _, last, claimed = tool(foolbox_model(recorder), clean, labels, epsilons=attack.epsilon)
    except AllMisclassified:
        last, claimed = clean, torch.zeros_like(recorder.misclassified)
    # the library's last projection comes after its last clipping and can leave the range by a rounding
    adversarials = recorder.adversarials(last.detach()).clamp(0, 1)
    check_distance(attack.name, adversarials - clean, order=attack.order, epsilon=attack.epsilon)
    claimed = claimed | recorder.misclassified
    return AttackResult(verify_success(model, adversarials, labels, claimed=claimed), adversarials)


Key = tuple[str | int, ...]


def start_by_index(tool: Any, index: list[int], key: Key) -> None:
    """Makes an attack of the library draw the random start of each image from the image's own stream."""
    from eagerpy.astensor import astensor

    draw = tool.get_random_start

    def start(images: Any, epsilon: float) -> Any:
        shape = (BLOCK, *images.shape[1:])
        blocks = {
            block: _drawn(draw, shape, epsilon, (*key, block)) for block in {at // BLOCK for at in index}
        }
        offsets = torch.stack([blocks[at // BLOCK][at % BLOCK] for at in index])
        return images + astensor(offsets.to(images.raw.device))

    tool.get_random_start = start


def noise_by_index(tool: Any, index: list[int], key: Key) -> None:
    """Makes an attack draw the noise of each image from the image's own stream, and scale it to epsilon."""
    from eagerpy.astensor import astensor

    draw, draws = tool.sample_noise, itertools.count()

    def noise(images: Any) -> Any:
        shape, number = (BLOCK, *images.shape[1:]), next(draws)
        blocks = {
            block: _drawn(lambda zeros, _: draw(zeros), shape, 1.0, (*key, number, block))
            for block in {at // BLOCK for at in index}
        }
        values = torch.stack([blocks[at // BLOCK][at % BLOCK] for at in index])
        unit = values / per_image(values.flatten(1).abs().amax(1), values)
        return astensor(unit.to(images.raw.device))

    tool.sample_noise = noise
    tool.get_epsilons = lambda _images, _noise, epsilon, **_: epsilon


def _drawn(draw: Any, shape: tuple[int, ...], epsilon: float, key: Key) -> Tensor:
    """Returns a block of random starts around zero, drawn on the CPU: other devices have other generators."""
    from eagerpy.astensor import astensor

    torch.default_generator.manual_seed(address(*key))
    offsets: Tensor = draw(astensor(torch.zeros(shape)), epsilon).raw
    return offsets


HALVINGS = 10
"""Bisections of the line between an image and its adversarial: the norm is then exact to a thousandth of it."""


class _MinimalNormEntry(NamedTuple):
    """The class of an attack in the library, the p of its norm, and its default number of steps."""

    title: str
    order: float
    steps: int


_MINIMAL_NORM_TABLE: Mapping[str, _MinimalNormEntry] = MappingProxyType(
    {
        "ddn": _MinimalNormEntry("DDNAttack", 2, 100),
        "l2-deepfool": _MinimalNormEntry("L2DeepFoolAttack", 2, 50),
        "l2-fmn": _MinimalNormEntry("L2FMNAttack", 2, 100),
        "linf-deepfool": _MinimalNormEntry("LinfDeepFoolAttack", math.inf, 50),
        "linf-fmn": _MinimalNormEntry("LInfFMNAttack", math.inf, 100),
    }
)

MINIMAL_NORM_NAMES = tuple(sorted(_MINIMAL_NORM_TABLE))
"""Names of the attacks that search for the nearest adversarial."""


@dataclass(frozen=True, slots=True)
class MinimalNormAttack:
    """An attack that searches for the nearest adversarial.

    Attributes:
        name: One of `MINIMAL_NORM_NAMES`.
        steps: Number of gradient steps; 0 for the library's own: 50 for DeepFool, 100 for the others.

    Raises:
        UnknownNameError: If there is no such attack.
        UserError: If the number of steps is negative.
    """

    name: str
    steps: int = 0

    def __post_init__(self) -> None:
        if self.name not in _MINIMAL_NORM_TABLE:
            raise UnknownNameError(f"unknown attack {self.name!r}; known: {', '.join(MINIMAL_NORM_NAMES)}")
        check_numbers(self.name, 0.0, {"steps": self.steps or 1})

    @property
    def order(self) -> float:
        """The p of the attack's norm."""
        return _MINIMAL_NORM_TABLE[self.name].order


def minimal_norms(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: MinimalNormAttack,
    seed: int,
    among: Tensor | None = None,
) -> Tensor:
    """Returns the distance to the nearest adversarial that was found.

    The adversarials of the library are moved towards the image along the straight line, as far as they stay
    adversarial. The distance is an upper bound on the true one: a better attack may find a nearer adversarial.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        attack: What to run.
        seed: Of the directions that the library draws where a gradient is zero.
        among: bool (N,): the images to attack; all by default.

    Returns:
        Shape (N,), in the attack's norm: 0 for images that are misclassified as they are, infinite where no
        adversarial was found.

    Raises:
        DataError: If images or labels are not as above.
        InvalidModelError: If the model is in training mode or its logits are not finite.

    References:
        Moosavi-Dezfooli et al. 2016 (DeepFool), arXiv 1511.04599; Rony et al. 2019 (DDN), arXiv 1811.09600;
        Pintor et al. 2021 (FMN), arXiv 2102.12827.
    """
    kind = _MINIMAL_NORM_TABLE[attack.name]

    def run(clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:
        torch.default_generator.manual_seed(address("foolbox", seed, attack.name, restart, int(index[0])))
        tool = getattr(foolbox().attacks, kind.title)(steps=attack.steps or kind.steps)
        last, _, _ = tool(foolbox_model(model), clean, labels, epsilons=None)
        usable = last.isfinite().flatten(1).all(1)  # a zero gradient sends some attacks to infinity
        last = torch.where(per_image(usable, last), last.detach(), clean).clamp(0, 1)
        return bisect_to_boundary(model, clean, last, labels=labels)

    result = run_attack(model, images, labels, rounds=1, prepare=lambda: run, among=among)
    distance = norms(result.adversarials - images, order=attack.order)
    return torch.where(result.misclassified, distance, math.inf)


def bisect_to_boundary(model: nn.Module, clean: Tensor, points: Tensor, *, labels: Tensor) -> AttackResult:
    """Returns the nearest adversarials on the straight lines from images to points, by bisection."""
    wrong = errors_on(model, points, labels)
    near, far = torch.zeros(len(clean), device=clean.device), torch.ones(len(clean), device=clean.device)
    best = points
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        share = per_image(middle, clean)
        tried = clean + share * (points - clean)
        wrong_here = errors_on(model, tried, labels)
        near, far = torch.where(wrong_here, near, middle), torch.where(wrong_here, middle, far)
        best = torch.where((wrong_here & wrong).view_as(share), tried, best)
    return AttackResult(wrong, best)
