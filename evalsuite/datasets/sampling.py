"""A seeded sample of test images, stratified by class: a faster answer, with wider intervals, from any data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evalsuite.random_streams import generator
from evalsuite.types import Array, ImageSet


@dataclass(frozen=True, slots=True)
class Sample:
    """How many test images a run looks at.

    Attributes:
        images: Images in the sample.
        of: Images of the data set.
        limit: As the user gave it: also the most images of every other test set.
    """

    images: int
    of: int
    limit: int

    @property
    def text(self) -> str:
        """One sentence."""
        return (
            f"a seeded sample, stratified by class, of {self.images:,} of the {self.of:,} test images and of at most "
            f"{self.limit:,} of every other test set (--limit {self.limit})"
        )


def sample_rows(labels: Array | None, total: int, limit: int, *key: str | int | float) -> Array:
    """Returns the rows of a sample, in the order in which they were drawn; the same on every machine.

    Args:
        labels: Classes, int (total,): each gets its share of the sample, rounded by largest remainders; ``None`` for
            a simple random sample.
        total: Number of images.
        limit: Size of the sample; all rows, in their order, where there are no more.
        key: Address of the draws.

    Returns:
        int64 (min(limit, total),).

    >>> rows = sample_rows(np.array([0] * 90 + [1] * 10), 100, 20, 0)
    >>> int((rows >= 90).sum())
    2
    """
    if limit >= total:
        return np.arange(total)
    draws = generator(*key)
    order = draws.permutation(total)
    if labels is None:
        return order[:limit]
    classes = labels[order]
    names, counts = np.unique(labels, return_counts=True)
    quota = dict(zip(names.tolist(), _quotas(counts, limit).tolist(), strict=True))
    chosen = [order[classes == name][: quota[name]] for name in names.tolist()]
    return draws.permutation(np.concatenate(chosen))


def take_rows(images: ImageSet, rows: Array) -> ImageSet:
    """Returns some rows of an image set, copied."""
    labels = None if images.labels is None else images.labels[rows]
    files = tuple(images.files[row] for row in rows) if images.files else ()
    return replace(images, images=images.images[rows], labels=labels, files=files)


def _quotas(counts: Array, limit: int) -> Array:
    """Rows of each class: its share, rounded down, and one more for the largest remainders."""
    exact = counts * limit  # in units of 1 / total, so that integers decide and not the last bit of a float
    quotas, remainders = np.divmod(exact, counts.sum())
    largest = np.argsort(-remainders, kind="stable")[: limit - int(quotas.sum())]
    quotas[largest] += 1
    return quotas
