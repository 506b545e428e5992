"""Calls foolbox 3.3 so that its numbers mean what they say: attacks at a fixed radius.

Its default steps cannot cross the ball they search (relative step 1/30: a third of epsilon in 10 steps), it
returns the last point instead of any that succeeded, it draws random starts and noise from torch's global
generator, its l-inf noise is scaled by the largest entry instead of the largest absolute one, and it checks
its inputs with assertions that have no text.
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

from evalsuite.attacks.backends.base import (
    BATCH,
    AllMisclassified,
    AttackResult,
    QueryRecorder,
    check_distance,
    check_numbers,
    confirmed,
    errors_on,
    norms,
    run_attack,
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
class Attack:
    """Is one attack at one radius, with everything that its result depends on but the seed.

    Attributes:
        name: One of `NAMES`.
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
        if self.name not in _KINDS:
            raise UnknownNameError(f"unknown attack {self.name!r}; known: {', '.join(NAMES)}")
        check_numbers(self.name, self.epsilon, {"steps": self.steps, "restarts": self.restarts})
        if self.restarts > 1 and not self.starts_randomly:
            raise UserError(f"{self.name}: {self.restarts} restarts without a random start all find the same")

    @property
    def order(self) -> float:
        """The p of the attack's norm."""
        return _KINDS[self.name].order

    @property
    def iterative(self) -> bool:
        """Whether it takes several gradient steps."""
        return _KINDS[self.name].settings is _projected

    @property
    def starts_randomly(self) -> bool:
        """Whether runs differ at all."""
        return self.random_start and self.iterative

    @property
    def needs_gradients(self) -> bool:
        """Whether the attack looks into the model; without, it only asks for its answers."""
        return _KINDS[self.name].settings is not _repeated


@dataclass(frozen=True, slots=True)
class _Kind:
    """Is what the library calls an attack, the p of its norm, and what it is constructed with."""

    title: str
    order: float
    settings: Callable[[Attack], Mapping[str, Any]]


def _single(_: Attack) -> Mapping[str, Any]:
    return {}


def _projected(attack: Attack) -> Mapping[str, Any]:
    step = TRAVEL / attack.steps
    return {"rel_stepsize": step, "steps": attack.steps, "random_start": attack.random_start}


def _repeated(attack: Attack) -> Mapping[str, Any]:
    return {"repeats": attack.steps}


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "fgsm": _Kind("LinfFastGradientAttack", math.inf, _single),
        "linf-pgd": _Kind("LinfProjectedGradientDescentAttack", math.inf, _projected),
        "linf-noise": _Kind("LinfRepeatedAdditiveUniformNoiseAttack", math.inf, _repeated),
        "fgm": _Kind("L2FastGradientAttack", 2, _single),
        "l2-pgd": _Kind("L2ProjectedGradientDescentAttack", 2, _projected),
    }
)

NAMES = tuple(sorted(_KINDS))
"""Names of the attacks."""


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


def wrapped(model: nn.Module) -> Any:
    """Returns a model as the library wants it, where it is: without a device it would be moved to a GPU."""
    return foolbox().PyTorchModel(model, bounds=(0, 1), device=device_of(model))


def attack_success(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: Attack,
    seed: int,
    among: Tensor | None = None,
) -> AttackResult:
    """Attacks every image that the model classifies correctly, and checks what the library claims.

    An image is broken if any point that the attack visited is misclassified, and leaves at the next restart;
    a batch of which all images are broken is finished. The random start of an image depends on the seed, the
    name of the attack and the image's index alone: neither on the batch nor on which other images are still
    in it, so that a network and its pruned children meet the same.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        attack: What to run.
        seed: Of the random starts.
        among: bool (N,): the images to attack; all by default.

    Returns:
        Which images are broken and the adversarials; ``1 - broken.mean()`` is the robust accuracy.

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
        return _attacked(model, tool, clean, labels=labels, attack=attack)

    return run_attack(model, images, labels, rounds=attack.restarts, prepared=lambda: run, among=among)


def last_points(model: nn.Module, images: Tensor, labels: Tensor, *, attack: Attack, seed: int) -> Tensor:
    """Returns where an attack on one model ends, to be shown to another: the last points, not the first that fool.

    The first point that fools a model lies just behind its boundary, and in front of another's; the last one went
    on as far as the ball lets it.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W); those that are wrong as they are are attacked too.
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
            _, last, _ = tool(wrapped(model), clean, labels[index].to(device), epsilons=attack.epsilon)
            end = last.detach().clamp(0, 1)
            check_distance(attack.name, end - clean, order=attack.order, epsilon=attack.epsilon)
            ends.append(end.to(images.device))
    return torch.cat(ends)


def _tool(attack: Attack, index: list[int], key: tuple[str | int, ...]) -> Any:
    kind = _KINDS[attack.name]
    tool = getattr(foolbox().attacks, kind.title)(**kind.settings(attack))
    if attack.starts_randomly:
        start_by_index(tool, index, key)
    elif not attack.needs_gradients:
        noise_by_index(tool, index, key)
    return tool


def _attacked(model: nn.Module, tool: Any, clean: Tensor, *, labels: Tensor, attack: Attack) -> AttackResult:
    watch = QueryRecorder(model, labels)
    try:
        _, last, claimed = tool(wrapped(watch), clean, labels, epsilons=attack.epsilon)
    except AllMisclassified:
        last, claimed = clean, torch.zeros_like(watch.broken)
    # the library's last projection comes after its last clipping and can leave the range by a rounding
    found = watch.found(last.detach()).clamp(0, 1)
    check_distance(attack.name, found - clean, order=attack.order, epsilon=attack.epsilon)
    return AttackResult(confirmed(model, found, labels, claimed=claimed | watch.broken), found)


Key = tuple[str | int, ...]


def start_by_index(tool: Any, index: list[int], key: Key) -> None:
    """Makes an attack of the library draw each image's random start at the address of the image."""
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
    """Makes an attack draw each image's noise at the address of the image, and scale it to epsilon."""
    from eagerpy.astensor import astensor

    draw, draws = tool.sample_noise, itertools.count()

    def noise(images: Any) -> Any:
        shape, number = (BLOCK, *images.shape[1:]), next(draws)
        blocks = {
            block: _drawn(lambda zeros, _: draw(zeros), shape, 1.0, (*key, number, block))
            for block in {at // BLOCK for at in index}
        }
        found = torch.stack([blocks[at // BLOCK][at % BLOCK] for at in index])
        unit = found / found.flatten(1).abs().amax(1).view(-1, *[1] * (found.dim() - 1))
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


class _MinimalNormAttack(NamedTuple):
    """Is what the library calls an attack, the p of its norm, and how many steps it takes by default."""

    title: str
    order: float
    steps: int


_MINIMAL_NORM_ATTACKS: Mapping[str, _MinimalNormAttack] = MappingProxyType(
    {
        "ddn": _MinimalNormAttack("DDNAttack", 2, 100),
        "l2-deepfool": _MinimalNormAttack("L2DeepFoolAttack", 2, 50),
        "l2-fmn": _MinimalNormAttack("L2FMNAttack", 2, 100),
        "linf-deepfool": _MinimalNormAttack("LinfDeepFoolAttack", math.inf, 50),
        "linf-fmn": _MinimalNormAttack("LInfFMNAttack", math.inf, 100),
    }
)

MINIMAL_NAMES = tuple(sorted(_MINIMAL_NORM_ATTACKS))
"""Names of the attacks that look for the nearest adversarial."""


@dataclass(frozen=True, slots=True)
class MinimalAttack:
    """Is an attack that looks for the nearest adversarial.

    Attributes:
        name: One of `MINIMAL_NAMES`.
        steps: Number of gradient steps; 0 for the library's own: 50 for DeepFool, 100 for the others.

    Raises:
        UnknownNameError: If there is no such attack.
        UserError: If the number of steps is negative.
    """

    name: str
    steps: int = 0

    def __post_init__(self) -> None:
        if self.name not in _MINIMAL_NORM_ATTACKS:
            raise UnknownNameError(f"unknown attack {self.name!r}; known: {', '.join(MINIMAL_NAMES)}")
        check_numbers(self.name, 0.0, {"steps": self.steps or 1})

    @property
    def order(self) -> float:
        """The p of the attack's norm."""
        return _MINIMAL_NORM_ATTACKS[self.name].order


def minimal_norms(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: MinimalAttack,
    seed: int,
    among: Tensor | None = None,
) -> Tensor:
    """Returns the distance to the nearest adversarial that was found.

    What the library finds is pulled back towards the image along the straight line, as far as it stays an
    adversarial. An upper bound on the true distance: a better attack may find a nearer one.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        attack: What to run.
        seed: Of the directions that the library draws where a gradient is zero.
        among: bool (N,): the images to attack; all by default.

    Returns:
        Shape (N,), in the attack's norm: 0 for images that are wrong as they are, infinite where no
        adversarial was found.

    Raises:
        DataError: If images or labels are not as above.
        InvalidModelError: If the model is in training mode or its logits are not finite.

    References:
        Moosavi-Dezfooli et al. 2016 (DeepFool), arXiv 1511.04599; Rony et al. 2019 (DDN), arXiv 1811.09600;
        Pintor et al. 2021 (FMN), arXiv 2102.12827.
    """
    kind = _MINIMAL_NORM_ATTACKS[attack.name]

    def run(clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:
        torch.default_generator.manual_seed(address("foolbox", seed, attack.name, restart, int(index[0])))
        tool = getattr(foolbox().attacks, kind.title)(steps=attack.steps or kind.steps)
        last, _, _ = tool(wrapped(model), clean, labels, epsilons=None)
        usable = last.isfinite().flatten(1).all(1)  # a zero gradient sends some attacks to infinity
        last = torch.where(usable.view(-1, *[1] * (last.dim() - 1)), last.detach(), clean).clamp(0, 1)
        return pulled_back(model, clean, last, labels=labels)

    found = run_attack(model, images, labels, rounds=1, prepared=lambda: run, among=among)
    distance = norms(found.images - images, order=attack.order)
    return torch.where(found.broken, distance, math.inf)


def pulled_back(model: nn.Module, clean: Tensor, found: Tensor, *, labels: Tensor) -> AttackResult:
    """Returns the nearest adversarials on the straight lines from images to adversarials, by bisection."""
    broken = errors_on(model, found, labels)
    near, far = torch.zeros(len(clean), device=clean.device), torch.ones(len(clean), device=clean.device)
    best = found
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        share = middle.view(-1, *[1] * (clean.dim() - 1))
        tried = clean + share * (found - clean)
        fools = errors_on(model, tried, labels)
        near, far = torch.where(fools, near, middle), torch.where(fools, middle, far)
        best = torch.where((fools & broken).view_as(share), tried, best)
    return AttackResult(broken, best)
