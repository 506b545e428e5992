"""Singular values of the Jacobian of the logits by the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.compat.calls import unit_images
from evalsuite.datasets.views import View
from evalsuite.errors import InvalidModelError, SkippedError, SuiteError
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, declare
from evalsuite.evaluators.subset import population_of, subset_rows
from evalsuite.models.inference import deterministic_float32, gradient_obstacle
from evalsuite.types import Floats, Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

LARGEST_CONDITION = float(1 / np.finfo(np.float32).eps)
"""Largest condition number that differs from infinity in single precision."""
ELEMENTS = 1 << 26
"""Most numbers of Jacobians that are in memory at once: 256 MiB in single precision."""

MEAN = Metric(
    "jacobian_singular_value", higher_is_better=None, unit="logits per intensity",
    text="Mean over images and over all singular values of the Jacobian of the logits by the input in [0, 1] (mean "
    "JSV; Wang et al. 2021, arXiv 2105.05916).",
)  # fmt: skip
LARGEST = Metric(
    "jacobian_singular_value_max", higher_is_better=None, unit="logits per intensity",
    text="Mean over images of the largest singular value of the Jacobian: the largest change of the logits per change "
    "of the input, in l2 norms.",
)  # fmt: skip
SMALLEST = Metric(
    "jacobian_singular_value_min", higher_is_better=None, unit="logits per intensity",
    text="Mean over images of the smallest singular value of the Jacobian.",
)  # fmt: skip
SPREAD = Metric(
    "jacobian_relative_spread", higher_is_better=None, unit="ratio",
    text="Standard deviation of the singular values of all images together, divided by their mean: 0 where the network "
    "stretches all directions alike.",
)  # fmt: skip
CONDITION = Metric(
    "jacobian_condition_number", higher_is_better=None, unit="ratio", functional="median",
    text="Median over images of the largest singular value divided by the smallest, at most 8388608: what lies above "
    "is rounding in single precision.",
)  # fmt: skip


@dataclass(frozen=True)
class Jacobian(Evaluator):
    """Singular values of the Jacobian of the logits by the input, on clean images.

    They describe how signals and gradients propagate through a network; their mean is used as a measure of
    trainability after pruning. They have no direction: large values help training and hurt robustness, and all of
    them grow with the scale of the logits, on which accuracy does not depend.

    The input is what the network takes, intensities in [0, 1]. Published numbers are by normalised inputs: of a network
    whose own first step divides by one standard deviation s in all channels, these are s times ours.

    Deviations from the authors' tool (smilelogging): it takes the largest and the smallest of all images and the mean
    of the condition numbers; here they are taken per image, then their mean (median for the condition number, whose
    mean is that of the worst image), so that they are functions of a sample. Mean and spread are the same. Evaluation
    mode and test images in their order, where it takes 20 training batches in the mode that the model is in.

    Attributes:
        images: Use only the first so many test images, or evenly spaced ones where the images are sorted by class; 0
            for all.

    References:
        Wang et al. 2021, arXiv 2105.05916 (mean JSV of pruned networks).
    """

    images: int = 128

    def __post_init__(self) -> None:
        if self.images < 0:
            raise SuiteError(f"jacobian: found images = {self.images}, expected a count, or 0 for all")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean, largest, smallest, spread, condition number."""
        return MEAN, LARGEST, SMALLEST, SPREAD, CONDITION

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:  # noqa: ARG002  # the same for all data
        """Yields ``clean``."""
        yield from declare(self.metrics, "clean")

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields five scores on ``clean``.

        Raises:
            SkippedError: If the model has no gradients.
        """
        if obstacle := gradient_obstacle(bench.model):
            raise SkippedError(f"the model has no gradients ({obstacle}), which its Jacobian needs")
        shown = bench.images(View())
        rows = subset_rows(np.asarray(shown.labels), self.images)
        images = unit_images(np.array(shown.images[rows]))
        population = population_of(rows, len(shown.images))
        size = bench.classes * images[0].numel()
        step = max(1, min(bench.batch_size, ELEMENTS // size))
        starts = range(0, len(images), step)
        batches = (images[start : start + step].to(bench.device) for start in starts)
        values = np.concatenate(
            [singular_values(jacobians(bench.inference_model, batch)) for batch in batches]
        )
        yield from _scores(values, population)


def jacobians(model: nn.Module, images: Tensor) -> Tensor:
    """Returns each image's Jacobian of the logits by the pixels.

    Args:
        model: In evaluation mode: its logits of one image depend on that image alone.
        images: float32 in [0, 1], (B, C, H, W).

    Returns:
        float32, (B, K, C * H * W).

    Raises:
        SkippedError: If no gradient reaches the images.
    """
    inputs = images.detach().clone().requires_grad_()
    with deterministic_float32(), torch.enable_grad():
        logits = model(inputs)
        last = logits.shape[1] - 1
        totals = logits.sum(0)  # images are independent, so the gradient of a sum has that of each
        rows = [_gradient(total, inputs, again=k < last).flatten(1) for k, total in enumerate(totals)]
    return torch.stack(rows, dim=1)


def _gradient(total: Tensor, inputs: Tensor, *, again: bool) -> Tensor:
    gradient: Tensor | None = None
    if total.requires_grad:  # it may be by the weights alone
        (gradient,) = torch.autograd.grad(total, inputs, retain_graph=again, allow_unused=True)
    if gradient is None:
        raise SkippedError("no gradient of the logits reaches the images, which a Jacobian needs")
    return gradient


def singular_values(matrices: Tensor) -> Floats:
    """Returns the singular values of matrices, the largest first.

    They are square roots of the eigenvalues of the smaller of the two Gram matrices, in double precision: for
    matrices of single precision the loss is below the rounding of their elements.

    Args:
        matrices: Finite, (B, K, P).

    Returns:
        float64, (B, min(K, P)).

    Raises:
        InvalidModelError: If an element is not finite.

    >>> singular_values(torch.tensor([[[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]]]))
    array([[4., 3.]])
    """
    if not torch.isfinite(matrices).all():
        raise InvalidModelError("the model's Jacobian has NaN or infinite elements")
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    exact = wide.double()
    squares = torch.linalg.eigvalsh(exact @ exact.mT).clamp_min(0).flip(-1)
    values: Floats = squares.sqrt().cpu().numpy()
    return values


def condition_numbers(values: Floats) -> Floats:
    """Returns largest over smallest of each row of singular values, at most `LARGEST_CONDITION`.

    >>> condition_numbers(np.array([[8.0, 2.0], [1.0, 0.0], [0.0, 0.0]])).tolist()
    [4.0, 8388608.0, 8388608.0]
    """
    largest, smallest = values[:, 0], values[:, -1]
    least = np.maximum(smallest, largest / LARGEST_CONDITION)
    ratios: Floats = np.divide(largest, least, out=np.full(len(values), LARGEST_CONDITION), where=least > 0)
    return ratios


def _scores(values: Floats, population: str) -> Iterator[Score]:
    summaries = {MEAN: values.mean(axis=1), LARGEST: values[:, 0], SMALLEST: values[:, -1]}
    for metric, rows in summaries.items():
        yield Score(metric.name, "clean", evidence={population: rows})
    mean = float(values.mean())
    if mean > 0:
        yield Score(SPREAD.name, "clean", value=float(values.std()) / mean, n=len(values))
    else:
        yield Score(SPREAD.name, "clean", reason="the logits do not depend on the images")
    conditions = condition_numbers(values)
    flat = int((conditions >= LARGEST_CONDITION).sum())
    if 2 * flat >= len(values):
        reason = f"the Jacobian has not full rank on {flat} of {len(values)} images"
        yield Score(CONDITION.name, "clean", reason=reason)
    else:
        yield Score(CONDITION.name, "clean", evidence={population: conditions})
