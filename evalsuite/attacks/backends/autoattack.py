"""The components of AutoAttack (pyautoattack 0.2, installed with robustbench), one by one.

The library's own front end clears the process's trace function, counts in module globals that are never reset,
draws what an image meets from a generator that all images share, and fails in the middle where there are few
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
    per_image,
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
"""Target classes of targeted attacks, as in AutoAttack's standard version; fewer if there are fewer classes."""

COMPONENT_NAMES = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
"""Names of the components."""

_FEWEST: Mapping[str, int] = MappingProxyType({"apgd-dlr": 3, "apgd-t": 4})
"""Classes without which a loss is not defined: it is divided by a difference of sorted logits."""

SMALLEST = 5
"""Height of the smallest images whose tiles Square's L2 version can lay."""


@dataclass(frozen=True, slots=True)
class AutoAttackComponent:
    """One component of AutoAttack at one radius.

    Attributes:
        name: One of `COMPONENT_NAMES`.
        epsilon: Radius for images in [0, 1].
        norm: Of the radius.
        steps: Iterations of APGD and FAB; 100 in the standard version.
        restarts: Runs of APGD from different random starts; 1 in the standard version.
        queries: Queries of Square per image; 5,000 in the standard version.

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
        if self.name not in COMPONENT_NAMES:
            raise UnknownNameError(f"unknown attack {self.name!r}; known: {', '.join(COMPONENT_NAMES)}")
        counts = {"steps": self.steps, "restarts": self.restarts, "queries": self.queries}
        check_numbers(self.name, self.epsilon, counts)

    @property
    def order(self) -> float:
        """The p of the norm."""
        return math.inf if self.norm == "Linf" else 2

    @property
    def needs_gradients(self) -> bool:
        """Whether the attack uses gradients of the model."""
        return self.name != "square"


def available_component(name: str, *, classes: int) -> str:
    """Returns the component that takes the place of `name` where there are few classes; empty if none does.

    The targeted margin loss needs four classes and the untargeted one three; with two classes the
    cross-entropy is a function of the margin already.

    >>> [available_component("apgd-t", classes=classes) for classes in (10, 4, 3, 2)]
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


def autoattack_success(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: AutoAttackComponent,
    seed: int,
    among: Tensor | None = None,
    wrong_before: Tensor | None = None,
) -> AttackResult:
    """Attacks every image that the model classifies correctly with one component of AutoAttack.

    The adversarial of an image depends on the seed, the attack and the image's index alone: APGD's random starts are
    drawn per image, FAB starts at the image, and Square tries the same squares and signs on all images.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        attack: The component; see `available_component`.
        seed: Of everything random.
        among: bool (N,): the images to attack; all by default.
        wrong_before: bool (N,): which images are misclassified as they are, if it is known; else a pass says it.

    Returns:
        Which images are misclassified, and the adversarials.

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
    components = _Components(model, attack, seed)
    kinds = {"apgd": components.apgd, "fab": components.fab, "square": components.square}
    run = kinds[attack.name.partition("-")[0]]
    rounds = attack.restarts if attack.name.startswith("apgd") else 1
    return run_attack(
        model, images, labels, rounds=rounds, prepare=lambda: run, among=among, wrong_before=wrong_before
    )


class _Components:
    """The components as attacks on batches of images."""

    def __init__(self, model: nn.Module, attack: AutoAttackComponent, seed: int) -> None:
        self._model = model
        self._attack = attack
        self._key = ("autoattack", seed, attack.norm, attack.name)

    def apgd(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:
        """Attacks by projected gradient descent with adaptive steps, one target class after another."""
        attack = self._attack
        wrong, adversarials = torch.zeros_like(labels, dtype=torch.bool), clean.clone()
        logits = self._logits(clean)
        ranked = logits.argsort(dim=1, descending=True)
        targets = min(TARGETS, logits.shape[1] - 1) if attack.name == "apgd-t" else 1
        for place in range(1, targets + 1):
            left = torch.nonzero(~wrong).flatten()
            if not len(left):
                break
            recorder = QueryRecorder(self._model, labels[left])
            tool = self._apgd_tool(recorder)
            tool.init_hyperparam(clean[left])
            tool.y_target = ranked[left, place]
            starts = self._starts(clean[left], index[left], (restart, place))
            try:
                last = tool.attack_single_run(clean[left], labels[left], x_init=starts)[3]
            except AllMisclassified:
                last = clean[left]
            wrong[left], adversarials[left] = self._checked(
                clean[left], recorder.adversarials(last.detach()), labels[left]
            )
        return AttackResult(wrong, adversarials)

    def fab(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:  # noqa: ARG002  # draws nothing
        """Attacks by projections onto linearised decision boundaries, starting at the image."""
        attack = self._attack
        tool = pyautoattack().FABAttack_PT(
            self._model, norm=attack.norm, n_iter=attack.steps, eps=attack.epsilon, seed=0,
            targeted=attack.name == "fab-t", device=clean.device,
            n_target_classes=min(TARGETS, self._logits(clean).shape[1] - 1),
        )  # fmt: skip
        return self._checked(clean, tool.perturb(clean, labels), labels)

    def square(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:  # noqa: ARG002  # draws are shared
        """Attacks by random search over squares of extreme colours; uses the model's outputs only."""
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

    def _apgd_tool(self, model: QueryRecorder) -> Any:
        attack = self._attack
        settings = {
            "n_iter": attack.steps, "norm": attack.norm, "eps": attack.epsilon, "seed": 0,
            "device": device_of(self._model), "logger": log,
        }  # fmt: skip
        if attack.name == "apgd-t":
            return pyautoattack().APGDAttack_targeted(model, **settings)
        return pyautoattack().APGDAttack(model, loss=attack.name.partition("-")[2], **settings)

    def _starts(self, clean: Tensor, index: Tensor, key: tuple[int, int]) -> Tensor:
        """Random points on the sphere of the radius, as the library draws them, each at its image's address."""
        shape, linf = (BLOCK, *clean.shape[1:]), self._attack.norm == "Linf"
        blocks = {}
        for block in {at // BLOCK for at in index.tolist()}:
            draws = generator(*self._key, *key, block)
            drawn = draws.uniform(-1, 1, shape) if linf else draws.normal(size=shape)
            blocks[block] = torch.from_numpy(drawn.astype(np.float32))
        directions = torch.stack([blocks[at // BLOCK][at % BLOCK] for at in index.tolist()]).to(clean.device)
        length = torch.linalg.vector_norm(directions.flatten(1), ord=self._attack.order, dim=1)
        offsets: Tensor = self._attack.epsilon * directions / per_image(length, clean)
        return clean + offsets

    def _logits(self, clean: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._model(clean)
        return logits

    def _checked(self, clean: Tensor, points: Tensor, labels: Tensor) -> AttackResult:
        attack, points = self._attack, points.detach().clamp(0, 1)
        wrong = errors_on(self._model, points, labels)
        # points without success may lie anywhere: FAB leaves the ball on its way
        adversarials = torch.where(per_image(wrong, clean), points, clean)
        check_distance(attack.name, adversarials - clean, order=attack.order, epsilon=attack.epsilon)
        return AttackResult(wrong, adversarials)
