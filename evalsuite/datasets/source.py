"""The image sets of a run: loaded, transformed and checked once, and kept while memory lasts."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from evalsuite.datasets import DATASETS
from evalsuite.datasets.arrays import Arrays
from evalsuite.datasets.base import DataSet, Place, check_image_set, digest, load_checked
from evalsuite.datasets.decoding import holds_pictures
from evalsuite.datasets.folders import Folder
from evalsuite.datasets.huggingface import TableOutliers
from evalsuite.datasets.sampling import Sample, sample_rows, take_rows
from evalsuite.datasets.shapes import with_shape
from evalsuite.datasets.shared_cache import SharedArrayCache, joined
from evalsuite.datasets.tables import holds_tables
from evalsuite.datasets.views import FOLDER_SUFFIX, StoredImages, Transform, View
from evalsuite.errors import DataError
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import Array, ImageSet

MEMORY_BUDGET = 2 << 30
"""Bytes of transformed images that a process keeps in memory."""


class ImageSource:
    """The image sets of a run, by view.

    Args:
        data: The suite's own data set, or a user's own test images.
        place: Place of the data, and the seed of the transforms.
        cache: Cache that shares large transformed images with other processes; without, they stay in memory.
        limit: Size of a sample of every test set; 0 for all images. See `evalsuite.datasets.sampling`.

    Attributes:
        reads_pictures: Whether picture files have been read.
    """

    def __init__(
        self,
        data: DataSet | ImageSet,
        place: Place,
        *,
        cache: SharedArrayCache | None = None,
        limit: int = 0,
    ) -> None:
        self.data = data
        self.limit = limit
        self.place = place
        self.cache = cache
        self._loaded: dict[View, ImageSet] = {}
        self._every: dict[View, ImageSet] = {}  # of which samples are taken
        self._digests: dict[View, str] = {}
        self._free = MEMORY_BUDGET
        self.reads_pictures = False

    def images(self, view: View) -> ImageSet:
        """Returns the images of `view`.

        Raises:
            DataError: If they are missing, malformed or cannot be transformed.
            UnknownNameError: If no data set has the view's name.
        """
        if view not in self._loaded:
            image_set = self._load(view)
            on_disk = not isinstance(view.transform, Transform) or isinstance(image_set.images, np.memmap)
            size = 0 if on_disk else image_set.images.nbytes
            if size > self._free:
                return image_set  # not kept and nothing evicted: runs walk the views in a circle
            self._free -= size
            self._loaded[view] = image_set
        return self._loaded[view]

    def sample(self) -> Sample | None:
        """Returns how many of the suite's test images are looked at; ``None`` for all."""
        total = len(self._all(View()).images)
        return Sample(self.limit, total, self.limit) if 0 < self.limit < total else None

    def condition(self, view: View) -> str:
        """Returns the condition of scores on `view`: ``clean``, ``fog/3``, ``fog official/3``, ``letters``."""
        if view.transform is not None:
            return view.transform.name(self.place)
        return view.data.removesuffix(FOLDER_SUFFIX) or "clean"

    def origin(self, view: View) -> str:
        """Returns where the images of `view` come from, in words; empty without a transform."""
        if isinstance(view.transform, StoredImages):
            return view.transform.origin(self._all(replace(view, transform=None)), self.place)
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
            total.update(view.transform.digest(self._all(plain), self.place).encode())
        else:
            for content in view.transform.inputs(self.place):
                total.update(content)
        return total.hexdigest()

    @property
    def geometry(self) -> str:
        """How the suite's pictures become what the network sees, in words; empty where no picture files are read."""
        side = int(getattr(self.data, "side", 0))
        preprocessing = Preprocessing((side, side), (side,)) if side else self.place.preprocessing
        if not getattr(self.data, "reads_pictures", False):
            return ""
        if preprocessing is None:
            return "as they are, of one size"
        height, width = preprocessing.crop
        resize = preprocessing.resize
        edge = f"{preprocessing.edge} edge {resize[0]} px" if len(resize) == 1 else "x".join(map(str, resize))
        resized = f"resized to {edge} ({preprocessing.interpolation}), then " if resize else ""
        return f"{resized}the middle {height}x{width}"

    def _load(self, view: View) -> ImageSet:
        if view.transform is None:
            return self._plain(view)
        if isinstance(view.transform, StoredImages):
            return self._stored(view, view.transform)
        plain = self.images(replace(view, transform=None))
        transform = view.transform
        shape = plain.images.shape
        compute = partial(_transformed, transform, plain.images, self.place)
        cache = self.cache
        images = joined(shape, compute()) if cache is None else cache.array(self.digest(view), shape, compute)
        return replace(plain, name=self.condition(view), images=images)

    def _plain(self, view: View) -> ImageSet:
        if view.first:  # a part of a set that is loaded once
            return _first(self.images(replace(view, first=0)), view.first)
        if not self.limit:
            return self._unlimited(view)
        every = self._all(view)
        return self._sampled(view, every, labels=every.labels)

    def _stored(self, view: View, stored: StoredImages) -> ImageSet:
        """Stored images: the same rows as those of the clean images that they were derived from."""
        plain = replace(view, transform=None)
        if not self.limit:
            return stored.load(self.images(plain), self.place)
        every = self._all(plain)
        image_set = stored.load(every, self.place)
        if len(image_set.images) != len(every.images):  # sequences, which have a count of their own
            return image_set
        return _first(self._sampled(plain, image_set, labels=every.labels), view.first)

    def _sampled(self, view: View, images: ImageSet, *, labels: Array | None) -> ImageSet:
        """The sample of a test set, all of any other split."""
        total = len(images.images)
        if view.split != "test" or not 0 < self.limit < total:
            return images
        return take_rows(images, sample_rows(labels, total, self.limit, self.place.seed, "sample", view.data))

    def _all(self, view: View) -> ImageSet:
        """All images of a view without a transform, also where the run looks at a sample of them."""
        if not self.limit:
            return self.images(view)
        plain = replace(view, first=0)
        if plain not in self._every:
            self._every[plain] = self._unlimited(plain)
        return self._every[plain]

    def _unlimited(self, view: View) -> ImageSet:
        place = self._place(view)
        data = self._data_set(view, place) if view.data else self.data
        if isinstance(data, ImageSet):
            if view.split != "test":
                raise DataError(
                    f"there are test images only, no split {view.split!r}; "
                    "use a data set that has one, or an evaluator that needs none"
                )
            return check_image_set(data)
        self.reads_pictures |= data.reads_pictures
        image_set = load_checked(data, view.split, place)
        if not view.data:
            return image_set
        suite_images = self.images(View())
        if view.labelled:
            _check_same_classes(image_set, suite_images)
            return image_set
        image_set = _first(image_set, self.outlier_limit)
        outliers = replace(image_set, labels=None, classes=0, names=(), rule=None)
        return with_shape(outliers, suite_images.images.shape[1:])

    @property
    def outlier_limit(self) -> int:
        """Most images of an outlier set: as many as the suite's data is limited to; 0 for all."""
        return int(getattr(self.data, "test_limit", 0) or getattr(self.data, "limit", 0))

    def _place(self, view: View) -> Place:
        """The place of a view: pictures of another set get the size that the suite's images have.

        Those with labels are decoded with their channels too; outliers are RGB until `with_shape`.
        """
        if not view.data:
            return self.place
        channels, height, width = self.images(View()).images.shape[1:]
        place = replace(self.place, channels=channels if view.labelled else 3)
        own = place.preprocessing
        if own is not None and own.crop == (height, width) and not getattr(self.data, "side", 0):
            return place
        resize = (height,) if height == width else (height, width)
        return replace(place, preprocessing=Preprocessing(crop=(height, width), resize=resize))

    def _data_set(self, view: View, place: Place) -> DataSet:
        suite_images = self.images(View())
        if not view.data.endswith(FOLDER_SUFFIX):
            data = _registered(view.data)
            return data if view.labelled else data.fitted_to(suite_images.images.shape[1:])
        path = view.data.removesuffix(FOLDER_SUFFIX) or FOLDER_SUFFIX
        folder = place.find(path)
        if folder is None or not holds_pictures(folder):
            if not view.labelled and folder is not None and folder.is_dir() and holds_tables(folder):
                return TableOutliers(path, limit=self.outlier_limit)
            return Arrays(path, suite_images.classes, labelled=view.labelled)
        if not view.labelled:
            return Folder(path, limit=self.outlier_limit)
        class_map = self.data.class_map if isinstance(self.data, Folder) else ""
        return Folder(
            path,
            labelled=True,
            classes=suite_images.classes,
            class_map=class_map,
            class_names=suite_images.names,
        )


def _transformed(transform: Transform, images: Array, place: Place) -> Iterator[Array]:
    """Yields transformed images, some at a time, after checking that their shape stays."""
    count, part = 0, images[:0]
    for part in _computed(transform.blocks(images, place)):
        count += len(part)
        if part.shape[1:] != images.shape[1:] or count > len(images):
            break
        yield part
    else:
        if count == len(images):
            return
    raise DataError(
        f"{transform!r} turned images {images.shape} into {(count, *part.shape[1:])}; shapes must stay"
    )


def _computed(parts: Iterator[Array]) -> Iterator[Array]:
    """The parts, without torch's warning of read-only arrays: mapped files are read and never written."""
    while True:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            part = next(parts, None)
        if part is None:
            return
        yield part


def _check_same_classes(images: ImageSet, suite_images: ImageSet) -> None:
    """Checks that a network for the suite's images can classify `images`."""
    shape, expected = images.images.shape[1:], suite_images.images.shape[1:]
    if images.rule is not None and suite_images.rule is None and images.rule.outputs == suite_images.classes:
        classes = suite_images.classes  # a published subset, scored by its own rule
    else:
        classes = images.classes if images.rule == suite_images.rule else -1
    if images.labels is None or classes != suite_images.classes or shape != expected:
        labels = "no labels" if images.labels is None else f"{images.classes} classes"
        raise DataError(
            f"data set {images.name!r}: found {labels} and images of shape {shape}, expected the "
            f"{suite_images.classes} classes and the shape {expected} of {suite_images.name!r}"
        )


def _first(images: ImageSet, count: int) -> ImageSet:
    """The first `count` images, or all if it is 0."""
    if not count:
        return images
    labels = None if images.labels is None else images.labels[:count]
    return replace(images, images=images.images[:count], labels=labels, files=images.files[:count])


def _registered(name: str) -> DataSet:
    try:
        return DATASETS.get(name)()
    except TypeError as error:
        raise DataError(
            f"data set {name!r} cannot be used by its name alone ({error}); name one whose settings all have defaults"
        ) from error
