"""What a model is shown: a split of a data set, perhaps transformed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from evalsuite.datasets.base import Place
from evalsuite.types import Array, ImageSet, Split


class Transform(ABC):
    """Is something that is done to images; derive a frozen dataclass."""

    @abstractmethod
    def name(self, place: Place) -> str:
        """Returns the name of the condition, for example ``fog/3``."""

    @abstractmethod
    def apply(self, images: Array, place: Place) -> Array:
        """Returns uint8 or float32 images of the same shape; row i depends on ``images[i]``, i and the seed."""

    def inputs(self, place: Place) -> Iterable[bytes]:  # noqa: ARG002  # most have none
        """Yields what the pixels depend on beside the images, the settings and the seed: files of the data root."""
        return ()


class StoredImages(ABC):
    """Is a set of images that somebody made of the test images and stored; derive a frozen dataclass."""

    @abstractmethod
    def name(self, place: Place) -> str:
        """Returns the name of the condition, which no `Transform` may have: ``fog official/3``."""

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
class View:
    """Is the address of a set of images.

    Attributes:
        data: Registered data set; empty for the suite's own; with a slash at its end a folder under the data
            root: arrays with the suite's classes (`evalsuite.datasets.arrays.Arrays`), or pictures, which get the
            suite's size (`evalsuite.datasets.folders.Folder`).
        split: Which part of it.
        transform: What is done to its images, or what was stored in their place.
        first: Only the first so many of them; 0 for all.
        labelled: Whether another data set keeps its labels, which must be the suite's classes; without, it is
            out of distribution.
    """

    data: str = ""
    split: Split = "test"
    transform: Transform | StoredImages | None = None
    first: int = 0
    labelled: bool = False
