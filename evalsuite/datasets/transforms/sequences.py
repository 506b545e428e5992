"""CIFAR-10-P: perturbation sequences, which start at a test image and change it a little from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalsuite.datasets.base import Place, digest, read_array
from evalsuite.datasets.views import StoredImages
from evalsuite.errors import DataError
from evalsuite.types import Array, ImageSet

PERTURBATIONS = (
    *("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "spatter"),
    *("brightness", "translate", "rotate", "tilt", "scale"),
)
"""The ten perturbations of the published mean."""


@dataclass(frozen=True)
class PerturbationSequences(StoredImages):
    """The frames of all sequences of a perturbation, sequence after sequence.

    Attributes:
        kind: Name of the perturbation and of its file ``<kind>.npy``: uint8, (sequences, frames, H, W, 3).
        folder: Folder under the data root.
        count: Only the first so many sequences; 0 for all.

    References:
        Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3 (Zenodo record 2535967).
    """

    kind: str
    folder: str = "CIFAR-10-P"
    count: int = 0

    def name(self, place: Place) -> str:  # noqa: ARG002  # the same everywhere
        """Returns for example ``translate video``."""
        return f"{self.kind} video"

    def load(self, plain: ImageSet, place: Place) -> ImageSet:
        """Returns the frames, a view of the memory-mapped file; they have no labels."""
        sequences = self.sequences(place)
        size, expected = sequences.shape[2:], tuple(plain.images.shape[axis] for axis in (2, 3, 1))
        if size != expected:
            raise DataError(
                f"{self._path(place)}: found frames of shape {size}, expected {expected}, the images'"
            )
        frames = sequences.reshape(-1, *size).transpose(0, 3, 1, 2)
        return ImageSet(self.name(place), frames, None, 0)

    def digest(self, plain: ImageSet, place: Place) -> str:
        """Returns a digest of the frames."""
        return digest(self.load(plain, place))

    def origin(self, plain: ImageSet, place: Place) -> str:  # noqa: ARG002  # no checksums are published
        """Returns ``official, MD5 not verified``."""
        return "official, MD5 not verified"

    def sequences(self, place: Place) -> Array:
        """Returns the sequences, memory-mapped, uint8, (sequences, frames, H, W, C).

        Raises:
            DataError: If the file is missing or malformed.
        """
        path = self._path(place)
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected that of CIFAR-10-P (Zenodo record 2535967)")
        sequences = read_array(path)
        if sequences.dtype != np.uint8 or sequences.ndim != 5 or sequences.shape[1] < 2:
            raise DataError(
                f"{path}: found {sequences.dtype} of shape {sequences.shape}, expected uint8 of shape "
                "(sequences, frames, H, W, C) with at least two frames"
            )
        return sequences[: self.count or None]

    def _path(self, place: Place) -> Path:
        return place.require_root(self.folder) / self.folder / f"{self.kind}.npy"
