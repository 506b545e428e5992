"""Saturation, through HSV and back."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.data.corruption_batch import truncated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.data.corruption_batch import Batch, Constants, Floats, Pixels


def saturate(batch: Batch, constants: Constants) -> Pixels:
    """Returns the image with its saturation in HSV times a, plus b, clipped: (a, b) = `constants`.

    The largest channel stays, the least is a table of two levels, and only the middle one needs the hue. Grey
    has the hue of red: with b > 0 it turns red. All sums run in the order of the published way through HSV,
    since with a = 2 the exact level is an integer, where the last bit decides between it and the one below.
    """
    saturations, lows = _tables(*constants)
    most, least = batch.images.max(axis=1), batch.images.min(axis=1)
    pair = (most.astype(np.uint16) << 8) | least
    share = _middle_share(batch.images / 255, batch.images == most[:, None])
    middle = truncated(most / 255 * (1 - share * saturations.take(pair)) * 255)
    low = lows.take(pair)[:, None]
    result = np.where(batch.images == least[:, None], low, middle[:, None])
    is_most = batch.images == most[:, None]
    is_most[:, 1:] &= (most > least)[:, None]
    return np.where(is_most, most[:, None], result)


def _middle_share(values: Floats, is_most: NDArray[np.bool_]) -> Floats:
    """Returns (most - middle) / (most - least), as the way through the hue rounds it, shape (N, S, S)."""
    red, green, blue = values.swapaxes(0, 1)
    _, green_most, blue_most = is_most.swapaxes(0, 1)
    spread = np.maximum(
        values.max(axis=1) - values.min(axis=1), 1e-9
    )  # in greys no channel is the middle one
    hue = np.select(
        [blue_most, green_most],
        [4 + (red - green) / spread, 2 + (blue - red) / spread],
        (green - blue) / spread,
    )
    hue = (hue / 6) % 1 * 6
    sector = np.floor(hue)
    hue -= sector
    share: Floats = np.where(sector % 2 == 1, hue, 1 - hue)
    return share


@lru_cache(maxsize=8)
def _tables(factor: float, offset: float) -> tuple[Floats, Pixels]:
    """Tabulates the saturation and the level of the least channel, for each largest and least level."""
    most, least = np.arange(256)[:, None] / 255, np.arange(256) / 255
    plain = np.where(most > 0, (most - least) / np.maximum(most, 1 / 255), 0)
    saturation = np.clip(plain * factor + offset, 0, 1)
    return saturation, truncated(most * (1 - saturation) * 255)
