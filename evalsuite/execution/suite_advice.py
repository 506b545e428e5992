"""Advice beside the mistakes of a suite: what its check found, and what was probably meant.

`evalsuite.execution.suite_checks` is code that results in stages depend on, so a better sentence there would make them
stale; here it makes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.datasets.views import View
from evalsuite.errors import SuiteError, first_few
from evalsuite.execution.suite_checks import check_suite
from evalsuite.tolerances import OTHER_CONDITIONS, parse_limits

if TYPE_CHECKING:
    from evalsuite.config.suite import Suite
    from evalsuite.datasets.source import ImageSource
    from evalsuite.types import ImageSet

NAMED_CLASSES = 8
"""Most classes of the data that are named where the network has another number of them."""


def check_with_advice(suite: Suite, image_source: ImageSource) -> None:
    """Checks that the parts of a suite fit each other and the data, as `check_suite` does.

    Args:
        suite: The suite.
        image_source: Its images; the test images are loaded.

    Raises:
        UserError: At the first mistake, in one sentence: what was found, what was expected, what to do.
    """
    _check_shares(suite)
    images = image_source.images(View())
    try:
        check_suite(suite, image_source)
    except SuiteError as error:
        raise SuiteError(f"{error}{_advice(str(error), suite, images)}") from error


def _check_shares(suite: Suite) -> None:
    """A tolerance above 1 on a share passes whatever is measured: points or percent were meant."""
    metrics = (metric for config in suite.evaluators for metric in config.plugin.metrics)
    shares = {metric.name for metric in metrics if metric.unit == "fraction"}
    for metric in shares & suite.tolerances.keys():
        for name, limit in parse_limits(suite.tolerances[metric]).items():
            if not limit.relative and limit.amount > 1:
                place = "" if name == OTHER_CONDITIONS else f" on {name!r}"
                raise SuiteError(
                    f"{suite.source}, [tolerances]: {metric}:{place} the tolerance is {limit.amount:g}, but the metric "
                    "is a share from 0 to 1: two points are 0.02; give a number below 1"
                )


def _advice(mistake: str, suite: Suite, images: ImageSet) -> str:
    """What a mistake in the data or in the normalisation may be, as the end of a sentence."""
    if "found classes" in mistake and not all(name.isdigit() for name in images.names):
        return f" (classes of the data: {first_few(images.names, NAMED_CLASSES)})"
    if "cannot classify" in mistake and len(suite.model.plugin.mean) == 1:
        example = "--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"
        return f"; a mean of one number reads pictures as grey: give three for colour ({example})"
    return ""
