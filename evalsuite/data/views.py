"""What a model is shown: a split of a data set, perhaps changed; and the gallery that hangs it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from evalsuite.data import DATASETS
from evalsuite.data.arrays import Arrays
from evalsuite.data.dataset import DataSet, Place, checked, digest, loaded
from evalsuite.data.folders import Folder, holds_pictures
from evalsuite.data.shelf import Shelf
from evalsuite.errors import DataError
from evalsuite.randomness import BLOCK, blocks
from evalsuite.records import Array, ImageSet, Split

BUDGET = 2 << 30  # bytes of changed images that are kept in memory
FOLDER = "/"  # ends the name of a data set that is a folder under the data root
TEXTURES = 5  # of its six frost pictures, the published generator draws from the first five


class Change(ABC):
    """Is something that is done to images; derive a frozen dataclass."""

    @abstractmethod
    def name(self, place: Place) -> str:
        """Returns the name of the condition, for example ``fog/3``."""

    @abstractmethod
    def apply(self, images: Array, place: Place) -> Array:
        """Returns uint8 or float32 images of the same shape; row i depends on ``images[i]``, i and the seed."""


class Stored(ABC):
    """Is a set of images that somebody made of the test images and stored; derive a frozen dataclass."""

    @abstractmethod
    def name(self, place: Place) -> str:
        """Returns the name of the condition, which no `Change` may have: ``fog official/3``."""

    @abstractmethod
    def load(self, plain: ImageSet, place: Place) -> ImageSet:
        """Returns the stored images, read in place and checked against `plain`, which they were made of.

        Raises:
            DataError: If they are missing or malformed; the sentence names the file, what was found and what
                was expected.
        """

    @abstractmethod
    def digest(self, plain: ImageSet, place: Place) -> str:
        """Returns a digest of everything that the pixels depend on."""

    @abstractmethod
    def origin(self, plain: ImageSet, place: Place) -> str:
        """Returns where the images come from, in words: ``official, MD5 verified``."""


@dataclass(frozen=True)
class Corruption(Change):
    """Is a common corruption at a severity of 1 to 5, generated (`evalsuite.data.corruptions`)."""

    kind: str
    severity: int

    def name(self, place: Place) -> str:
        """Returns for example ``fog/3``; ``frost*/3`` where the frost is painted and not photographed."""
        from evalsuite.data.corruptions import label

        return f"{label(self.kind, textures=frost_textures(place.root))}/{self.severity}"

    def apply(self, images: Array, place: Place) -> Array:
        """Returns corrupted uint8 images."""
        from evalsuite.data.corruptions import corrupt

        return corrupt(images, self.kind, self.severity, seed=place.seed, textures=self.textures(place))

    def textures(self, place: Place) -> tuple[Array, ...]:
        """Returns the photographs that the corruption needs and the data root has."""
        return frost_textures(place.root) if self.kind == "frost" else ()


@dataclass(frozen=True)
class UniformNoise(Change):
    """Is i.i.d. noise from U(-epsilon, epsilon) on [0, 1] images, clipped; `epsilon` in units of 1/255."""

    epsilon: float

    def name(self, place: Place) -> str:  # noqa: ARG002  # the same everywhere
        """Returns for example ``uniform/8:255``."""
        return f"uniform/{self.epsilon:g}:255"

    def apply(self, images: Array, place: Place) -> Array:
        """Returns float32 images in [0, 1]."""
        result = np.empty(images.shape, np.float32)
        scale = np.float32(255 if images.dtype == np.uint8 else 1)
        for rows, draws in blocks(len(images), place.seed, "uniform", float(self.epsilon)):
            noise = draws.random((BLOCK, *images.shape[1:]), dtype=np.float32)[: rows.stop - rows.start]
            scaled = images[rows].astype(np.float32) / scale
            result[rows] = (scaled + (2 * noise - 1) * np.float32(self.epsilon / 255)).clip(0, 1)
        return result


@dataclass(frozen=True)
class View:
    """Is the address of a set of images.

    Attributes:
        data: Registered data set; empty for the suite's own; with a slash at its end a folder under the data
            root: arrays with the suite's classes (`evalsuite.data.arrays.Arrays`), or pictures, which get the
            suite's size (`evalsuite.data.folders.Folder`).
        split: Which part of it.
        change: What is done to its images, or what was stored in their place.
        first: Only the first so many of them; 0 for all.
        labelled: Whether another data set keeps its labels, which must be the suite's classes; without, it is
            out of distribution.
    """

    data: str = ""
    split: Split = "test"
    change: Change | Stored | None = None
    first: int = 0
    labelled: bool = False


class Gallery:
    """Holds the image sets of a run: loads and changes each once, checks it, and keeps it while memory lasts.

    Args:
        data: The suite's own data set, or a user's own test images.
        place: Where data is, and the seed of the changes.
        shelf: Where large changed images are shared with other processes; in memory without one.
    """

    def __init__(self, data: DataSet | ImageSet, place: Place, *, shelf: Shelf | None = None) -> None:
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
            on_disk = not isinstance(view.change, Change) or isinstance(made.images, np.memmap)
            size = 0 if on_disk else made.images.nbytes
            if size > self._room:
                return made  # made anew each time: no eviction, since runs walk the views in a circle
            self._room -= size
            self._kept[view] = made
        return self._kept[view]

    def condition(self, view: View) -> str:
        """Returns the name that scores on `view` carry: ``clean``, ``fog/3``, ``fog official/3``, ``letters``."""
        if view.change is not None:
            return view.change.name(self.place)
        return view.data.removesuffix(FOLDER) or "clean"

    def origin(self, view: View) -> str:
        """Returns where the images of `view` come from, in words; empty where nothing was changed."""
        if isinstance(view.change, Stored):
            return view.change.origin(self.images(replace(view, change=None)), self.place)
        return "" if view.change is None else f"generated, seed {self.place.seed}"

    def digest(self, view: View) -> str:
        """Returns a digest of everything that the pixels of `view` depend on."""
        plain = replace(view, change=None)
        if plain not in self._digests:
            self._digests[plain] = digest(self.images(plain))
        if view.change is None:
            return self._digests[plain]
        key = f"{self._digests[plain]} {view.change!r} {self.condition(view)} {self.place.seed}"
        total = hashlib.sha256(key.encode())
        if isinstance(view.change, Stored):
            total.update(view.change.digest(self.images(plain), self.place).encode())
        for texture in view.change.textures(self.place) if isinstance(view.change, Corruption) else ():
            total.update(texture.tobytes())
        return total.hexdigest()

    def _made(self, view: View) -> ImageSet:
        if view.change is None:
            return self._plain(view)
        plain = self.images(replace(view, change=None))
        if isinstance(view.change, Stored):
            return view.change.load(plain, self.place)
        change = view.change
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
            return _cut(checked(source), view.first)
        found = _cut(loaded(source, view.split, self.place), view.first)
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

    def _changed(self, plain: ImageSet, change: Change) -> ImageSet:
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


@cache
def frost_textures(root: Path | None) -> tuple[Array, ...]:
    """Returns the pictures ``frost1`` to ``frost5`` of the data root's folder ``frost``, uint8 (H, W, 3), or none.

    Raises:
        DataError: If some are there and others not, or cannot be read: fewer pictures are another corruption, of the
            same name.
    """
    from PIL import Image

    found = sorted((root / "frost").glob("frost[1-9].*")) if root is not None else []
    if found and len(found) < TEXTURES:
        raise DataError(
            f"{found[0].parent}: found {len(found)} frost photographs, expected frost1 to frost{TEXTURES} of the "
            "published generator; add the others, or rename the folder to have the frost painted"
        )
    try:
        return tuple(np.asarray(Image.open(path).convert("RGB")) for path in found[:TEXTURES])
    except OSError as error:
        raise DataError(
            f"{found[0].parent}: a frost photograph is not a readable picture ({error})"
        ) from error
