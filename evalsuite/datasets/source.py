"""The image sets of a run: loaded, transformed, checked and kept while memory lasts."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from evalsuite.datasets import DATASETS
from evalsuite.datasets.arrays import Arrays
from evalsuite.datasets.base import DataSet, Place, check_image_set, digest, load_checked
from evalsuite.datasets.folders import Folder, holds_pictures
from evalsuite.datasets.shared_cache import SharedArrayCache
from evalsuite.datasets.views import StoredImages, Transform, View
from evalsuite.errors import DataError
from evalsuite.types import ImageSet

BUDGET = 2 << 30  # bytes of changed images that are kept in memory
FOLDER = "/"  # ends the name of a data set that is a folder under the data root


class ImageSource:
    """Holds the image sets of a run: loads and changes each once, checks it, and keeps it while memory lasts.

    Args:
        data: The suite's own data set, or a user's own test images.
        place: Where data is, and the seed of the changes.
        shelf: Where large changed images are shared with other processes; in memory without one.
    """

    def __init__(
        self, data: DataSet | ImageSet, place: Place, *, shelf: SharedArrayCache | None = None
    ) -> None:
        self.data = data
        self.place = place
        self._shelf = shelf
        self._kept: dict[View, ImageSet] = {}
        self._digests: dict[View, str] = {}
        self._room = BUDGET

    def images(self, view: View) -> ImageSet:
        """Returns the images of `view`.

        Raises:
            DataError: If they cannot be had.
            UnknownNameError: If no data set has the view's name.
        """
        if view not in self._kept:
            made = self._made(view)
            on_disk = not isinstance(view.transform, Transform) or isinstance(made.images, np.memmap)
            size = 0 if on_disk else made.images.nbytes
            if size > self._room:
                return made  # made anew each time: no eviction, since runs walk the views in a circle
            self._room -= size
            self._kept[view] = made
        return self._kept[view]

    def condition(self, view: View) -> str:
        """Returns the name that scores on `view` carry: ``clean``, ``fog/3``, ``fog official/3``, ``letters``."""
        if view.transform is not None:
            return view.transform.name(self.place)
        return view.data.removesuffix(FOLDER) or "clean"

    def origin(self, view: View) -> str:
        """Returns where the images of `view` come from, in words; empty where nothing was changed."""
        if isinstance(view.transform, StoredImages):
            return view.transform.origin(self.images(replace(view, transform=None)), self.place)
        return "" if view.transform is None else f"generated, seed {self.place.seed}"

    def digest(self, view: View) -> str:
        """Returns a digest of everything that the pixels of `view` depend on."""
        plain = replace(view, transform=None)
        if plain not in self._digests:
            self._digests[plain] = digest(self.images(plain))
        if view.transform is None:
            return self._digests[plain]
        key = f"{self._digests[plain]} {view.transform!r} {self.condition(view)} {self.place.seed}"
        total = hashlib.sha256(key.encode())
        if isinstance(view.transform, StoredImages):
            total.update(view.transform.digest(self.images(plain), self.place).encode())
        else:
            for content in view.transform.inputs(self.place):
                total.update(content)
        return total.hexdigest()

    def _made(self, view: View) -> ImageSet:
        if view.transform is None:
            return self._plain(view)
        plain = self.images(replace(view, transform=None))
        if isinstance(view.transform, StoredImages):
            return view.transform.load(plain, self.place)
        change = view.transform
        if self._shelf is None:
            return self._changed(plain, change)
        images = self._shelf.array(self.digest(view), lambda: self._changed(plain, change).images)
        return replace(plain, name=self.condition(view), images=images)

    def _plain(self, view: View) -> ImageSet:
        source = self._source(view) if view.data else self.data
        if isinstance(source, ImageSet):
            if view.split != "test":
                raise DataError(
                    f"there are test images only, no split {view.split!r}; "
                    "use a data set that has one, or an evaluator that needs none"
                )
            return _cut(check_image_set(source), view.first)
        found = _cut(load_checked(source, view.split, self.place), view.first)
        if not view.data:
            return found
        if view.labelled:
            return _of_the_same_kind(found, self.images(View()))
        return replace(found, labels=None, classes=0, names=())

    def _source(self, view: View) -> DataSet:
        if not view.data.endswith(FOLDER):
            return _named(view.data)
        path, own = view.data.removesuffix(FOLDER), self.images(View())
        if self.place.root is not None and holds_pictures(self.place.root / path):
            return Folder(path, own.images.shape[-1], view.labelled)
        return Arrays(path, own.classes)

    def _changed(self, plain: ImageSet, change: Transform) -> ImageSet:
        changed = change.apply(plain.images, self.place)
        if changed.shape != plain.images.shape:
            raise DataError(
                f"{change!r} turned images {plain.images.shape} into {changed.shape}; shapes must stay"
            )
        return replace(plain, name=change.name(self.place), images=changed)


def _of_the_same_kind(found: ImageSet, own: ImageSet) -> ImageSet:
    """`found`, if a network for the suite's own images can be right about it."""
    size = found.images.shape[1:]
    if found.labels is None or found.classes != own.classes or size != own.images.shape[1:]:
        labels = "no labels" if found.labels is None else f"{found.classes} classes"
        raise DataError(
            f"data set {found.name!r}: found {labels} and images of shape {size}, expected the "
            f"{own.classes} classes and the shape {own.images.shape[1:]} of {own.name!r}"
        )
    return found


def _cut(images: ImageSet, first: int) -> ImageSet:
    if not first:
        return images
    labels = None if images.labels is None else images.labels[:first]
    return replace(images, images=images.images[:first], labels=labels)


def _named(name: str) -> DataSet:
    try:
        return DATASETS.get(name)()
    except TypeError as error:
        raise DataError(
            f"data set {name!r} cannot serve by its name alone ({error}); name one whose settings all have defaults"
        ) from error
