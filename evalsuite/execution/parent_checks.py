"""Whether a parent classifies the clean test images at all: without that no comparison with it means anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from evalsuite.errors import DataError, first_few
from evalsuite.model_checks import CLEAR_GAIN
from evalsuite.model_checks import PREPROCESSING_PROBE as PROBE
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.inference import logits
from evalsuite.statistics.rate_limits import rate_lower_limit, rate_upper_limit
from evalsuite.types import Array, ImageSet

if TYPE_CHECKING:
    from torch import nn

NAMED = 8
"""Classes that a message names."""
CHANCE_LEVEL = 0.95
"""One-sided confidence of the lower limit of the accuracy, which must be above chance."""
CLAIM_LEVEL = 0.99
"""One-sided confidence of the upper limit of the accuracy, which must not be far below a published one."""
CLAIM_SLACK = 0.01
"""How far below: decoders, libraries and sub-samples of the same images move an accuracy by less than a point."""


RECORDED_GAP = 0.1
"""How far the accuracy of a guessed architecture may be from the recorded one: other preprocessing costs less."""
RECORDED_NOTE = 0.01
"""From which distance on a note compares the two."""


def is_constant(predictions: Array) -> bool:
    """Returns whether all predictions, int64 (N,), are the same class."""
    return bool((predictions == predictions[:1]).all())


def check_recorded(
    accuracy: float, recorded: tuple[str, float], *, guessed: str, ignored: bool
) -> tuple[str, ...]:
    """Compares the accuracy of a parent on the clean test images with what its file records.

    Args:
        accuracy: In [0, 1].
        recorded: Key and value, as `evalsuite.models.checkpoints.recorded_accuracy.recorded_accuracy` returns them.
        guessed: The architecture where it was guessed; empty where it was named.
        ignored: Whether a guessed architecture with another accuracy is a note.

    Returns:
        A note if they differ: files record the accuracy of other images, or of another epoch.

    Raises:
        DataError: If the architecture was guessed and they differ by more than `RECORDED_GAP`.
    """
    key, value = recorded
    gap = abs(accuracy - value)
    if gap <= RECORDED_NOTE:
        return ()
    finding = f"the parent is right on {accuracy:.1%} of the clean test images, its file records {key} = {value:.1%}"
    if not guessed or ignored or gap <= RECORDED_GAP:
        return (f"{finding[:1].upper()}{finding[1:]}.",)
    raise DataError(
        f"{finding}, and the architecture was guessed ({guessed}): the network may be another one of the same tensors; "
        "name it with --model, compare data and preprocessing, or go on with --ignore-recorded-accuracy"
    )


def check_parent(
    right: int,
    images: ImageSet,
    *,
    constant: bool = False,
    claim: float | None = None,
    filtered: bool = False,
    hint: str = "",
) -> tuple[str, ...]:
    """Checks that a parent is better than chance on the clean test images, and about as good as was published.

    Better than chance is an accuracy whose lower limit is above one in the number of classes. A parent that gives
    images of several classes one and the same is at chance too, however many images that class has.

    Args:
        right: Number of images that it classifies correctly.
        images: The clean test images.
        constant: Whether it gives all of them the same class.
        claim: Its published accuracy; ``None`` for no claim.
        filtered: Whether the images were chosen because networks fail on them: chance is a note then.
        hint: What may be wrong, in words.

    Returns:
        A note where the images are filtered and it is not better than chance.

    Raises:
        DataError: If it is not, or the `CLAIM_LEVEL` upper limit of its accuracy is more than `CLAIM_SLACK` below the
            claim.
    """
    n, classes = len(images.images), images.classes
    accuracy, low = right / n, rate_lower_limit(right, n, level=CHANCE_LEVEL)
    high = rate_upper_limit(right, n, level=CLAIM_LEVEL)
    measured = f"the parent is right on {right} of {n} images of {images.name!r} ({accuracy:.1%}"
    advice = hint or (
        "compare the order of the classes"
        + (f" ({images.labelling})" if images.labelling else "")
        + " and the preprocessing (size, mean, std) with those of its training"
    )
    if low <= 1 / classes or constant:
        chance = (
            "but gives all of them the same class"
            if constant
            else f"which is not shown to be more than chance, {1 / classes:.1%}"
        )
        finding = f"{measured}; lower 95 % limit {low:.1%}), {chance}"
        if filtered:
            return (f"{finding}: the images were chosen so.",)
        raise DataError(
            f"{finding}, so labels or preprocessing are not those that it was trained with; {advice}"
        )
    if claim is not None and high < claim - CLAIM_SLACK:
        raise DataError(
            f"{measured}; upper 99 % limit {high:.1%}), but parent_accuracy says {claim:.1%}, so labels or "
            f"preprocessing are not those of that number; {advice}"
        )
    return ()


IMAGES_PER_CLASS = 10
"""Images of the probe for each class, below which no order of the classes is guessed."""


def check_class_order(model: nn.Module, images: ImageSet) -> tuple[str, ...]:
    """Returns a warning if the answers of a parent fit the classes of the images in another order; else nothing.

    The order is the one-to-one assignment of answers to classes with the largest accuracy (Kuhn 1955). It must be
    clearly more accurate than the order as it is, and than one class for all images. Evenly spaced images are used.

    Args:
        model: A parent behind its normalisation; any other model is not checked.
        images: Labelled images; those that are scored by a rule of their own are not checked.
    """
    rows = np.unique(np.linspace(0, len(images.images) - 1, PROBE).round().astype(int))
    if not isinstance(model, Normalized) or images.labels is None or images.rule is not None:
        return ()
    if len(rows) < IMAGES_PER_CLASS * images.classes:
        return ()
    outputs, labels = logits(model, images.images[rows]), images.labels[rows]
    if outputs.shape[1] != images.classes:
        return ()
    counts = np.zeros((images.classes, images.classes), dtype=np.int64)
    np.add.at(counts, (outputs.argmax(axis=1), labels), 1)
    answers, classes = linear_sum_assignment(counts, maximize=True)
    accuracy, other = np.trace(counts) / len(rows), counts[answers, classes].sum() / len(rows)
    if other < max(accuracy, counts.sum(axis=0).max() / len(rows)) + CLEAR_GAIN:
        return ()
    order = first_few(
        (f"{answer} {images.class_name(label)}" for answer, label in enumerate(classes.tolist())), NAMED
    )
    return (
        f"the parent is right on {accuracy:.1%} of {len(rows)} images as the classes are numbered, but on {other:.1%} "
        f"with the order {order}; if it was trained so, correct the names of the folders, or give the order as "
        "class_map.",
    )
