"""Calls foolbox 3.3 so that its numbers mean what they say.

Its default steps cannot cross the ball they search (relative step 1/30: a third of epsilon in 10 steps), it
draws random starts and noise from torch's global generator, its l-inf noise is scaled by the largest entry
instead of the largest absolute one, and it checks its inputs with assertions that have no text.
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

from evalsuite.compat.calling import borrowed, class_labels, device_of, logits_of, quiet_imports, unit_images
from evalsuite.errors import ContractError, DataError, UnknownNameError, UserError
from evalsuite.randomness import BLOCK, address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

BATCH = 128
"""Images per call of the library; results do not depend on it, up to the order of floating-point sums."""

TRAVEL = 2.5
"""Distance that all steps of an iterative attack can travel together, in units of epsilon."""

SLACK = 1e-6
"""How much farther than epsilon an adversarial may lie: float32 rounds."""


@dataclass(frozen=True, slots=True)
class Attack:
    """Is one attack at one radius, with everything that its result depends on but the seed.

    Attributes:
        name: One of `NAMES`.
        epsilon: Radius in the attack's norm, for images in [0, 1].
        steps: Number of gradient steps, or of draws of noise; single-step attacks ignore it. Fixed-radius
            attacks take steps of ``2.5 / steps`` of epsilon each, always.
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
            raise UnknownNameError(f"unknown attack {self.name!r}: Known: {', '.join(NAMES)}")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise UserError(f"{self.name}: epsilon is {self.epsilon}, expected a finite number of at least 0")
        if self.steps < 1 or self.restarts < 1:
            raise UserError(
                f"{self.name}: steps = {self.steps} and restarts = {self.restarts}, expected at least 1"
            )
        if self.restarts > 1 and not self.starts_randomly:
            raise UserError(f"{self.name}: {self.restarts} restarts without a random start all find the same")

    @property
    def starts_randomly(self) -> bool:
        """Whether runs differ at all."""
        return self.random_start and _KINDS[self.name].settings is _projected

    @property
    def needs_gradients(self) -> bool:
        """Whether the attack looks into the model; without, it only asks for its answers."""
        return _KINDS[self.name].settings is not _repeated


class Attacked(NamedTuple):
    """Is what an attack did to a set of images.

    Attributes:
        broken: bool, shape (N,): misclassified, before the attack or through it.
        images: float32, shape (N, C, H, W): the adversarials. An image that was wrong from the start is
            unchanged; one that withstood is the last point that was tried.
    """

    broken: Tensor
    images: Tensor


@dataclass(frozen=True, slots=True)
class _Kind:
    """Is what the library calls an attack, the p of its norm, and what it is constructed with."""

    title: str
    norm: float
    settings: Callable[[Attack], Mapping[str, Any]]


def _single(_: Attack) -> Mapping[str, Any]:
    return {}


def _projected(attack: Attack) -> Mapping[str, Any]:
    step = TRAVEL / attack.steps
    return {"rel_stepsize": step, "steps": attack.steps, "random_start": attack.random_start}


def _minimal(attack: Attack) -> Mapping[str, Any]:
    return {"steps": attack.steps}


def _repeated(attack: Attack) -> Mapping[str, Any]:
    return {"repeats": attack.steps}


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "fgsm": _Kind("LinfFastGradientAttack", math.inf, _single),
        "linf-pgd": _Kind("LinfProjectedGradientDescentAttack", math.inf, _projected),
        "linf-noise": _Kind("LinfRepeatedAdditiveUniformNoiseAttack", math.inf, _repeated),
        "fgm": _Kind("L2FastGradientAttack", 2, _single),
        "l2-pgd": _Kind("L2ProjectedGradientDescentAttack", 2, _projected),
        "l2-deepfool": _Kind("L2DeepFoolAttack", 2, _minimal),
        "ddn": _Kind("DDNAttack", 2, _minimal),
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


def attack_success(
    model: nn.Module, images: Tensor, labels: Tensor, *, attack: Attack, seed: int
) -> Attacked:
    """Attacks every image that the model classifies correctly, and checks what the library claims.

    The random start of an image depends on the seed, the name of the attack and the image's index alone:
    neither on the batch nor on which other images are still in it, so that a network and its pruned children
    meet the same.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        attack: What to run.
        seed: Of the random starts.

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
    if images.dtype != torch.float32:
        raise DataError(f"images are {images.dtype}, expected float32 in [0, 1]")
    with borrowed(model) as device:
        run = _Run(model, attack, seed)
        clean = unit_images(images).detach().clone().to(device)
        wanted = class_labels(labels, count=len(clean)).clone().to(device)
        batches = range(0, len(clean), BATCH)
        wrong = [_wrong(model, clean[at : at + BATCH], wanted[at : at + BATCH]) for at in batches]
        result = Attacked(torch.cat(wrong), clean.clone())
        for restart in range(attack.restarts):
            left = torch.nonzero(~result.broken).flatten()
            for index in (left[at : at + BATCH] for at in range(0, len(left), BATCH)):
                found = run(clean[index], wanted[index], index=index, restart=restart)
                result.broken[index], result.images[index] = found
    return Attacked(result.broken.to(images.device), result.images.to(images.device))


class _Run:
    """Runs one attack of the library on batches of images."""

    def __init__(self, model: nn.Module, attack: Attack, seed: int) -> None:
        self._model = model
        self._attack = attack
        self._seed = seed
        # without a device the library would move the model to the first GPU that it finds
        self._wrapped = foolbox().PyTorchModel(model, bounds=(0, 1), device=device_of(model))

    def __call__(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> Attacked:
        """Attacks the images at `index` of the whole set."""
        kind = _KINDS[self._attack.name]
        tool = getattr(foolbox().attacks, kind.title)(**kind.settings(self._attack))
        key = ("foolbox", self._seed, self._attack.name, restart)
        if self._attack.starts_randomly:
            _start_by_index(tool, index.tolist(), key)
        elif not self._attack.needs_gradients:
            _noise_by_index(tool, index.tolist(), key)
        _, found, claimed = tool(self._wrapped, clean, labels, epsilons=self._attack.epsilon)
        # the library's last projection comes after its last clipping and can leave the range by a rounding
        adversarial = found.detach().clamp(0, 1)
        _verify(self._attack, clean=clean, found=adversarial)
        wrong = _wrong(self._model, adversarial, labels)
        untouched = (adversarial == found).flatten(1).all(1)
        if bool((claimed.ne(wrong) & untouched).any()):
            raise ContractError(
                f"{self._attack.name}: the library and a second look disagree on what the model gets wrong, "
                "expected the same answer twice: is the model deterministic?"
            )
        return Attacked(wrong, adversarial)


def _start_by_index(tool: Any, index: list[int], key: tuple[str | int, ...]) -> None:
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


def _noise_by_index(tool: Any, index: list[int], key: tuple[str | int, ...]) -> None:
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


def _drawn(draw: Any, shape: tuple[int, ...], epsilon: float, key: tuple[str | int, ...]) -> Tensor:
    """Returns a block of random starts around zero, drawn on the CPU: other devices have other generators."""
    from eagerpy.astensor import astensor

    torch.default_generator.manual_seed(address(*key))
    offsets: Tensor = draw(astensor(torch.zeros(shape)), epsilon).raw
    return offsets


def _wrong(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return logits_of(model, images, labels=labels).argmax(1) != labels


def _verify(attack: Attack, *, clean: Tensor, found: Tensor) -> None:
    distance = torch.linalg.vector_norm((found - clean).flatten(1), ord=_KINDS[attack.name].norm, dim=1)
    if not bool((distance <= attack.epsilon + SLACK).all()):  # NaN fails this too
        raise ContractError(
            f"{attack.name}: the library returned an image at distance {float(distance.max()):g}, "
            f"expected at most epsilon = {attack.epsilon:g}"
        )
