"""ViM: the part of a feature outside the principal directions of training features, as a virtual logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import SkippedError
from evalsuite.metrics.logits import energy

if TYPE_CHECKING:
    from evalsuite.models.features import Head
    from evalsuite.types import Array, Floats


@dataclass(frozen=True)
class VirtualLogit:
    """A residual of features, scaled like a logit.

    Attributes:
        origin: Feature at which the classifier's logits are nearest to zero, -pinv(W) b, (D,).
        rest: Directions outside the principal ones, orthonormal, (D, D - d).
        scale: Mean largest logit over mean residual of the training images.
    """

    origin: Floats
    rest: Floats
    scale: float

    def scores(self, features: Array, logits: Array) -> Floats:
        """Returns the scaled residual plus the energy, float64 (N,): the virtual logit against the others.

        References:
            Wang et al. 2022, "ViM: Out-of-distribution with virtual-logit matching", equations 5 to 7.
        """
        return self.scale * _residual(features, self.origin, self.rest) + energy(logits)


def principal(width: int) -> int:
    """Returns the number of principal directions for features of `width` D: half of them.

    The published choices are 1000 of 2048, 512 of 768 or 1024, and OpenOOD's 256 of 512.

    >>> principal(64)
    32
    """
    return width // 2


def virtual_logit(
    features: Array, logits: Array, head: Head, *, dimensions: int | None = None
) -> VirtualLogit:
    """Returns the virtual logit that training images define.

    Args:
        features: (N, D), D at least 2.
        logits: (N, K).
        head: The classifier.
        dimensions: Principal directions d below D; `principal` of D by default.

    Raises:
        SkippedError: If training features have no residual, so that it has no scale; or if the mean largest logit is
            not above 0, so that the scale would invert the order of residuals.
    """
    h = np.asarray(features, np.float64)
    # weights are float32: rows that depend on each other do so up to its rounding, as after weight decay
    rounding = max(head.weight.shape) * float(np.finfo(np.float32).eps)
    origin = -np.linalg.pinv(head.weight.astype(np.float64), rcond=rounding) @ head.bias.astype(np.float64)
    shifted = h - origin
    _, basis = np.linalg.eigh(
        shifted.T @ shifted / len(shifted)
    )  # rising: the principal directions are the last
    rest = basis[:, : h.shape[1] - (principal(h.shape[1]) if dimensions is None else dimensions)]
    residual = float(_residual(h, origin, rest).mean())
    if residual <= float(np.finfo(np.float32).eps) * float(np.linalg.norm(shifted, axis=1).mean()):
        raise SkippedError(
            f"the penultimate features of the training images lie in {h.shape[1] - rest.shape[1]} of "
            f"{h.shape[1]} directions: there is no residual to scale the virtual logit by; use another detector"
        )
    largest = float(np.asarray(logits, np.float64).max(axis=1).mean())
    if largest <= 0:
        raise SkippedError(
            f"the mean largest logit of the training images is {largest:.3g}, expected more than 0: the virtual logit "
            "would be smaller for larger residuals; add a constant to the bias of the classifier, which changes no "
            "prediction, or use another detector"
        )
    return VirtualLogit(origin, rest, largest / residual)


def _residual(features: Array, origin: Floats, rest: Floats) -> Floats:
    lengths: Floats = np.linalg.norm((np.asarray(features, np.float64) - origin) @ rest, axis=1)
    return lengths
