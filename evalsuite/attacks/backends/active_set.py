"""Projected gradient descent by foolbox's steps, on the images that it has not broken yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalsuite.attacks.backends.base import AttackResult, check_distance, errors_on, verify_success
from evalsuite.errors import InvalidModelError
from evalsuite.models.inference import InferenceModel

if TYPE_CHECKING:
    from collections.abc import Callable


def projected_gradient(
    model: nn.Module,
    tool: Any,
    clean: Tensor,
    *,
    labels: Tensor,
    epsilon: float,
    order: float,
    gradient_model: nn.Module | None = None,
) -> AttackResult:
    """Takes the steps of an iterative attack of the library; an image leaves the batch where it is misclassified.

    The library's own loop takes all steps on all images. Here an image costs as many gradients as it needs to be
    broken, and its steps are the same: they depend on no other image.

    Args:
        model: Frozen, in evaluation mode; takes images in [0, 1] and returns logits (N, K).
        tool: ``LinfProjectedGradientDescentAttack`` or its like in L2.
        clean: float32 in [0, 1], shape (N, C, H, W), none of them misclassified.
        labels: int64, shape (N,).
        epsilon: Radius in the attack's norm.
        order: The p of the norm.
        gradient_model: The same network in less precision, whose gradients are followed; an image still leaves only
            where `model` misclassifies it. By default `model` itself.

    Raises:
        InvalidModelError: If the logits are not finite.
        ContractError: If the library leaves the ball, or the model answers differently in a second pass.
    """
    layout = torch.channels_last if isinstance(model, InferenceModel) else torch.contiguous_format
    clean = clean.contiguous(memory_format=layout)
    library = _Steps(tool, epsilon)
    points = library.start(clean)
    adversarials, wrong = points.clone(), torch.zeros_like(labels, dtype=torch.bool)
    left = torch.arange(len(labels), device=labels.device)
    for _ in range(tool.steps):
        hit, gradient = _errors_and_gradient(gradient_model or model, points, labels[left])
        if gradient_model is not None and hit.any():
            hit[hit.clone()] = errors_on(model, points[hit], labels[left][hit])
        wrong[left], adversarials[left] = hit, points
        left = left[~hit]
        if not len(left):
            break
        points = library.step(points[~hit], gradient[~hit], clean[left])
    else:
        points = library.end(points, clean[left])
        wrong[left], adversarials[left] = errors_on(model, points, labels[left]), points
    # the library's last projection comes after its last clipping and can leave the range by a rounding
    adversarials = adversarials.clamp(0, 1)
    check_distance(type(tool).__name__, adversarials - clean, order=order, epsilon=epsilon)
    if wrong.any():
        broken = wrong.clone()
        wrong[broken] = verify_success(
            model,
            adversarials[broken],
            labels[broken],
            claimed=torch.ones_like(labels[broken], dtype=torch.bool),
        )
    return AttackResult(wrong, adversarials)


class _Steps:
    """The steps of an attack of the library, as functions of tensors."""

    def __init__(self, tool: Any, epsilon: float) -> None:
        from eagerpy.astensor import astensor

        self._tool, self._epsilon = tool, epsilon
        self._wrapped: Callable[[Tensor], Any] = astensor

    def start(self, clean: Tensor) -> Tensor:
        """Returns the point where each image starts."""
        if not self._tool.random_start:
            return clean
        points: Tensor = self._tool.get_random_start(self._wrapped(clean), self._epsilon).raw.clamp(0, 1)
        return points

    def step(self, points: Tensor, gradient: Tensor, clean: Tensor) -> Tensor:
        """Returns the next points."""
        wrapped = self._wrapped(points)
        direction = self._tool.normalize(self._wrapped(gradient), x=wrapped, bounds=(0, 1))
        moved = wrapped + self._tool.rel_stepsize * self._epsilon * direction
        projected: Tensor = self._tool.project(moved, self._wrapped(clean), self._epsilon).raw.clamp(0, 1)
        return projected

    def end(self, points: Tensor, clean: Tensor) -> Tensor:
        """Returns the last points, inside the ball but for roundings."""
        inside: Tensor = self._tool.distance.clip_perturbation(
            self._wrapped(clean), self._wrapped(points), self._epsilon
        ).raw
        return inside.clamp(0, 1)


def _errors_and_gradient(model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each image is misclassified, and the gradient of its loss."""
    points = points.detach().requires_grad_()
    logits = model(points).to(torch.float32)
    if not bool(logits.detach().isfinite().all()):
        raise InvalidModelError(
            "the model returned logits that are not finite under an attack, expected finite ones"
        )
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, points)
    return logits.detach().argmax(1) != labels, gradient
