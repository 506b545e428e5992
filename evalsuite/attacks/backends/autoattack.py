"""Calls the attacks of AutoAttack (pyautoattack 0.2, installed with robustbench) one by one.

Its own front end clears the process's trace function, counts in module globals that are never reset, draws
what an image meets from a generator that all images share, and fails in the middle where there are few
classes. Here the loops over restarts, targets and batches are ours, and the library takes the steps.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.attacks.backends.base import (
    AllMisclassified,
    AttackResult,
    QueryRecorder,
    check_distance,
    check_numbers,
    errors_on,
    run_attack,
)
from evalsuite.compat.calls import device_of, quiet_imports
from evalsuite.errors import DataError, UnknownNameError
from evalsuite.random_streams import BLOCK, address, generator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

log = logging.getLogger(__name__)

TARGETS = 9
"""Classes that targeted attacks aim at, as in AutoAttack's standard version; fewer where there are fewer."""

STRONG_NAMES = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
"""Names of the attacks."""

_FEWEST: Mapping[str, int] = MappingProxyType({"apgd-dlr": 3, "apgd-t": 4})
"""Classes without which a loss is not defined: it is divided by a difference of sorted logits."""

SMALLEST = 5
"""Height of the smallest images whose tiles Square's L2 version can lay."""


@dataclass(frozen=True, slots=True)
class StrongAttack:
    """Is one attack of AutoAttack at one radius.

    Attributes:
        name: One of `STRONG_NAMES`.
        epsilon: Radius for images in [0, 1].
        norm: Of the radius.
        steps: Iterations of APGD and FAB; 100 in the standard version.
        restarts: Runs of APGD from different random starts; 1 in the standard version.
        queries: Questions that Square asks per image; 5,000 in the standard version.

    Raises:
        UnknownNameError: If there is no such attack.
        UserError: If a number is out of its range.
    """

    name: str
    epsilon: float
    norm: Literal["Linf", "L2"] = "Linf"
    steps: int = 100
    restarts: int = 1
    queries: int = 500

    def __post_init__(self) -> None:
        if self.name not in STRONG_NAMES:
            raise UnknownNameError(f"unknown attack {self.name!r}; known: {', '.join(STRONG_NAMES)}")
        counts = {"steps": self.steps, "restarts": self.restarts, "queries": self.queries}
        check_numbers(self.name, self.epsilon, counts)

    @property
    def order(self) -> float:
        """The p of the norm."""
        return math.inf if self.norm == "Linf" else 2

    @property
    def needs_gradients(self) -> bool:
        """Whether the attack looks into the model."""
        return self.name != "square"


def playable(name: str, *, classes: int) -> str:
    """Returns the attack that takes the place of `name` where there are few classes; empty if none does.

    The targeted margin loss needs four classes and the untargeted one three; with two classes the
    cross-entropy is a function of the margin already.

    >>> [playable("apgd-t", classes=classes) for classes in (10, 4, 3, 2)]
    ['apgd-t', 'apgd-t', 'apgd-dlr', '']
    """
    if name == "apgd-t" and classes < _FEWEST[name]:
        name = "apgd-dlr"
    return name if classes >= _FEWEST.get(name, 2) else ""


@functools.cache
def pyautoattack() -> ModuleType:
    """Returns the library, imported on the first call."""
    with quiet_imports():
        return importlib.import_module("pyautoattack.autoattack")


def strong_success(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: StrongAttack,
    seed: int,
    among: Tensor | None = None,
) -> AttackResult:
    """Attacks every image that the model classifies correctly with one part of AutoAttack.

    What an image meets depends on the seed, the attack and the image's index alone: APGD's random starts are
    drawn per image, FAB starts at the image, and Square tries the same squares and signs on all images.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        attack: What to run; see `playable`.
        seed: Of everything random.
        among: bool (N,): the images to attack; all by default.

    Returns:
        Which images are broken and the adversarials.

    Raises:
        DataError: If images or labels are not as above, or too small for the attack.
        InvalidModelError: If the model is in training mode or its logits are not finite.
        ContractError: If the library leaves the ball.

    References:
        Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", arXiv 2003.01690 (APGD); arXiv 1907.02044 (FAB); Andriushchenko et al. 2020,
        arXiv 1912.00049 (Square).
    """
    if attack.name == "square" and attack.norm == "L2" and images.shape[-2] < SMALLEST:
        raise DataError(
            f"l2-square: images are {images.shape[-2]} pixels high, expected {SMALLEST}: leave it out"
        )
    parts = _Parts(model, attack, seed)
    run = {"apgd": parts.apgd, "fab": parts.fab, "square": parts.square}[attack.name.partition("-")[0]]
    rounds = attack.restarts if attack.name.startswith("apgd") else 1
    return run_attack(model, images, labels, rounds=rounds, prepared=lambda: run, among=among)


class _Parts:
    """Runs the parts on batches of images."""

    def __init__(self, model: nn.Module, attack: StrongAttack, seed: int) -> None:
        self._model = model
        self._attack = attack
        self._key = ("autoattack", seed, attack.norm, attack.name)

    def apgd(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:
        """Projected gradient descent with a step size that adapts, on what still stands."""
        attack = self._attack
        result = AttackResult(torch.zeros_like(labels, dtype=torch.bool), clean.clone())
        logits = self._logits(clean)
        ranked = logits.argsort(dim=1, descending=True)
        targets = min(TARGETS, logits.shape[1] - 1) if attack.name == "apgd-t" else 1
        for place in range(1, targets + 1):
            left = torch.nonzero(~result.broken).flatten()
            if not len(left):
                break
            watch = QueryRecorder(self._model, labels[left])
            tool = self._apgd_tool(watch)
            tool.init_hyperparam(clean[left])
            tool.y_target = ranked[left, place]
            starts = self._starts(clean[left], index[left], (restart, place))
            try:
                last = tool.attack_single_run(clean[left], labels[left], x_init=starts)[3]
            except AllMisclassified:
                last = clean[left]
            result.broken[left], result.images[left] = self._checked(
                clean[left], watch.found(last.detach()), labels[left]
            )
        return result

    def fab(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:  # noqa: ARG002  # draws nothing
        """Projects onto linearised decision boundaries, starting at the image."""
        attack = self._attack
        tool = pyautoattack().FABAttack_PT(
            self._model, norm=attack.norm, n_iter=attack.steps, eps=attack.epsilon, seed=0,
            targeted=attack.name == "fab-t", device=clean.device,
            n_target_classes=min(TARGETS, self._logits(clean).shape[1] - 1),
        )  # fmt: skip
        return self._checked(clean, tool.perturb(clean, labels), labels)

    def square(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:  # noqa: ARG002  # draws are shared
        """Random search over squares of extreme colours; asks the model for its answers only."""
        attack = self._attack
        tool = pyautoattack().SquareAttack(
            self._model, norm=attack.norm, n_queries=attack.queries, eps=attack.epsilon, p_init=0.8,
            seed=address(*self._key), device=clean.device, resc_schedule=False,
        )  # fmt: skip
        draw = tool.random_choice
        # per-image signs depend on which images are left: all images get the same, as they get the same squares
        tool.random_choice = lambda shape: (
            draw([1, *shape[1:]]).expand(*shape) if len(shape) == clean.dim() else draw(shape)
        )
        return self._checked(clean, tool.perturb(clean, labels), labels)

    def _apgd_tool(self, watch: QueryRecorder) -> Any:
        attack = self._attack
        settings = {
            "n_iter": attack.steps, "norm": attack.norm, "eps": attack.epsilon, "seed": 0,
            "device": device_of(self._model), "logger": log,
        }  # fmt: skip
        if attack.name == "apgd-t":
            return pyautoattack().APGDAttack_targeted(watch, **settings)
        return pyautoattack().APGDAttack(watch, loss=attack.name.partition("-")[2], **settings)

    def _starts(self, clean: Tensor, index: Tensor, key: tuple[int, int]) -> Tensor:
        """Random points on the sphere of the radius, as the library draws them, each at its image's address."""
        shape, linf = (BLOCK, *clean.shape[1:]), self._attack.norm == "Linf"
        blocks = {}
        for block in {at // BLOCK for at in index.tolist()}:
            draws = generator(*self._key, *key, block)
            drawn = draws.uniform(-1, 1, shape) if linf else draws.normal(size=shape)
            blocks[block] = torch.from_numpy(drawn.astype(np.float32))
        found = torch.stack([blocks[at // BLOCK][at % BLOCK] for at in index.tolist()]).to(clean.device)
        length = torch.linalg.vector_norm(found.flatten(1), ord=self._attack.order, dim=1)
        away: Tensor = self._attack.epsilon * found / length.view(-1, *[1] * (clean.dim() - 1))
        return clean + away

    def _logits(self, clean: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._model(clean)
        return found

    def _checked(self, clean: Tensor, found: Tensor, labels: Tensor) -> AttackResult:
        attack, found = self._attack, found.detach().clamp(0, 1)
        broken = errors_on(self._model, found, labels)
        # what did not succeed may lie anywhere: FAB walks outside of the ball
        found = torch.where(broken.view(-1, *[1] * (clean.dim() - 1)), found, clean)
        check_distance(attack.name, found - clean, order=attack.order, epsilon=attack.epsilon)
        return AttackResult(broken, found)
