"""What every attack has in common, whoever wrote it: which images it meets, and what is believed of its claims."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from evalsuite.compat.calls import class_labels, frozen_eval, logits_of, unit_images
from evalsuite.errors import ContractError, DataError, InvalidModelError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 128
"""Images per call of a library; results do not depend on it, up to the order of floating-point sums."""

SLACK = 1e-6
"""How much farther than epsilon an adversarial may lie, absolutely and relatively: float32 rounds."""

CLEAR = 1e-3
"""Margin, relative to the largest logit, from which on two looks at the same image must agree."""


class AttackResult(NamedTuple):
    """Is what an attack did to a set of images.

    Attributes:
        broken: bool, shape (N,): misclassified, before the attack or through it.
        images: float32, shape (N, C, H, W): the adversarials. An image that was wrong from the start is
            unchanged; one that withstood is the last point that was tried.
    """

    broken: Tensor
    images: Tensor


class AttackFunction(Protocol):
    """Attacks a batch once."""

    def __call__(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:
        """Returns what became of the images at `index` of the whole set."""


class AllMisclassified(Exception):  # noqa: N818  # is a signal, and no error
    """Ends an attack that has nothing left to break."""


class QueryRecorder(nn.Module):
    """Shows a model to an attack and keeps the first of its points that breaks each image.

    Libraries return the last point, or the best by their loss; a point on the way that was misclassified is
    as good an adversarial. Once every image has one, the attack is stopped by `AllMisclassified`.

    Args:
        model: Takes images and returns logits.
        labels: int64 (N,); batches of another size pass unwatched.
    """

    def __init__(self, model: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.labels = labels
        self.broken = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        self.images: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's logits.

        Raises:
            AllBroken: Once each image has been broken at some point.
            InvalidModelError: If the logits are not finite.
        """
        logits: Tensor = self.model(images)
        if len(images) != len(self.labels) or logits.ndim != 2:
            return logits
        seen = logits.detach()
        if not bool(seen.isfinite().all()):
            raise InvalidModelError(
                "the model returned logits that are not finite under an attack, expected finite ones"
            )
        new = (seen.argmax(1) != self.labels) & ~self.broken
        if self.images is None:
            self.images = images.detach().clone()
        self.images[new] = images.detach()[new]
        self.broken |= new
        if bool(self.broken.all()):
            raise AllMisclassified
        return logits

    def found(self, last: Tensor) -> Tensor:
        """Returns the first adversarial of each image that has one, and `last` for the others."""
        if self.images is None:
            return last
        return torch.where(_wide(self.broken, last), self.images, last)


def misclassified(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns which images the model gets wrong as they are, bool (N,), on the model's device."""
    batches = range(0, len(images), BATCH)
    return torch.cat([errors_on(model, images[at : at + BATCH], labels[at : at + BATCH]) for at in batches])


def run_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    rounds: int,
    prepared: Callable[[], AttackFunction],
    among: Tensor | None = None,
) -> AttackResult:
    """Attacks every image that the model classifies correctly, in batches, until it is broken or `rounds` are over.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        rounds: How often to attack what still stands.
        prepared: Returns the attack of a batch; called once the model is ready for it.
        among: bool (N,): the others are not attacked, and not broken unless they are wrong as they are.

    Raises:
        DataError: If images or labels are not as above.
        InvalidModelError: If the model is in training mode or its logits are not finite.
    """
    if images.dtype != torch.float32:
        raise DataError(f"images are {images.dtype}, expected float32 in [0, 1]")
    with frozen_eval(model) as device:
        # images of NHWC files are views with their channels last, on which libraries cannot call view()
        clean = unit_images(images).detach().clone(memory_format=torch.contiguous_format).to(device)
        wanted = class_labels(labels, count=len(clean)).clone().to(device)
        run = prepared()
        result = AttackResult(misclassified(model, clean, wanted), clean.clone())
        out = torch.zeros_like(result.broken) if among is None else ~among.to(device)
        for restart in range(rounds):
            left = torch.nonzero(~result.broken & ~out).flatten()
            for index in (left[at : at + BATCH] for at in range(0, len(left), BATCH)):
                found = run(clean[index], wanted[index], index=index, restart=restart)
                result.broken[index], result.images[index] = found
    return AttackResult(result.broken.to(images.device), result.images.to(images.device))


def errors_on(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns which images a model gets wrong, bool (N,), without gradients and checked."""
    return logits_of(model, images, labels=labels).argmax(1) != labels


def confirmed(model: nn.Module, images: Tensor, labels: Tensor, *, claimed: Tensor) -> Tensor:
    """Returns which images a model gets wrong at a second look.

    Raises:
        ContractError: If the library `claimed` something else, and rounding does not explain it.
    """
    logits = logits_of(model, images, labels=labels)
    found = logits.argmax(1) != labels
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    margin = (logits.gather(1, labels[:, None])[:, 0] - others).abs()
    clear = margin > CLEAR * logits.abs().amax(1)
    if bool((found.ne(claimed) & clear).any()):
        raise ContractError(
            "the library and a second look disagree on what the model gets wrong, "
            "expected the same answer twice: is the model deterministic?"
        )
    return found


def norms(offsets: Tensor, *, order: float) -> Tensor:
    """Returns the norm of each image's offset, shape (N,)."""
    found: Tensor = torch.linalg.vector_norm(offsets.flatten(1), ord=order, dim=1)
    return found


def check_distance(name: str, offsets: Tensor, *, order: float, epsilon: float) -> None:
    """Checks that no adversarial lies outside the ball.

    Raises:
        ContractError: If one does.
    """
    distance = norms(offsets, order=order)
    if not bool((distance <= epsilon + SLACK * max(1.0, epsilon)).all()):  # NaN fails this too
        raise ContractError(
            f"{name}: the library returned an image at distance {float(distance.max()):g}, "
            f"expected at most epsilon = {epsilon:g}"
        )


def check_numbers(name: str, epsilon: float, counts: dict[str, int]) -> None:
    """Checks what every attack is told.

    Raises:
        UserError: If epsilon is no radius or a count is below 1.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise UserError(f"{name}: epsilon is {epsilon}, expected a finite number of at least 0")
    if min(counts.values()) < 1:
        found = " and ".join(f"{key} = {value}" for key, value in counts.items())
        raise UserError(f"{name}: {found}, expected at least 1")


def _wide(mask: Tensor, images: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (images.dim() - 1))
