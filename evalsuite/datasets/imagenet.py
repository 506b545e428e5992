"""ImageNet's validation images and the published sets of its classes, in their official layouts under the data root.

A network of 1,000 classes is scored on each by the rule of its authors: ImageNet-A, -R and -O have 200 classes, and
only the logits of these are looked at, before the softmax.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from evalsuite.datasets.base import DataSet, Place, check_test_only
from evalsuite.datasets.decoding import decode_pictures, list_folder, subfolders
from evalsuite.datasets.folders import Folder
from evalsuite.datasets.sampling import take_rows
from evalsuite.datasets.wordnet_ids import CLASSES, listed_wnids, wnids
from evalsuite.errors import DataError, first_few
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import ImageSet, ScoringRule, Split

DEVKIT = "ILSVRC2012_devkit_t12/data"
"""Folder of the development kit, beside ``val``: its labels are numbers of its own, 1 to 1000, in another order."""
LABEL_LISTS = (
    "val.txt", "LOC_val_solution.csv", "ILSVRC2012_validation_synset_labels.txt",
    "imagenet_2012_validation_synset_labels.txt",
)  # fmt: skip
"""Lists of labels of the flat archive: Caffe's, Kaggle's, and WordNet ids in the order of the pictures."""
_LEVELS = 4  # folders above the set's in which Kaggle's archive has its list
_VAL = "ILSVRC2012_val_{:08}"  # name of a validation image, numbered from 1
A_SOURCE = "Hendrycks et al. 2021, arXiv 1907.07174: logits of 200 classes"
R_SOURCE = "Hendrycks et al. 2021, arXiv 2006.16241: logits of 200 classes"


@dataclass(frozen=True)
class _ImageNetSet(DataSet):
    """A set of pictures of ImageNet's classes.

    Attributes:
        path: Folder of the set; empty for its usual names under the data root.
        side: Height and width in pixels, instead of the network's own resize and crop; 0 for the network's.
        limit: Use only the first so many pictures, in sorted order of their paths; 0 for all.
        skip_unreadable: Whether pictures that cannot be read are left out and counted.
    """

    reads_pictures: ClassVar[bool] = True
    name: ClassVar[str]
    usual: ClassVar[tuple[str, ...]]
    path: str = ""
    side: int = 0
    limit: int = 0
    skip_unreadable: bool = False

    def _root(self, place: Place) -> Path:
        if self.path:
            return place.locate(self.path)
        root = place.require_root(f"data set {self.name!r}")
        for name in self.usual:
            if (root / name).is_dir():
                return root / name
        raise DataError(
            f"data set {self.name!r}: found none of {', '.join(self.usual)} under {root}; unpack the set there, or "
            f"give its folder with path (--data {self.name}:path=FOLDER)"
        )

    def _folder(self, root: Path, names: Sequence[str], **settings: Any) -> Folder:
        """The pictures of `root`, whose folders of classes are named as some of `names`."""
        if not subfolders(root):
            missing = "has no folders" if root.is_dir() else "is not there"
            raise DataError(
                f"data set {self.name!r}: {root} {missing}, expected {root}/<class>/<picture> as it was published; "
                f"unpack the set there, or give its folder with path (--data {self.name}:path=FOLDER)"
            )
        if unknown := [name for name in subfolders(root) if name not in names]:
            raise DataError(
                f"data set {self.name!r}: {root} has {len(unknown)} folders that are none of its {len(names)} classes "
                f"({first_few(unknown)}), expected <class>/<picture> as it was published"
            )
        return Folder(
            str(root), self.side, labelled=True, limit=self.limit, class_names=tuple(names),
            skip_unreadable=self.skip_unreadable, **settings,
        )  # fmt: skip

    def _loaded(self, folder: Folder, place: Place) -> ImageSet:
        return replace(folder.load("test", place), name=self.name)


@dataclass(frozen=True)
class ImageNet(_ImageNetSet):
    """ImageNet's 50,000 validation images: folders by wnid, or the flat archive beside its labels.

    Labels of the flat archive are those of the development kit (``ILSVRC2012_devkit_t12/data``), or of a list: Caffe's
    ``val.txt``, Kaggle's ``LOC_val_solution.csv``, or a list of WordNet ids in the order of the pictures.

    Attributes:
        subset: ``a``, ``r`` or ``o``: only images of the 200 classes of ImageNet-A, -R or -O, scored on these.
    """

    name: ClassVar[str] = "imagenet"
    usual: ClassVar[tuple[str, ...]] = ("imagenet", "ILSVRC2012", "imagenet_1k", "ILSVRC/Data/CLS-LOC", ".")
    subset: Literal["", "a", "r", "o"] = ""

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the validation images as ``test``; the training images where ``train/<wnid>`` is there."""
        root = self._root(place)
        val = root / "val" if (root / "val").is_dir() else root
        if split != "test":
            if self.subset or not (root / "train").is_dir():
                raise DataError(f"data set 'imagenet' has no split {split!r}: expected {root}/train/<wnid>")
            return replace(
                self._folder(root / "train", wnids(), test_share=0.1).load(split, place), name=self.name
            )
        images = (
            self._loaded(self._folder(val, wnids()), place)
            if subfolders(val)
            else self._flat(root, val, place)
        )
        return _restricted(images, self._subset(place)) if self.subset else images

    def _subset(self, place: Place) -> ScoringRule:
        if self.subset == "o":
            return subset_rule(subfolders(ImageNetO()._root(place)), "the 200 classes of ImageNet-O")
        return subset_rule(
            listed_wnids(f"imagenet_{self.subset}_synsets"), A_SOURCE if self.subset == "a" else R_SOURCE
        )

    def _flat(self, root: Path, val: Path, place: Place) -> ImageSet:
        """The flat archive, whose labels are in a file beside it."""
        paths = [path for path in list_folder(val).paths if path.name.startswith("ILSVRC2012_val_")]
        label_of, source = flat_labels(root, val) if paths else ({}, "")
        if not paths or not source:
            raise DataError(
                f"data set 'imagenet': {val} has neither folders <wnid>/ nor, beside {DEVKIT} or one of "
                f"{', '.join(LABEL_LISTS)}, the files ILSVRC2012_val_*.JPEG; sort them into folders, or put one of "
                "these there"
            )
        if missing := [path.name for path in paths if path.stem not in label_of]:
            raise DataError(
                f"data set 'imagenet': {source} has no label of {len(missing)} of {len(paths)} pictures in {val} "
                f"({first_few(missing)})"
            )
        paths = paths[: self.limit or None]
        place = replace(place, skip_unreadable=place.skip_unreadable or self.skip_unreadable)
        geometry = Preprocessing((self.side, self.side), (self.side,)) if self.side else place.preprocessing
        decoded = decode_pictures(paths, geometry, place, name=self.name)
        files = tuple(paths[row].stem for row in decoded.kept)
        labels = np.array([label_of[file] for file in files], np.int64)
        return ImageSet(
            self.name, decoded.images, labels, CLASSES, wnids(), decoded.notes,
            f"1,000 classes, by the labels of {source}", files=files,
        )  # fmt: skip


@dataclass(frozen=True)
class ImageNetV2(_ImageNetSet):
    """ImageNetV2: 10,000 new images of the 1,000 classes; folders are numbers without leading zeros.

    Attributes:
        variant: Which of the three: ``matched-frequency``, ``threshold0.7`` or ``top-images``.

    References:
        Recht et al. 2019, "Do ImageNet classifiers generalize to ImageNet?", arXiv 1902.10811.
    """

    name: ClassVar[str] = "imagenet-v2"
    variant: Literal["matched-frequency", "threshold0.7", "top-images"] = "matched-frequency"

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images."""
        check_test_only(self.name, split, reason=_TEST_SET)
        if self.path:
            root = place.locate(self.path)
        else:
            folder = f"imagenetv2-{self.variant}-format-val"
            root = next(
                (
                    at
                    for at in (
                        place.require_root(self.name) / name for name in (folder, f"imagenet-v2/{folder}")
                    )
                    if at.is_dir()
                ),
                place.require_root(self.name) / folder,
            )
        names = [str(index) for index in range(CLASSES)]
        by_number = all(name.isdecimal() for name in subfolders(root))
        return self._loaded(self._folder(root, names if by_number else wnids(), classes=CLASSES), place)


@dataclass(frozen=True)
class ImageNetSketch(_ImageNetSet):
    """ImageNet-Sketch: drawings of the 1,000 classes.

    References:
        Wang et al. 2019, "Learning robust global representations by penalizing local predictive power", arXiv
        1905.13549.
    """

    name: ClassVar[str] = "imagenet-sketch"
    usual: ClassVar[tuple[str, ...]] = ("sketch", "imagenet-sketch/sketch", "imagenet-sketch")

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images."""
        check_test_only(self.name, split, reason=_TEST_SET)
        return self._loaded(self._folder(self._root(place), wnids()), place)


@dataclass(frozen=True)
class ImageNetA(_ImageNetSet):
    """ImageNet-A: 7,500 images of 200 classes that ResNet-50 gets wrong.

    References:
        Hendrycks et al. 2021, "Natural adversarial examples", arXiv 1907.07174.
    """

    name: ClassVar[str] = "imagenet-a"
    usual: ClassVar[tuple[str, ...]] = ("imagenet-a",)
    filtered: ClassVar[bool] = True

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images, labelled by their places among the 200 classes."""
        check_test_only(self.name, split, reason=_TEST_SET)
        names = listed_wnids("imagenet_a_synsets")
        return replace(
            self._loaded(self._folder(self._root(place), names), place), rule=subset_rule(names, A_SOURCE)
        )


@dataclass(frozen=True)
class ImageNetR(_ImageNetSet):
    """ImageNet-R: 30,000 renditions (art, cartoons, sculptures ...) of 200 classes.

    References:
        Hendrycks et al. 2021, "The many faces of robustness", arXiv 2006.16241.
    """

    name: ClassVar[str] = "imagenet-r"
    usual: ClassVar[tuple[str, ...]] = ("imagenet-r",)

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images, labelled by their places among the 200 classes."""
        check_test_only(self.name, split, reason=_TEST_SET)
        names = listed_wnids("imagenet_r_synsets")
        return replace(
            self._loaded(self._folder(self._root(place), names), place), rule=subset_rule(names, R_SOURCE)
        )


@dataclass(frozen=True)
class ImageNetO(_ImageNetSet):
    """ImageNet-O: 2,000 images of no class of ImageNet; its folders are classes that networks take them for.

    Published numbers are beside ImageNet's validation images of these 200 classes: ``imagenet`` with ``subset = "o"``.

    References:
        Hendrycks et al. 2021, arXiv 1907.07174.
    """

    name: ClassVar[str] = "imagenet-o"
    usual: ClassVar[tuple[str, ...]] = ("imagenet-o",)

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images, without labels."""
        check_test_only(self.name, split, reason="it is out of distribution")
        folder = self._folder(self._root(place), wnids())
        return replace(self._loaded(folder, place), labels=None, classes=0, names=(), labelling="")


_TEST_SET = "it was published to test on"


def subset_rule(names: Sequence[str], source: str) -> ScoringRule:
    """Returns the rule that looks at the logits of some of ImageNet's classes alone, given by their WordNet ids."""
    place = {name: index for index, name in enumerate(wnids())}
    return ScoringRule("subset", CLASSES, tuple(place[name] for name in names), source)


def flat_labels(root: Path, val: Path) -> tuple[dict[str, int], str]:
    """Returns the class of each validation image by its name without ending, and what says so; empty if nothing does.

    Looked at in turn, in the set's folder, in that of its pictures and above: the development kit, and `LABEL_LISTS`.

    Raises:
        DataError: If a file is not as it was published.
    """
    above = [root.parents[level] for level in range(min(_LEVELS, len(root.parents)))]
    homes = list(dict.fromkeys([root, val, *above]))
    kit = next((folder / DEVKIT for folder in homes if (folder / DEVKIT).is_dir()), None)
    if kit is not None:
        return dict(zip(map(_VAL.format, itertools.count(1)), devkit_labels(kit).tolist(), strict=False)), (
            "the development kit"
        )
    files = (folder / name for name in LABEL_LISTS for folder in homes)
    file = next((file for file in files if file.is_file()), None)
    return ({}, "") if file is None else (read_label_list(file), file.name)


def read_label_list(file: Path) -> dict[str, int]:
    """Returns the class of each validation image, by its name without ending, from a list of labels.

    A line is the picture's name and its class, an index from 0 on or a WordNet id, between spaces or a comma (what
    follows is ignored), below a header or not; or a class alone, in the order of the pictures.

    Raises:
        DataError: If a line is not like that.
    """
    place = {name: index for index, name in enumerate(wnids())}
    labels: dict[str, int] = {}
    for number, line in enumerate(file.read_text("utf-8-sig").splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words or (number == 1 and words[0] == "ImageId"):
            continue
        name, label = (Path(words[0]).stem, words[1]) if len(words) > 1 else (_VAL.format(number), words[0])
        index = int(label) if label.isdecimal() else place.get(label, -1)
        if not 0 <= index < CLASSES or not name.startswith("ILSVRC2012_val_"):
            raise DataError(
                f"{file}, line {number}: found {line!r}, expected a picture ILSVRC2012_val_* and its class, 0 to 999 "
                "or a WordNet id"
            )
        if len(words) == 1 and label.isdecimal():
            raise DataError(
                f"{file}, line {number}: found the number {label} alone, which may be one of the development kit's, in "
                f"another order; put {DEVKIT} there, or write the picture's name before each"
            )
        labels[name] = index
    return labels


def devkit_labels(kit: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Returns the class of each validation image, in the order of their file names, from the development kit.

    Raises:
        DataError: If its files are not as they were published.
    """
    from scipy.io import loadmat

    try:
        table = loadmat(str(kit / "meta.mat"), squeeze_me=True)["synsets"]
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table}
        numbers = [int(line) for line in (kit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()]
        place = {name: index for index, name in enumerate(wnids())}
        return np.array([place[wnid_of[number]] for number in numbers], np.int64)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{kit}: found no meta.mat and ILSVRC2012_validation_ground_truth.txt as they were published ({error})"
        ) from error


def _restricted(images: ImageSet, rule: ScoringRule) -> ImageSet:
    """The images of the classes of a subset, labelled by their places in it."""
    assert images.labels is not None  # noqa: S101  # ImageNet has labels
    place = np.full(CLASSES, -1)
    place[list(rule.indices)] = np.arange(len(rule.indices))
    rows = np.flatnonzero(place[images.labels] >= 0)
    if not len(rows):
        raise DataError(f"{images.name}: found no image of the {len(rule.indices)} classes of the subset")
    names = tuple(images.names[index] for index in rule.indices)
    return replace(
        take_rows(images, rows), labels=place[images.labels[rows]], classes=len(names), names=names,
        labelling=f"{len(names)} of the 1,000 classes ({rule.source})", rule=rule,
    )  # fmt: skip
