"""Planted models and small image sets whose numbers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.bench import Bench
from evalsuite.data.dataset import DataSet, Place, loaded
from evalsuite.data.digits import Digits
from evalsuite.data.views import Gallery
from evalsuite.errors import DataError
from evalsuite.models.architecture import assemble
from evalsuite.models.settings import from_settings
from evalsuite.records import ImageSet, Split
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe

QUICK = Recipe(epochs=1, batch_size=32, learning_rate=0.05)


@dataclass(frozen=True)
class Planted(DataSet):
    """Image sets that a test made."""

    splits: tuple[tuple[str, ImageSet], ...]

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # made in memory
        found = dict(self.splits).get(split)
        if found is None:
            raise DataError(f"planted data has no {split}")
        return found


class Tally(list[Tensor]):
    """Batches that a model was shown; a copy of the model writes into the same list."""

    def __deepcopy__(self, _: object) -> Tally:
        return self


class Lookup(nn.Module):
    """Returns row i of a table of logits for an image whose first pixel is i: `numbered` images."""

    table: Tensor

    def __init__(self, table: Any) -> None:
        super().__init__()
        rows = torch.as_tensor(np.asarray(table), dtype=torch.float32)
        self.register_buffer("table", torch.cat([rows, rows.new_zeros((256 - len(rows), rows.shape[1]))]))
        self.seen = Tally()

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(images, Tensor):  # and not a symbol of the tracer
            self.seen.append(images)
        return self.table[(images[:, 0, 0, 0] * 255).round().long()]


def numbered(labels: Any, *, classes: int, start: int = 0, side: int = 16) -> ImageSet:
    """Images whose first pixel says which they are, 0 to 255, and whose others are grey noise."""
    wanted = None if labels is None else np.asarray(labels, dtype=np.int64)
    count = classes if wanted is None else len(wanted)
    images = np.random.default_rng(start).integers(64, 192, (count, 3, side, side), dtype=np.uint8)
    images[:, 0, 0, 0] = start + np.arange(count)
    return ImageSet("numbered", images, wanted, 0 if wanted is None else classes)


@dataclass(frozen=True)
class Planting:
    """Is what tests make planted benches from."""

    data: Callable[..., Gallery]
    numbered: Callable[..., ImageSet]
    lookup: Callable[[Any], Lookup]

    def bench(self, labels: Any, table: Any, *, parent: Any = None, seed: int = 0) -> Bench:
        """The bench of a look-up model on numbered images; `parent` is the parent's table."""
        gallery = self.data(test=self.numbered(labels, classes=np.shape(table)[1]))
        above = None if parent is None else Bench(self.lookup(parent), gallery)
        return Bench(self.lookup(table), gallery, parent=above, seed=seed)


def gallery(*, seed: int = 0, **splits: ImageSet) -> Gallery:
    return Gallery(Planted(tuple(splits.items())), Place(seed=seed))


@pytest.fixture(scope="session")
def planting() -> Planting:
    """Planted image sets, galleries, models and benches."""
    return Planting(gallery, numbered, Lookup)


@pytest.fixture(scope="session")
def few() -> ImageSet:
    """The first 96 training images of the digits."""
    whole = loaded(Digits(), "train", Place())
    assert whole.labels is not None
    return ImageSet("few digits", whole.images[:96], whole.labels[:96], whole.classes)


@pytest.fixture(scope="session")
def quick() -> Recipe:
    """Three steps on the few digits."""
    return QUICK


@pytest.fixture(scope="session")
def network(few: ImageSet) -> Callable[..., nn.Module]:
    """Returns a function: settings of a model to that model after three steps of training; not to be changed."""

    @cache
    def trained(name: str, **settings: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = assemble(from_settings({"name": name, **settings}))
        train(model, few, QUICK, seed=0)
        return model

    return trained
