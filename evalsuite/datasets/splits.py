"""Which pictures of a user's own set are a split: those of a part of it, or a share that is drawn by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from evalsuite.datasets.arrays import VALIDATION_SHARE
from evalsuite.errors import DataError
from evalsuite.random_streams import address
from evalsuite.types import Array, Split

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation")
TEST = ("test", "testing")
"""Names of the parts that hold a split."""

T = TypeVar("T")


def split_named(name: str) -> Split | None:
    """Returns the split that a folder or a file is named after, ``None`` if it is none.

    >>> [split_named(name) for name in ("train", "Val", "cats")]
    ['train', 'validation', None]
    """
    names: dict[Split, tuple[str, ...]] = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    return next((split for split, words in names.items() if name.lower() in words), None)


@dataclass(frozen=True)
class Shares:
    """How a set is split where its parts do not say it.

    Attributes:
        test: Share of each class that is tested on, where there is no part for it; 0 for all.
        seed: Which pictures these are.
        limit: Use only the first so many test pictures; 0 for all.
    """

    test: float = 0.0
    seed: int = 0
    limit: int = 0

    def part(self, name: str, root: Path, parts: Mapping[Split, T], split: Split, whole: T) -> T:
        """Returns the part that holds the pictures of a split, beside those of others where it is split by share.

        Args:
            name: Name of the set, for messages.
            root: Where it is.
            parts: Its parts; none if it is not split.
            split: Which is wanted.
            whole: What holds all pictures, where there are no parts.

        Raises:
            DataError: If the set has no such split.
        """
        tested = next((part for part in ("test", "validation") if part in parts), None)
        if not parts:
            if split != "test" and not self.test:
                raise DataError(
                    f"data set {name!r} has no split {split!r}: {root} has no folders train/ and test/, so all "
                    "its pictures are for testing; make these folders, or set test_share = 0.2"
                )
            return whole
        if split == "test" and not self.test:
            if tested is None:
                raise DataError(
                    f"{root}: found train/ alone, expected test/ or val/ too; or set test_share = 0.2"
                )
            return parts["test" if "test" in parts else "validation"]
        if split == "validation" and {"validation", "test"} <= parts.keys():
            return parts["validation"]
        if "train" not in parts:
            raise DataError(f"data set {name!r} has no split {split!r}: {root} has no folder train/")
        return parts["train"]

    def rows(self, names: Sequence[str], labels: Array | None, split: Split, *, validated: bool) -> Array:
        """Returns the indices of the pictures of a split among those of a part, int64, rising.

        Args:
            names: A name of each picture that stays when others are added.
            labels: Class of each; ``None`` for pictures without classes.
            split: Which is wanted.
            validated: Whether another part is for validation; otherwise a tenth of the training pictures is held out.
        """
        rows = np.arange(len(names))
        if labels is not None and self.test:
            tested = self._drawn(names, labels, rows, self.test, "test")
            rows = tested if split == "test" else np.setdiff1d(rows, tested)
        if labels is not None and split != "test" and not validated:
            held_out = self._drawn(names, labels, rows, VALIDATION_SHARE, "validation")
            rows = held_out if split == "validation" else np.setdiff1d(rows, held_out)
        return rows[: self.limit or None] if split == "test" else rows

    def _drawn(self, names: Sequence[str], labels: Array, rows: Array, share: float, purpose: str) -> Array:
        """A share of each class, at least one picture of several, in the order of a hash of their names."""
        order = np.argsort([address(self.seed, purpose, names[row]) for row in rows], kind="stable")
        drawn = []
        for label in np.unique(labels[rows]):
            same = order[labels[rows][order] == label]
            drawn.append(same[: max(round(share * len(same)), int(len(same) > 1))])
        return np.sort(rows[np.concatenate(drawn)])
