"""Test images in stages: a seeded order of which every beginning is stratified by class, and the stages of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from evalsuite.datasets.sampling import take_rows
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import StoredImages, Transform, View
from evalsuite.errors import ContractError
from evalsuite.random_streams import address, generator
from evalsuite.types import Array, ImageSet


def stratified_order(labels: Array | None, total: int, *key: str | int | float) -> Array:
    """Returns all rows in a random order of which every beginning has the classes in about their shares.

    Args:
        labels: Classes, int (total,); ``None`` for a plain random order.
        total: Number of images.
        key: Address of the draws.

    Returns:
        int64 (total,), the same on every machine.

    >>> order = stratified_order(np.repeat(np.arange(5), 20), 100, 0)
    >>> np.unique(np.repeat(np.arange(5), 20)[order[:10]], return_counts=True)[1].tolist()
    [2, 2, 2, 2, 2]
    """
    draws = generator(*key)
    order = draws.permutation(total)
    if labels is None:
        return order
    places = np.empty(total)
    for name in np.unique(labels):
        rows = np.flatnonzero(labels[order] == name)  # in random order
        places[rows] = (np.arange(len(rows)) + draws.random()) / len(rows)
    return order[np.argsort(places, kind="stable")]


def is_staged_view(view: View) -> bool:
    """Returns whether a view shows the suite's test images, one by one, so that it can be shown in stages."""
    return not view.data and view.split == "test" and not view.first


class StageSource(ImageSource):
    """The test images of one stage, whose changes are drawn at addresses of their own.

    Args:
        whole: All images of the run.
        rows: Rows of the test images that are in the stage.
        stage: Index of the stage.
    """

    def __init__(self, whole: ImageSource, rows: Array, stage: int) -> None:
        seed = address(whole.place.seed, "stage", stage) if stage else whole.place.seed
        super().__init__(whole.data, replace(whole.place, seed=seed), cache=whole.cache)
        self.whole, self.rows = whole, rows
        self._name = hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes()).hexdigest()

    def digest(self, view: View) -> str:
        """Returns a digest of everything that the pixels of `view` depend on."""
        plain = self.whole.digest(replace(view, transform=None))
        key = f"{plain} {self._name}"
        if view.transform is not None:
            key = f"{self.whole.digest(view)} {self._name} {self.place.seed}"
        return hashlib.sha256(key.encode()).hexdigest()

    def _load(self, view: View) -> ImageSet:
        if not is_staged_view(view):
            raise ContractError(f"{view} is no set of the test images, so it is not shown in stages")
        if isinstance(view.transform, Transform):
            return super()._load(view)
        images = take_rows(self.whole.images(view), self.rows)
        if isinstance(view.transform, StoredImages):
            return replace(images, name=self.condition(view))
        return images
