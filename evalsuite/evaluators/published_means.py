"""What keeps a mean over conditions from being the published one: missing kinds, missing severities, unsure files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS
from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench
from evalsuite.models.checkpoints.names import some

SEVERITIES = (1, 2, 3, 4, 5)


def missing_kinds(
    cells: Collection[tuple[str, int]],
    *,
    kinds: Collection[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
) -> tuple[str, ...]:
    """Returns a flag if a mean over corruptions is not over all kinds and severities of the published one.

    Args:
        cells: Kinds and severities that the mean is over; those of other kinds do not count.
        kinds: Those of the published mean.
        severities: The same.

    >>> [flag] = gaps([("fog", 1), ("snow", 1)], kinds=("fog", "frost", "snow"), severities=(1,))
    >>> flag.partition(":")[0]
    'over 2 of the 3 corruptions (without frost)'
    """
    there = {kind for kind, _ in cells if kind in kinds}
    here = [level for level in severities if level in {level for kind, level in cells if kind in there}]
    alone = "" if len(here) == len(severities) else f", severity {', '.join(map(str, here))} alone"
    return missing_flags(there, kinds, noun="corruptions", alone=alone)


def missing_flags(
    there: Collection[str], published: Collection[str], *, noun: str, alone: str = ""
) -> tuple[str, ...]:
    """Returns a flag if a mean is over fewer kinds than the published one, or over what is `alone` there.

    Args:
        there: Kinds that the mean is over.
        published: Those of the published mean.
        noun: What they are.
        alone: What else is missing, in words.
    """
    missing = [kind for kind in published if kind not in there]
    if not missing and not alone:
        return ()
    without = f" (without {some(missing)})" if missing else ""
    return (
        f"over {len(published) - len(missing)} of the {len(published)} {noun}{without}{alone}: not the published mean, "
        "so compare it only with others over the same.",
    )


def unverified(bench: Bench, views: Mapping[str, View]) -> tuple[str, ...]:
    """Returns a flag if official files may not be what they are called.

    Args:
        bench: Knows where images come from.
        views: Kind to one of its views.
    """
    unsure = [kind for kind, view in views.items() if "not verified" in bench.image_source.origin(view)]
    return (f"official files whose MD5 is not verified: {some(unsure)}",) if unsure else ()
