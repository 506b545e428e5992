"""Noise on single values: Gaussian, shot, impulse, speckle.

Such a noise is defined by the distribution of the new level for each of the 256 old levels. So it is drawn by
inverting that table of distributions, in levels after truncation: one 32-bit uniform number per value, exact to
2**-32, without a floating-point image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, pdtr

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from evalsuite.datasets.transforms.common_corruptions.batch import (
        Constants,
        CorruptionBatch,
        Floats,
        Pixels,
    )

    Distribution = Callable[..., Floats]

_OLD = np.arange(256)[:, None]
_NEW = np.arange(255)  # P(new <= 255) is 1 and needs no column
_CELL_BITS = 20  # a cell is 2**20 of the 2**32 uniform numbers: 4096 cells per level
_CELLS = 1 << (32 - _CELL_BITS)
_ONE_STEP = 256  # mark of the cells in which the lower bits decide between two levels
_MANY_STEPS = 512  # and of those in which they decide between more


def gaussian_noise(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns x + N(0, sigma), with (sigma,) = `constants` on the scale of [0, 1] images."""
    return _table(_gaussian, constants).sample(batch)


def shot_noise(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns Poisson(rate x) / rate, with (rate,) = `constants`."""
    return _table(_shot, constants).sample(batch)


def impulse_noise(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns salt or pepper, equally likely, on a share p of the values, with (p,) = `constants`."""
    return _table(_impulse, constants).sample(batch)


def speckle_noise(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns x + x N(0, sigma), with (sigma,) = `constants`."""
    return _table(_speckle, constants).sample(batch)


@dataclass(frozen=True, slots=True)
class LevelTable:
    """The distribution of the new level given the old one, prepared for sampling.

    Attributes:
        steps: uint64, shape (256 * 255,), rising: old << 33 plus P(level <= new | old) in units of 2**-32.
        guide: uint16, shape (256 * 4096,): the new level for each old one and the upper 12 bits of the
            uniform number, the lowest one plus `_ONE_STEP` or `_MANY_STEPS` where those bits do not settle it.
    """

    steps: NDArray[np.uint64]
    guide: NDArray[np.uint16]

    def sample(self, batch: CorruptionBatch) -> Pixels:
        """Returns a draw of the new level of every value of every image."""
        size = (batch.block, *batch.images.shape[1:])
        return self.at(batch.images, batch.draw(lambda rng: rng.integers(0, 1 << 32, size, dtype=np.uint32)))

    def at(self, old: Pixels, uniform: NDArray[np.uint32]) -> Pixels:
        """Returns the new level: how many steps of the old level's distribution lie at or below `uniform`."""
        cell = uniform >> _CELL_BITS
        cell |= old.astype(np.uint32) * np.uint32(_CELLS)
        guess = self.guide.take(cell)
        new = guess.astype(np.uint8)
        undecided = np.flatnonzero(guess >= _ONE_STEP)
        row = old.reshape(-1)[undecided].astype(np.uint64)
        key = (row << np.uint64(33)) | uniform.reshape(-1)[undecided]
        level = new.reshape(-1)[undecided]
        first = row.astype(np.int64) * len(_NEW)
        level += self.steps.take(first + level) <= key
        many = np.flatnonzero(guess.reshape(-1)[undecided] >= _MANY_STEPS)  # few: searching takes long
        level[many] = np.searchsorted(self.steps, key[many], side="right") - first[many]
        new.reshape(-1)[undecided] = level
        return new


@lru_cache(maxsize=16)
def _table(distribution: Distribution, constants: Constants) -> LevelTable:
    """Inverts P(new level <= k | old level), shape (256, 255): rows are old levels, columns k = 0…254."""
    steps = np.rint(distribution(*constants) * 2.0**32).astype(np.uint64)
    first = _counts(-(-steps.astype(np.int64) >> _CELL_BITS))  # steps at or below a cell's first number
    last = _counts(steps.astype(np.int64) >> _CELL_BITS)  # and at or below its last
    mark = np.select([last == first, last == first + 1], [0, _ONE_STEP], _MANY_STEPS)
    guide = (first | mark).astype(np.uint16)
    return LevelTable((steps + (_OLD.astype(np.uint64) << np.uint64(33))).ravel(), guide.ravel())


def _counts(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts, for each old level and each cell, the entries of `cells` up to that cell."""
    width = _CELLS + 1  # a step of probability one lies beyond the last cell
    counts = np.bincount((cells + _OLD * width).ravel(), minlength=256 * width)
    return counts.reshape(256, width).cumsum(axis=1)[:, :-1]


def _gaussian(sigma: float) -> Floats:
    return ndtr((_NEW + 1 - _OLD) / (255 * sigma))  # a value is truncated to k or less when it is below k + 1


def _shot(rate: float) -> Floats:
    levels = (np.arange(int(rate) + 1) / rate * 255).astype(np.int64)  # level of each count of photons
    most = np.searchsorted(levels, _NEW, side="right") - 1  # largest count whose level is at most k
    return pdtr(most, rate * _OLD / 255)


def _impulse(share: float) -> Floats:
    return share / 2 + (1 - share) * (_OLD <= _NEW)


def _speckle(sigma: float) -> Floats:
    spread = np.maximum(_OLD, 1e-9) * sigma  # black stays black
    return ndtr((_NEW + 1 - _OLD) / spread)
