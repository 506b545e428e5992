"""ObjectNet: objects in unusual places, of which 113 classes are also ImageNet's, scored by its authors' rule."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from evalsuite.datasets.base import DataSet, Place, check_test_only
from evalsuite.datasets.decoding import decode_pictures, list_folder
from evalsuite.datasets.folders import check_side
from evalsuite.datasets.wordnet_ids import CLASSES
from evalsuite.errors import DataError
from evalsuite.preprocessing import Preprocessing
from evalsuite.types import ImageSet, ScoringRule, Split

BORDER = 2
"""Width in pixels of the red border that is cut off, as the authors' loader does it."""
SOURCE = "Barbu et al. 2019: the answer is the class of the largest of 1,000 logits, many to one"


@dataclass(frozen=True)
class ObjectNet(DataSet):
    """ObjectNet: the classes that are also ImageNet's; several of its outputs may mean one class.

    It reads ``images/<folder>/`` and the four files of ``mappings/`` in the archive. Its licence allows no training on
    these images, and asks that the border stays where they are passed on.

    Attributes:
        path: Folder of the set; empty for its usual name under the data root.
        side: Height and width in pixels, instead of the network's own resize and crop; 0 for the network's.
        limit: Use only the first so many pictures, in sorted order of their paths; 0 for all.
        skip_unreadable: Whether pictures that cannot be read are left out and counted.

    References:
        Barbu et al. 2019, "ObjectNet: A large-scale bias-controlled dataset for pushing the limits of object
        recognition models", NeurIPS.
    """

    reads_pictures: ClassVar[bool] = True
    path: str = ""
    side: int = 0
    limit: int = 0
    skip_unreadable: bool = False

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images of the classes that are also ImageNet's, without their border."""
        check_test_only("objectnet", split, reason="its licence allows no training on it")
        check_side("objectnet", self.side, self.limit)
        root = place.locate(self.path or "objectnet-1.0")
        folders = folder_outputs(root / "mappings")
        names = sorted(folders)
        listed = list_folder(root / "images").paths
        paths = [path for path in listed if path.parent.name in folders][: self.limit or None]
        if not paths:
            raise DataError(
                f"{root / 'images'}: found no picture in a folder of the mappings, expected <folder>/*.png"
            )
        geometry = Preprocessing((self.side, self.side), (self.side,)) if self.side else place.preprocessing
        if geometry is None:
            raise DataError("data set 'objectnet': found a network that does not say what it takes; set side")
        place = replace(place, skip_unreadable=place.skip_unreadable or self.skip_unreadable)
        decoded = decode_pictures(paths, geometry, place, name="objectnet", border=BORDER)
        labels = np.array([names.index(path.parent.name) for path in paths], np.int64)[decoded.kept]
        return ImageSet(
            "objectnet", decoded.images, labels, len(names), tuple(names), decoded.notes,
            f"{len(names)} classes of ObjectNet that are ImageNet's ({SOURCE})", _rule(names, folders),
        )  # fmt: skip


def folder_outputs(mappings: Path) -> dict[str, tuple[int, ...]]:
    """Returns the outputs of a network of ImageNet's 1,000 classes that mean the class of each folder.

    Raises:
        DataError: If the files of the archive are missing or do not fit each other.
    """
    try:
        folders = json.loads((mappings / "folder_to_objectnet_label.json").read_text("utf-8"))
        shared = json.loads((mappings / "objectnet_to_imagenet_1k.json").read_text("utf-8"))
        lines = json.loads((mappings / "pytorch_to_imagenet_2012_id.json").read_text("utf-8"))
        texts = (mappings / "imagenet_to_label_2012_v2").read_text("utf-8").splitlines()
        output_of_line = {int(line): int(output) for output, line in lines.items()}
        output = {text.strip(): output_of_line[line] for line, text in enumerate(texts)}
        return {
            folder: tuple(output[name] for name in shared[label].split("; "))
            for folder, label in folders.items()
            if label in shared
        }
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{mappings}: found no folder_to_objectnet_label.json, objectnet_to_imagenet_1k.json, "
            f"pytorch_to_imagenet_2012_id.json and imagenet_to_label_2012_v2 as they were published ({error!r}); "
            "unpack the archive again"
        ) from error


def _rule(names: list[str], folders: dict[str, tuple[int, ...]]) -> ScoringRule:
    indices = np.full(CLASSES, -1)
    for label, name in enumerate(names):
        indices[list(folders[name])] = label
    return ScoringRule("many_to_one", CLASSES, tuple(indices.tolist()), SOURCE)
