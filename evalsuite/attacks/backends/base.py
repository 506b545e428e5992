"""The loop around the attacks of every library: which images they get, and checks of the results."""

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

RADIUS_TOLERANCE = 1e-6
"""Distance beyond epsilon that an adversarial may have, absolutely and relatively: float32 rounds."""

CLEAR_MARGIN = 1e-3
"""Margin, relative to the largest logit, above which two passes over the same image must agree."""


class AttackResult(NamedTuple):
    """The result of an attack on a set of images.

    Attributes:
        misclassified: bool, shape (N,): misclassified before the attack or through it.
        adversarials: float32, shape (N, C, H, W). An image that was misclassified before the attack is unchanged;
            one that is still classified correctly is the last point that was tried.
    """

    misclassified: Tensor
    adversarials: Tensor


class AttackFunction(Protocol):
    """An attack on one batch."""

    def __call__(self, clean: Tensor, labels: Tensor, *, index: Tensor, restart: int) -> AttackResult:
        """Attacks the images that are at `index` of the whole set, once."""


class AllMisclassified(Exception):  # noqa: N818  # a signal, and no error
    """The end of an attack that has misclassified every image."""


class QueryRecorder(nn.Module):
    """A model that records, of the points that an attack queries, the first misclassified one of each image.

    Libraries return the last point, or the best by their loss; a point on the way that was misclassified is
    as good an adversarial. Once every image has one, the attack is stopped by `AllMisclassified`.

    Args:
        model: Takes images and returns logits.
        labels: int64 (N,); batches of another size are not recorded.
    """

    def __init__(self, model: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.labels = labels
        self.misclassified = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        self._first: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Returns the model's logits.

        Raises:
            AllMisclassified: Once each image has been misclassified at some point.
            InvalidModelError: If the logits are not finite.
        """
        logits: Tensor = self.model(images)
        if len(images) != len(self.labels) or logits.ndim != 2:
            return logits
        values = logits.detach()
        if not bool(values.isfinite().all()):
            raise InvalidModelError(
                "the model returned logits that are not finite under an attack, expected finite ones"
            )
        new = (values.argmax(1) != self.labels) & ~self.misclassified
        if self._first is None:
            self._first = images.detach().clone()
        self._first[new] = images.detach()[new]
        self.misclassified |= new
        if bool(self.misclassified.all()):
            raise AllMisclassified
        return logits

    def adversarials(self, last: Tensor) -> Tensor:
        """Returns the first adversarial of each image that has one, and `last` for the others."""
        if self._first is None:
            return last
        return torch.where(per_image(self.misclassified, last), self._first, last)


def misclassified(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns which images the model misclassifies as they are, bool (N,), on the model's device."""
    batches = range(0, len(images), BATCH)
    return torch.cat([errors_on(model, images[at : at + BATCH], labels[at : at + BATCH]) for at in batches])


def run_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    rounds: int,
    prepare: Callable[[], AttackFunction],
    among: Tensor | None = None,
    wrong_before: Tensor | None = None,
) -> AttackResult:
    """Attacks each image that the model classifies correctly, in batches, until it is misclassified or rounds end.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K). It is left as it was.
        images: float32 in [0, 1], shape (N, C, H, W).
        labels: int64, shape (N,).
        rounds: How often to attack images that are still classified correctly.
        prepare: Returns the attack of a batch; called once the model is ready for it.
        among: bool (N,): the images to attack; all by default.
        wrong_before: bool (N,): what `misclassified` returned for the images, if it is known; else a pass says it.

    Raises:
        DataError: If images or labels are not as above.
        InvalidModelError: If the model is in training mode or its logits are not finite.
    """
    if images.dtype != torch.float32:
        raise DataError(f"images are {images.dtype}, expected float32 in [0, 1]")
    with frozen_eval(model) as device:
        # images of NHWC files are views with their channels last, on which libraries cannot call view()
        clean = unit_images(images).detach().clone(memory_format=torch.contiguous_format).to(device)
        true_labels = class_labels(labels, count=len(clean)).clone().to(device)
        attack = prepare()
        adversarials = clean.clone()
        wrong = (
            misclassified(model, clean, true_labels)
            if wrong_before is None
            else wrong_before.to(device).clone()
        )
        excluded = torch.zeros_like(wrong) if among is None else ~among.to(device)
        for restart in range(rounds):
            left = torch.nonzero(~wrong & ~excluded).flatten()
            for index in (left[at : at + BATCH] for at in range(0, len(left), BATCH)):
                result = attack(clean[index], true_labels[index], index=index, restart=restart)
                wrong[index], adversarials[index] = result
    return AttackResult(wrong.to(images.device), adversarials.to(images.device))


def errors_on(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns which images of a batch a model misclassifies, bool (N,), without gradients and checked."""
    return logits_of(model, images, labels=labels).argmax(1) != labels


def verify_success(model: nn.Module, images: Tensor, labels: Tensor, *, claimed: Tensor) -> Tensor:
    """Returns which images a model misclassifies in a pass of its own.

    Raises:
        ContractError: If the library `claimed` something else, and rounding does not explain it.
    """
    logits = logits_of(model, images, labels=labels)
    wrong = logits.argmax(1) != labels
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    margin = (logits.gather(1, labels[:, None])[:, 0] - others).abs()
    clear = margin > CLEAR_MARGIN * logits.abs().amax(1)
    if bool((wrong.ne(claimed) & clear).any()):
        raise ContractError(
            "the library and a second pass disagree on which images the model misclassifies, "
            "expected the same result twice: is the model deterministic?"
        )
    return wrong


def norms(offsets: Tensor, *, order: float) -> Tensor:
    """Returns the norm of each image's offset, shape (N,)."""
    lengths: Tensor = torch.linalg.vector_norm(offsets.flatten(1), ord=order, dim=1)
    return lengths


def check_distance(name: str, offsets: Tensor, *, order: float, epsilon: float) -> None:
    """Checks that no adversarial lies outside the ball.

    Raises:
        ContractError: If one does.
    """
    distance = norms(offsets, order=order)
    if not bool((distance <= epsilon + RADIUS_TOLERANCE * max(1.0, epsilon)).all()):  # NaN fails this too
        raise ContractError(
            f"{name}: the library returned an image at distance {float(distance.max()):g}, "
            f"expected at most epsilon = {epsilon:g}"
        )


def check_numbers(name: str, epsilon: float, counts: dict[str, int]) -> None:
    """Checks the settings that every attack has.

    Raises:
        UserError: If epsilon is no radius or a count is below 1.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise UserError(f"{name}: epsilon is {epsilon}, expected a finite number of at least 0")
    if min(counts.values()) < 1:
        settings = " and ".join(f"{key} = {value}" for key, value in counts.items())
        raise UserError(f"{name}: {settings}, expected at least 1")


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Returns one value per image, (N,), in the shape that broadcasts over images, (N, 1, 1, 1)."""
    return values.view(-1, *[1] * (images.dim() - 1))
