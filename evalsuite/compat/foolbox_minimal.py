"""Calls foolbox 3.3 for the smallest change that makes a model err: minimal norms instead of a fixed radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from evalsuite.compat.attacked import Attacked, check_numbers, norms, swept, wrong
from evalsuite.compat.foolbox import foolbox, wrapped
from evalsuite.errors import UnknownNameError
from evalsuite.randomness import address

if TYPE_CHECKING:
    from collections.abc import Mapping

HALVINGS = 10
"""Bisections of the line between an image and its adversarial: the norm is then exact to a thousandth of it."""


class _Kind(NamedTuple):
    """Is what the library calls an attack, the p of its norm, and how many steps it takes by default."""

    title: str
    order: float
    steps: int


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "ddn": _Kind("DDNAttack", 2, 100),
        "l2-deepfool": _Kind("L2DeepFoolAttack", 2, 50),
        "l2-fmn": _Kind("L2FMNAttack", 2, 100),
        "linf-deepfool": _Kind("LinfDeepFoolAttack", math.inf, 50),
        "linf-fmn": _Kind("LInfFMNAttack", math.inf, 100),
    }
)

MINIMAL_NAMES = tuple(sorted(_KINDS))
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
        if self.name not in _KINDS:
            raise UnknownNameError(f"unknown attack {self.name!r}; known: {', '.join(MINIMAL_NAMES)}")
        check_numbers(self.name, 0.0, {"steps": self.steps or 1})

    @property
    def order(self) -> float:
        """The p of the attack's norm."""
        return _KINDS[self.name].order


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
    kind = _KINDS[attack.name]

    def run(clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> Attacked:
        torch.default_generator.manual_seed(address("foolbox", seed, attack.name, restart, int(index[0])))
        tool = getattr(foolbox().attacks, kind.title)(steps=attack.steps or kind.steps)
        last, _, _ = tool(wrapped(model), clean, labels, epsilons=None)
        usable = last.isfinite().flatten(1).all(1)  # a zero gradient sends some attacks to infinity
        last = torch.where(usable.view(-1, *[1] * (last.dim() - 1)), last.detach(), clean).clamp(0, 1)
        return pulled_back(model, clean, last, labels=labels)

    found = swept(model, images, labels, rounds=1, prepared=lambda: run, among=among)
    distance = norms(found.images - images, order=attack.order)
    return torch.where(found.broken, distance, math.inf)


def pulled_back(model: nn.Module, clean: Tensor, found: Tensor, *, labels: Tensor) -> Attacked:
    """Returns the nearest adversarials on the straight lines from images to adversarials, by bisection."""
    broken = wrong(model, found, labels)
    near, far = torch.zeros(len(clean), device=clean.device), torch.ones(len(clean), device=clean.device)
    best = found
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        share = middle.view(-1, *[1] * (clean.dim() - 1))
        tried = clean + share * (found - clean)
        fools = wrong(model, tried, labels)
        near, far = torch.where(fools, near, middle), torch.where(fools, middle, far)
        best = torch.where((fools & broken).view_as(share), tried, best)
    return Attacked(broken, best)
