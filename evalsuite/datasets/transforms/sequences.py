"""CIFAR-10-P: short videos that start at a test image and change it a little from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalsuite.datasets.base import Place, digest
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
    """Is the frames of all videos of a perturbation, video after video.

    Attributes:
        kind: Name of the perturbation, as its file ``<kind>.npy`` is called: uint8, (videos, frames, H, W, 3).
        folder: Folder under the data root.
        count: Only the first so many videos; 0 for all.

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
        films = self.films(place)
        size, expected = films.shape[2:], tuple(plain.images.shape[side] for side in (2, 3, 1))
        if size != expected:
            raise DataError(
                f"{self._path(place)}: found frames of shape {size}, expected {expected}, the images'"
            )
        frames = films.reshape(-1, *size).transpose(0, 3, 1, 2)
        return ImageSet(self.name(place), frames, None, 0)

    def digest(self, plain: ImageSet, place: Place) -> str:
        """Returns a digest of the frames."""
        return digest(self.load(plain, place))

    def origin(self, plain: ImageSet, place: Place) -> str:  # noqa: ARG002  # nobody lists checksums
        """Returns ``official, MD5 not verified``."""
        return "official, MD5 not verified"

    def films(self, place: Place) -> Array:
        """Returns the videos, memory-mapped, uint8, (videos, frames, H, W, C).

        Raises:
            DataError: If the file is missing or malformed.
        """
        path = self._path(place)
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected that of CIFAR-10-P (Zenodo record 2535967)")
        try:
            found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(
                f"{path}: found {path.stat().st_size} bytes that are no whole NumPy array ({error}); fetch it again"
            ) from error
        if found.dtype != np.uint8 or found.ndim != 5 or found.shape[1] < 2:
            raise DataError(
                f"{path}: found {found.dtype} of shape {found.shape}, expected uint8 of shape "
                "(videos, frames, H, W, C) with at least two frames"
            )
        return found[: self.count or None]

    def _path(self, place: Place) -> Path:
        if place.root is None:
            raise DataError(
                f"the videos of {self.folder} need a data folder and none was named: "
                "give it with --data (of check: --data-root), the variable EVALSUITE_DATA, or data_root in the suite"
            )
        return place.root / self.folder / f"{self.kind}.npy"
