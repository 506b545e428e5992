"""What screened precision did on the image sets of a test: see `evalsuite.models.screening`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from evalsuite.evaluation import ScreenedOutputs
from evalsuite.types import Metric, Score

if TYPE_CHECKING:
    from evalsuite.datasets.views import View
    from evalsuite.evaluation import Bench

PASSED_AGAIN = Metric(
    "passed_again", higher_is_better=False, unit="fraction",
    text="Share of images that screened precision passed again in single precision, over all sets that it screened.",
)  # fmt: skip
CHANGED = Metric(
    "changed_by_bfloat16", higher_is_better=False, unit="fraction",
    text="Share of images whose prediction bfloat16 would have changed, over all sets that were screened; they have "
    "that of single precision.",
)  # fmt: skip


def screening_scores(bench: Bench, views: Iterable[View], condition: str) -> Iterator[Score]:
    """Yields two shares over all views that were screened; nothing where none was."""
    screened = [bench.outputs(view) for view in views if bench.is_screened(view)]
    sets = [outputs for outputs in screened if isinstance(outputs, ScreenedOutputs)]
    if not sets:
        return
    total = sum(len(outputs.again) for outputs in sets)
    again, changed = (sum(int(outputs.again.sum()) for outputs in sets), sum(each.changed for each in sets))
    yield Score(PASSED_AGAIN.name, condition, value=again / total, n=total)
    yield Score(CHANGED.name, condition, value=changed / total, n=total)
