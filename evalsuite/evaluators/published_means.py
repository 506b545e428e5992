"""Flags of means over conditions that are not the published ones: missing kinds or severities, unverified files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from evalsuite.errors import first_few

if TYPE_CHECKING:
    from evalsuite.datasets.views import View
    from evalsuite.evaluation import Bench

SEVERITIES = (1, 2, 3, 4, 5)


def missing_kinds(
    cells: Collection[tuple[str, int]], kinds: Collection[str], *, severities: Sequence[int] = SEVERITIES
) -> tuple[str, ...]:
    """Returns a flag if a mean over corruptions is not over all kinds and severities of the published one.

    Args:
        cells: Kinds and severities that the mean is over; those of other kinds do not count.
        kinds: Kinds of the published mean.
        severities: Severities of the published mean.

    >>> [flag] = missing_kinds([("fog", 1), ("snow", 1)], ("fog", "frost", "snow"), severities=(1,))
    >>> flag.partition(":")[0]
    'over 2 of the 3 corruptions (without frost)'
    """
    present = {kind for kind, _ in cells if kind in kinds}
    levels = {level for kind, level in cells if kind in present}
    used = [str(level) for level in severities if level in levels]
    restriction = "" if len(used) == len(severities) else f", severity {', '.join(used)} alone"
    return missing_flags(present, kinds, noun="corruptions", restriction=restriction)


def missing_flags(
    present: Collection[str], published: Collection[str], *, noun: str, restriction: str = ""
) -> tuple[str, ...]:
    """Returns a flag if a mean is over fewer kinds than the published one, or restricted in another way.

    Args:
        present: Kinds that the mean is over.
        published: Kinds of the published mean.
        noun: What they are.
        restriction: What else is missing, in words.
    """
    missing = [kind for kind in published if kind not in present]
    if not missing and not restriction:
        return ()
    without = f" (without {first_few(missing)})" if missing else ""
    return (
        f"over {len(published) - len(missing)} of the {len(published)} {noun}{without}{restriction}: not the published "
        "mean, so compare it only with others over the same.",
    )


def unverified(bench: Bench, views: Mapping[str, View]) -> tuple[str, ...]:
    """Returns a flag if the checksums of official files are not verified.

    Args:
        bench: Has the image source, which knows the origin of images.
        views: Kind to one of its views.
    """
    kinds = [kind for kind, view in views.items() if "not verified" in bench.image_source.origin(view)]
    return (f"official files whose MD5 is not verified: {first_few(kinds)}",) if kinds else ()
