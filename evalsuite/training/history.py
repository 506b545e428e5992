"""The training history of a model: a `Phase` for each training, attached to the model and its copies."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from evalsuite.models.cost import cost
from evalsuite.training.recipe import Recipe, describe_schedule, first_stage, learning_rate
from evalsuite.types import ImageSet, Phase, PhaseName

PASSES = 3
"""Forward passes that one training step costs: one forward, and twice as much backward."""
SAMPLES = 8
"""Points per epoch at which two schedules are compared."""
RATES = (
    "epochs",
    "learning_rate",
    "schedule",
    "milestones",
    "gamma",
    "rates",
    "floor",
    "warmup_epochs",
    "track",
)
"""Keys of a recipe that the schedule covers, or that change no weight."""
_HISTORY = "_evalsuite_history"


@dataclass(frozen=True)
class Span:
    """A part of a recipe's schedule, `start` and `stop` in epochs, and the phase that it was used in."""

    what: PhaseName
    start: float
    stop: float


def phase_of(
    model: nn.Module, images: ImageSet, recipe: Recipe, span: Span, *, curve: Sequence[float] = ()
) -> Phase:
    """Returns the record of one training of `model`, whose cost is that of its present shape."""
    count, epochs = len(images.images), span.stop - span.start
    macs = cost(model, images.images.shape[1:]).macs or 0
    return Phase(
        what=span.what,
        epochs=epochs,
        images=count,
        macs=round(PASSES * macs * count * epochs),
        rates=describe_schedule(recipe) + (f", from epoch {span.start:g}" if span.start else ""),
        schedule=schedule_digest(recipe, span),
        curve=tuple(curve),
        stage=min(first_stage(recipe, start=span.start), math.ceil(span.stop) - int(span.start)),
        rest=rest_digest(recipe),
    )


def schedule_digest(recipe: Recipe, span: Span) -> str:
    """Returns a digest of the learning rates along a part of a recipe, equal for equal rates."""
    count = max(round((span.stop - span.start) * SAMPLES), 1)
    points = [learning_rate(recipe, span.start + (i + 0.5) / SAMPLES) for i in range(count)]
    return hashlib.sha256(repr([f"{rate:.9g}" for rate in points]).encode()).hexdigest()[:16]


def rest_digest(recipe: Recipe) -> str:
    """Returns a digest of all of a recipe but its epochs and learning rates."""
    settings = {key: value for key, value in dataclasses.asdict(recipe).items() if key not in RATES}
    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:16]


def set_history(model: nn.Module, phases: Sequence[Phase]) -> None:
    """Attaches its trainings to `model`; copies of it have the same history."""
    setattr(model, _HISTORY, tuple(phases))


def history(model: nn.Module) -> tuple[Phase, ...] | None:
    """Returns the trainings of `model`; ``None`` if they are unknown."""
    phases: tuple[Phase, ...] | None = getattr(model, _HISTORY, None)
    return phases
