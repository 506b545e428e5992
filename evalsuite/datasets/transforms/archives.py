"""Official archives of corrupted test images: CIFAR-10-C, CIFAR-100-C, ImageNet-C and others of their layouts.

Two layouts. CIFAR's: ``<kind>.npy``, uint8 (50000, 32, 32, 3), severity s in rows (s-1)*10000 to s*10000 in
the order of the test set, and ``labels.npy``; an archive of one's own has five times as many rows as its test set. The
files are memory-mapped. ImageNet's:
``<kind>/<1..5>/<class>/<image>``, perhaps in a folder per family, classes in sorted order; images are decoded
on access. The labels must be those of the test images, so that every corruption has the same images in the same
order.

References:
    Hendrycks and Dietterich 2019, arXiv 1903.12261.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from PIL import Image

from evalsuite.datasets.base import PICTURE_SUFFIXES, Place, read_array
from evalsuite.datasets.views import StoredImages
from evalsuite.errors import DataError, first_few
from evalsuite.types import Array, ImageSet

CIFAR10_C: Mapping[str, str] = MappingProxyType(
    {
        "labels": "c439b113295ed5254878798ffe28fd54",
        "gaussian_noise": "ecaf8b9a2399ffeda7680934c33405fd",
        "shot_noise": "3a7239bb118894f013d9bf1984be7f11",
        "impulse_noise": "2090e01c83519ec51427e65116af6b1a",
        "defocus_blur": "7d1322666342a0702b1957e92f6254bc",
        "glass_blur": "7361fb4019269e02dbf6925f083e8629",
        "motion_blur": "fffa5f852ff7ad299cfe8a7643f090f4",
        "zoom_blur": "6ea8e63f1c5cdee1517533840641641b",
        "snow": "bb238de8555123da9c282dea23bd6e55",
        "frost": "31f6ab3bce1d9934abfb0cc13656f141",
        "fog": "7b397314b5670f825465fbcd1f6e9ccd",
        "brightness": "0a81ef75e0b523c3383219c330a85d48",
        "contrast": "3c8262171c51307f916c30a3308235a8",
        "elastic_transform": "9421657c6cd452429cf6ce96cc412b5f",
        "pixelate": "0f14f7e2db14288304e1de10df16832f",
        "jpeg_compression": "2b9cc4c864e0193bb64db8d7728f8187",
        "speckle_noise": "ef00b87611792b00df09c0b0237a1e30",
        "gaussian_blur": "c33370155bc9b055fb4a89113d3c559d",
        "spatter": "8a5a3903a7f8f65b59501a6093b4311e",
        "saturate": "1cfae0964219c5102abbb883e538cc56",
    }
)
"""MD5 sums of the files of CIFAR-10-C (Zenodo record 2535967), as torch-uncertainty lists them."""

CIFAR100_C: Mapping[str, str] = MappingProxyType(
    {
        "labels": "bb4026e9ce52996b95f439544568cdb2",
        "gaussian_noise": "ecc4d366eac432bdf25c024086f5e97d",
        "shot_noise": "b0a1fa6e1e465a747c1b204b1914048a",
        "impulse_noise": "3b3c210ddfa0b5cb918ff4537a429fef",
        "defocus_blur": "d923e3d9c585a27f0956e2f2ad832564",
        "glass_blur": "0bf384f38e5ccbf8dd479d9059b913e1",
        "motion_blur": "732a7e2e54152ff97c742d4c388c5516",
        "zoom_blur": "0204613400c034a81c4830d5df81cb82",
        "snow": "0237be164583af146b7b144e73b43465",
        "frost": "3a39c6823bdfaa0bf8b12fe7004b8117",
        "fog": "4efc7ebd5e82b028bdbe13048e3ea564",
        "brightness": "f22d7195aecd6abb541e27fca230c171",
        "contrast": "322bb385f1d05154ee197ca16535f71e",
        "elastic_transform": "a0792bd6581f6810878be71acedfc65a",
        "pixelate": "96c00c60f144539e14cffb02ddbd0640",
        "jpeg_compression": "c851b7f1324e1d2ffddeb76920576d11",
        "speckle_noise": "e3f215b1a0f9fd9fd6f0d1cf94a7ce99",
        "gaussian_blur": "5204ba0d557839772ef5a4196a052c3e",
        "spatter": "12ccf41d62564d36e1f6a6ada5022728",
        "saturate": "c0697e9fdd646916a61e9c312c77bf6b",
    }
)
"""MD5 sums of the files of CIFAR-100-C (Zenodo record 3555552), as torch-uncertainty lists them."""


CORRUPTIONS_3D = (
    "near_focus", "far_focus", "bit_error", "color_quant", "flash", "fog_3d", "h265_abr", "h265_crf", "iso_noise",
    "low_light", "xy_motion_blur", "z_motion_blur",
)  # fmt: skip
"""Kinds of ImageNet-3DCC (Kar et al. 2022, "3D common corruptions and data augmentation", arXiv 2203.01441)."""
ROWS = 10_000
"""Images of one severity in a published array."""
SEVERITIES = 5


@dataclass(frozen=True, slots=True)
class Archive:
    """A published archive.

    Attributes:
        folder: Name of its folder.
        source: Where it comes from, in words.
        checksums: MD5 sums of its files, by stem; empty where none are published.
        tree: Whether it has the layout of ImageNet-C.
    """

    folder: str
    source: str
    checksums: Mapping[str, str]
    tree: bool = False


_NO_SUMS: Mapping[str, str] = MappingProxyType({})

ARCHIVES: Mapping[str, Archive] = MappingProxyType(
    {
        "cifar10": Archive("CIFAR-10-C", "Zenodo record 2535967", CIFAR10_C),
        "cifar100": Archive("CIFAR-100-C", "Zenodo record 3555552", CIFAR100_C),
        "imagenet": Archive("ImageNet-C", "Zenodo record 2235448", _NO_SUMS, tree=True),
        "tiny-imagenet": Archive("Tiny-ImageNet-C", "Zenodo record 2536630", _NO_SUMS, tree=True),
    }
)
"""Archives by the name of the data set whose test images they corrupt."""


@dataclass(frozen=True)
class OfficialCorruption(StoredImages):
    """A published corruption of the test images at a severity of 1 to 5.

    Attributes:
        kind: Name of the corruption, as of its file or folder.
        severity: 1 to 5.
        folder: Folder of the archive under the data root; empty for the one that belongs to the data set
            (`ARCHIVES`).
        verify: Whether to refuse files whose MD5 sum is not the published one. Without, they are used and called
            not verified.
    """

    kind: str
    severity: int
    folder: str = ""
    verify: bool = True

    def name(self, place: Place) -> str:  # noqa: ARG002  # the same everywhere
        """Returns for example ``fog official/3``, the name of no generated corruption."""
        return f"{self.kind} official/{self.severity}"

    def load(self, plain: ImageSet, place: Place) -> ImageSet:
        """Returns the images of this severity: a memory-mapped view of the array, or pictures not yet decoded."""
        home = self._home(plain, place)
        if self._is_tree(home, plain):
            labels, images = self._tree(home, plain)
            _check_labels(f"{home / self.kind / str(self.severity)}", labels, plain)
        else:
            images = self._rows(home, plain)
        return replace(plain, name=self.name(place), images=images)

    def digest(self, plain: ImageSet, place: Place) -> str:
        """Returns the MD5 sum of the array, or a digest of names, sizes and dates of the pictures in a tree."""
        home = self._home(plain, place)
        if self._is_tree(home, plain):
            listing = self._listing(home, plain)
            return (listing.paired(plain.files) or listing).digest(len(plain.images))
        return md5(_existing(home / f"{self.kind}.npy", self._source(plain)))

    def origin(self, plain: ImageSet, place: Place) -> str:
        """Returns ``official, MD5 verified`` or ``official, MD5 not verified``."""
        home = self._home(plain, place)
        verified = not self._is_tree(home, plain) and all(
            self._published_md5(plain, stem) == md5(home / f"{stem}.npy") for stem in ("labels", self.kind)
        )
        return f"official, MD5 {'verified' if verified else 'not verified'}"

    def _home(self, plain: ImageSet, place: Place) -> Path:
        archive = ARCHIVES.get(plain.name)
        name = self.folder or (archive.folder if archive else "")
        if not name:
            raise DataError(
                f"no official corruptions of the data set {plain.name!r} are known, only of {', '.join(ARCHIVES)}; "
                "name the folder of your own, or use source = 'generated'"
            )
        root = place.require_root(f"the archive {name}")
        return _existing(root / name, self._source(plain))

    def _is_tree(self, home: Path, plain: ImageSet) -> bool:
        """Whether the layout is a tree: known for a published archive, else if there is no array in the folder."""
        archive = ARCHIVES.get(plain.name)
        if archive is not None and not self.folder:
            return archive.tree
        return not any(home.glob("*.npy"))

    def _rows(self, home: Path, plain: ImageSet) -> Array:
        array = self._array(home, self.kind, plain)
        labels = self._array(home, "labels", plain)
        count = self._rows_of_a_severity(labels)
        expected = (SEVERITIES * count, *(plain.images.shape[side] for side in (2, 3, 1)))
        _check_array(home / f"{self.kind}.npy", array, "uint8", expected)
        _check_array(home / "labels.npy", labels, "integers", expected[:1])
        for severity in range(SEVERITIES):
            _check_labels(
                f"{home / 'labels.npy'}, severity {severity + 1}", labels[severity * count :][:count], plain
            )
        start = (self.severity - 1) * count
        rows: Array = array[start : start + len(plain.images)]
        return rows.transpose(0, 3, 1, 2)

    def _rows_of_a_severity(self, labels: Array) -> int:
        """Images of one severity: those of the published archives, or a fifth of an archive of the user's own."""
        own = bool(self.folder) and labels.ndim == 1 and len(labels) % SEVERITIES == 0
        return len(labels) // SEVERITIES if own else ROWS

    def _array(self, home: Path, stem: str, plain: ImageSet) -> Array:
        """An array of the archive, whose MD5 sum is the published one unless the user allows others."""
        path = _existing(home / f"{stem}.npy", self._source(plain))
        array = read_array(path, remedy=f"download the file of {self._source(plain)} again")
        expected = self._published_md5(plain, stem)
        if self.verify and expected and md5(path) != expected:
            raise DataError(
                f"{path}: found MD5 {md5(path)} ({array.dtype}, shape {array.shape}), expected {expected}; download "
                "the file again, or set verify = false if these are images of your own"
            )
        return array

    def _tree(self, home: Path, plain: ImageSet) -> tuple[Array, Array]:
        listing = self._listing(home, plain)
        if paired := listing.paired(plain.files):
            pictures = LazyPictures(paired.paths, plain.images.shape[-1])
            return np.asarray(paired.labels), pictures.array
        if listing.classes != plain.classes or len(listing.paths) < len(plain.images):
            raise DataError(
                f"{listing.folder}: found {listing.classes} folders of classes with {len(listing.paths)} images, "
                f"expected {plain.classes} with {len(plain.images)}, those of {self._source(plain)}"
            )
        pictures = LazyPictures(listing.paths[: len(plain.images)], plain.images.shape[-1])
        return np.asarray(listing.labels), pictures.array

    def _listing(self, home: Path, plain: ImageSet) -> Listing:
        """The pictures, those of the classes of the test images alone where folders are named as these."""
        return list_pictures(home, self.kind, self.severity).of_classes(plain.names)

    def _published_md5(self, plain: ImageSet, stem: str) -> str:
        archive = ARCHIVES.get(plain.name)
        return archive.checksums.get(stem, "") if archive else ""

    def _source(self, plain: ImageSet) -> str:
        archive = ARCHIVES.get(plain.name)
        return f"{archive.folder} ({archive.source})" if archive else "an archive of corrupted images"


@dataclass(frozen=True, slots=True)
class Listing:
    """The pictures of one corruption and severity in a tree of folders.

    Attributes:
        folder: Folder of the severity.
        paths: Pictures, class after class, each in sorted order.
        labels: Class of each picture: the index of its folder among the sorted names of classes.
        classes: Number of classes.
    """

    folder: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: int

    def of_classes(self, names: Sequence[str]) -> Listing:
        """Returns the pictures in folders that are named as classes, labelled by these; all if none is named so.

        Args:
            names: Of all classes, in the order of their labels; empty if they have none.
        """
        place = {name: label for label, name in enumerate(names)}
        found = [(path, place[path.parent.name]) for path in self.paths if path.parent.name in place]
        if not found:
            return self
        paths, labels = zip(*found, strict=True)
        return Listing(self.folder, paths, labels, len(names))

    def paired(self, files: Sequence[str]) -> Listing | None:
        """Returns the pictures in the order of test images, which have the same names; ``None`` if no name is theirs.

        Args:
            files: Names of the test images without endings; empty if they have none.

        Raises:
            DataError: If only some test images have their picture, or a name is there twice.
        """
        place = {path.stem: index for index, path in enumerate(self.paths)}
        missing = [name for name in files if name not in place]
        if len(missing) == len(files) or len({*files}) < len(files):
            return None
        if missing or len(place) < len(self.paths):
            found = f"no picture of {len(missing)} of {len(files)} test images ({first_few(missing)})"
            twice = f"{len(self.paths) - len(place)} pictures whose names are there twice"
            raise DataError(
                f"{self.folder}: found {found if missing else twice}, expected one for each, under its name"
            )
        rows = [place[name] for name in files]
        paths, labels = tuple(self.paths[row] for row in rows), tuple(self.labels[row] for row in rows)
        return Listing(self.folder, paths, labels, self.classes)

    def digest(self, count: int) -> str:
        """Returns a digest of the names, sizes and dates of the first `count` pictures."""
        total = hashlib.sha256()
        for path in self.paths[:count]:
            status = path.stat()
            total.update(f"{path.relative_to(self.folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return total.hexdigest()


@cache
def list_pictures(home: Path, kind: str, severity: int) -> Listing:
    """Returns the pictures of ``<home>/<kind>/<severity>/<class>``, or of a folder in between (a family's).

    Raises:
        DataError: If there is no such folder, or more than one.
    """
    folders = [path for path in (home / kind, *sorted(home.glob(f"*/{kind}"))) if path.is_dir()]
    if len(folders) != 1:
        raise DataError(
            f"{home}: found {len(folders)} folders {kind!r} in it or one deeper, expected one, with the folders 1 to 5"
        )
    folder = folders[0] / str(severity)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one folder of images per class in it")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    pictures = [(path, label) for label, child in enumerate(classes) for path in _pictures(child)]
    paths, labels = zip(*pictures, strict=True) if pictures else ((), ())
    return Listing(folder, paths, labels, len(classes))


class LazyPictures:
    """An array of pictures, uint8 (N, 3, side, side), that decodes rows on access.

    The centre is cut out and nothing is resized: published archives are resized already.

    Args:
        paths: Pictures of at least `side` x `side` pixels.
        side: Height and width of the images.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths = tuple(paths)
        self.shape = (len(self.paths), 3, side, side)
        self.nbytes = int(np.prod(self.shape))

    @property
    def array(self) -> Array:
        """The pictures with the type of an array: slices and lists of rows of them are arrays."""
        return cast("Array", self)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> Array:
        indices = np.arange(len(self.paths))[rows]
        if indices.ndim == 0:
            return self._decode(self.paths[int(indices)])
        images = [self._decode(self.paths[index]) for index in indices]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _decode(self, path: Path) -> Array:
        side = self.shape[-1]
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise DataError(f"{path}: not a readable picture ({error}); download it again") from error
        top, left = ((size - side) // 2 for size in pixels.shape[:2])
        if top < 0 or left < 0:
            raise DataError(
                f"{path}: found {pixels.shape[0]} x {pixels.shape[1]} px, expected at least {side} x {side}"
            )
        return pixels[top : top + side, left : left + side].transpose(2, 0, 1)


def md5(path: Path) -> str:
    """Returns the MD5 sum of a file, hexadecimal; read once per process, unless the file changes."""
    status = path.stat()
    return _md5(path, status.st_size, status.st_mtime_ns)


@cache
def _md5(path: Path, size: int, changed: int) -> str:  # noqa: ARG001  # they are the key of the cache
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _pictures(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURE_SUFFIXES)


def _existing(path: Path, source: str) -> Path:
    """`path`, if it exists."""
    if not path.exists():
        raise DataError(
            f"{path}: no such {'file' if path.suffix else 'folder'}, expected that of {source}; put it there, or use "
            "source = 'generated'"
        )
    return path


def _check_array(path: Path, array: Array, kind: str, shape: tuple[int, ...]) -> None:
    right = array.dtype == np.uint8 if kind == "uint8" else np.issubdtype(array.dtype, np.integer)
    if not right or array.shape != shape:
        raise DataError(
            f"{path}: found {array.dtype} of shape {array.shape}, expected {kind} of shape {shape}; download the file "
            "again"
        )


def _check_labels(where: str, labels: Array, plain: ImageSet) -> None:
    """Checks that corrupted images have the labels of the test images, and so are these in their order."""
    if plain.labels is None:
        raise DataError(
            f"data set {plain.name!r} has no labels, so official corruptions cannot be matched with its images"
        )
    expected, count = plain.labels, len(plain.labels)
    wrong = (
        np.flatnonzero(np.asarray(labels[:count]) != expected)
        if len(labels) >= count
        else np.array([len(labels)])
    )
    if len(wrong):
        index = int(wrong[0])
        label = f"label {labels[index]}" if index < len(labels) else "no label"
        raise DataError(
            f"{where}: found {label} for image {index}, expected {expected[index]}, the label of test image {index} "
            f"of {plain.name!r}: the images must be the same in the same order"
        )
