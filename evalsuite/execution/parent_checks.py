"""Whether a parent classifies the clean test images at all: without that no comparison with it means anything."""

from __future__ import annotations

from evalsuite.errors import DataError
from evalsuite.statistics.rate_limits import rate_lower_limit, rate_upper_limit
from evalsuite.types import Array, ImageSet

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
