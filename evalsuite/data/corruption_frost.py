"""A painted frost for those who have no photographs of it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from evalsuite.data.corruption_batch import truncated
from evalsuite.randomness import generator

if TYPE_CHECKING:
    from evalsuite.data.corruption_batch import Floats, Pixels

_LAYERS = 5
_CRYSTALS = 14  # per layer
_MEAN, _SPREAD = (
    150.0,
    48.0,
)  # levels; the mean is what the published photographs add, divided by their weight
_TINT = np.array([0.94, 1.0, 1.06])  # towards blue
_BARB = np.deg2rad(60)  # ice grows in sixths of a turn


@lru_cache(maxsize=4)
def frost_layers(seed: int, side: int) -> tuple[Pixels, ...]:
    """Returns five layers of painted ice crystals, uint8, each of shape (3, 4 side, 4 side).

    Each crystal is a feather: a bright spine with barbs at 60 degrees, grown until it meets its neighbours.
    """
    return tuple(
        _layer(generator(seed, "frost layer", number), 4 * side, side / 32) for number in range(_LAYERS)
    )


def _layer(draws: np.random.Generator, size: int, scale: float) -> Pixels:
    places = np.moveaxis(np.mgrid[:size, :size], 0, -1).astype(np.float64)
    bends = [_clouds(draws, size, 5 * scale) for _ in range(2)]  # ice draws no ruled lines
    places += 3 * scale * np.stack(bends, axis=-1)
    patches, grain = _clouds(draws, size, 9 * scale), _clouds(draws, size, 0.6)
    ice = _feathers(draws, places, scale) + 0.8 * patches + 0.35 * grain
    levels: Floats = _TINT[:, None, None] * (_MEAN + _SPREAD * (ice - ice.mean()) / ice.std())
    return truncated(levels)


def _feathers(draws: np.random.Generator, places: Floats, scale: float) -> Floats:
    """Paints the crystals, shape (size, size): each pixel belongs to the nearest seed."""
    size = len(places)
    seeds = draws.uniform(0, size, (_CRYSTALS, 2))
    turn = draws.uniform(0, np.pi, _CRYSTALS)
    away = places[:, :, None] - seeds
    distance = np.hypot(away[..., 0], away[..., 1])
    owner = distance.argmin(axis=-1)
    y, x = np.moveaxis(np.take_along_axis(away, owner[..., None, None], axis=2)[:, :, 0], -1, 0)
    along = np.cos(turn)[owner] * x + np.sin(turn)[owner] * y
    across = np.abs(np.cos(turn)[owner] * y - np.sin(turn)[owner] * x)
    spine: Floats = np.exp(-across / (2 * scale))
    barbs: Floats = np.abs(2 * (((along - across / np.tan(_BARB)) / (6 * scale)) % 1) - 1) ** 2
    nearest, second = np.moveaxis(np.partition(distance, 1, axis=-1)[..., :2], -1, 0)
    seam: Floats = np.exp(-(second - nearest) / (2 * scale))
    painted: Floats = 2 * spine + 1.8 * barbs + 1.2 * seam
    return painted


def _clouds(draws: np.random.Generator, size: int, sigma: float) -> Floats:
    """Draws smooth noise of unit spread."""
    noise: Floats = ndimage.gaussian_filter(draws.standard_normal((size, size)), sigma, mode="wrap")
    noise /= noise.std()
    return noise
