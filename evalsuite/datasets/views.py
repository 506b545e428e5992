"""The images that an evaluator shows to a model: a split of a data set, perhaps transformed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalsuite.datasets.base import Place
    from evalsuite.types import Array, ImageSet, Split

FOLDER_SUFFIX = "/"
"""Ends the name of a data set that is a folder under the data root."""


class Transform(ABC):
    """A change of images, computed here; derive a frozen dataclass."""

    @abstractmethod
    def name(self, place: Place) -> str:
        """Returns the name of the condition, for example ``fog/3``."""

    @abstractmethod
    def apply(self, images: Array, place: Place) -> Array:
        """Returns uint8 or float32 images of the same shape; row i depends on ``images[i]``, i and the seed."""

    def blocks(self, images: Array, place: Place) -> Iterator[Array]:
        """Yields what `apply` returns in parts, in order, so that memory need not hold all of it.

        A transform whose result may be large overrides it.
        """
        yield self.apply(images, place)

    def inputs(self, place: Place) -> Iterable[bytes]:  # noqa: ARG002  # most have none
        """Yields the files of the data root that the pixels depend on, beside images, settings and seed."""
        return ()


class StoredImages(ABC):
    """A set of images that was derived from the test images elsewhere and stored; derive a frozen dataclass."""

    @abstractmethod
    def name(self, place: Place) -> str:
        """Returns the name of the condition, which no `Transform` may have: ``fog official/3``."""

    @abstractmethod
    def load(self, plain: ImageSet, place: Place) -> ImageSet:
        """Returns the stored images, memory-mapped or decoded on access, checked against the test images `plain`.

        Raises:
            DataError: If they are missing or malformed; the message names the file, what was found and what
                was expected.
        """

    @abstractmethod
    def digest(self, plain: ImageSet, place: Place) -> str:
        """Returns a digest of everything that the pixels depend on."""

    @abstractmethod
    def origin(self, plain: ImageSet, place: Place) -> str:
        """Returns where the images come from, in words: ``official, MD5 verified``."""


@dataclass(frozen=True)
class View:
    """The address of an image set.

    Attributes:
        data: Name of a registered data set; empty for the suite's own; with a slash at its end a folder under the
            data root: arrays with the suite's classes (`evalsuite.datasets.arrays.Arrays`), or pictures, which get
            the suite's size (`evalsuite.datasets.folders.Folder`).
        split: Part of the data set.
        transform: Change of its images, or stored images that replace them.
        first: Number of images, from the first on; 0 for all.
        labelled: Whether another data set keeps its labels, which must be the suite's classes; without, it is
            out of distribution.
    """

    data: str = ""
    split: Split = "test"
    transform: Transform | StoredImages | None = None
    first: int = 0
    labelled: bool = False
