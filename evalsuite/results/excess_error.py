"""What pruning adds to the error on shifted images beyond what it adds on clean ones, per method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from evalsuite.config.suite import DENSE
from evalsuite.runs.store import Key
from evalsuite.statistics.resampling import one_thread
from evalsuite.statistics.slopes import slope, slope_over_images, slope_over_points, slope_over_seeds
from evalsuite.thresholds.seeds import ALL
from evalsuite.types import Floats, Score

CLEAN, ACCURACY = "clean", "accuracy"
COLUMNS = (
    *("method", "seed", "condition", "points", "n", "slope", "images_low", "images_high"),
    *("seeds_low", "seeds_high", "published_low", "published_high"),
)
Scores = Mapping[tuple[Key, str, str], Score]


class _Curve(NamedTuple):
    """Is one method of one seed: measured ratios (R,), and what each image adds, in points, (R, N)."""

    ratios: Floats
    excess: Floats


@one_thread()
def excess_slopes(scores: Scores, ratios: Mapping[Key, float], *, seed: int) -> pd.DataFrame:
    """Returns the slope of the excess error over the prune ratio, in percentage points at a ratio of 1.

    Rows with seed ``all`` are least squares over the points of all seeds. ``images_*`` are 95 % intervals for these
    networks, ``seeds_*`` for the method (Student's t over whole seeds, from three on, and the images' margin),
    ``published_*`` the percentile bootstrap over points of the published code, which is too narrow.

    Args:
        scores: By candidate, metric and condition.
        ratios: Measured ratio of each candidate.
        seed: Address of the draws of the published interval.

    References:
        Liebenwein et al. 2021, "Lost in Pruning"; see `evalsuite.statistics.slopes`.
    """
    by: dict[tuple[str, str], dict[int, _Curve]] = defaultdict(dict)
    for (method, condition, run), keys in _ladders(scores).items():
        by[method, condition][run] = _curve(scores, ratios, condition, keys)
    rows = [
        row for (method, condition), found in by.items() for row in _rows(method, condition, found, seed=seed)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _ladders(scores: Scores) -> dict[tuple[str, str, int], list[Key]]:
    """Candidates, rising, with an accuracy on clean images and a mean one on shifted images, as their parent has."""
    found: dict[tuple[str, str, int], list[Key]] = defaultdict(list)
    for (key, metric, condition), score in scores.items():
        shifted = metric == ACCURACY and condition.startswith("corruptions") and not score.group
        if shifted and key.method != DENSE and _complete(scores, key, condition, size=_size(score)):
            found[key.method, condition, key.seed].append(key)
    return {name: sorted(keys, key=lambda key: key.target_ratio) for name, keys in found.items()}


def _complete(scores: Scores, key: Key, condition: str, *, size: int) -> bool:
    dense = Key(DENSE, key.seed, 0.0)
    needed = [(key, CLEAN), (dense, CLEAN), (dense, condition)]
    others = [scores.get((who, ACCURACY, where)) for who, where in needed]
    return size > 0 and all(score is not None and _size(score) == size for score in others)


def _curve(scores: Scores, ratios: Mapping[Key, float], condition: str, keys: list[Key]) -> _Curve:
    def gap(key: Key) -> Floats:
        clean, shifted = (_values(scores[key, ACCURACY, name]) for name in (CLEAN, condition))
        return 100 * (clean - shifted)  # the error rises by what the accuracy falls

    parent = gap(Key(DENSE, keys[0].seed, 0.0))
    return _Curve(np.array([ratios[key] for key in keys]), np.stack([gap(key) - parent for key in keys]))


def _rows(
    method: str, condition: str, curves: Mapping[int, _Curve], *, seed: int
) -> Iterator[dict[str, Any]]:
    slopes = {}
    for run, curve in sorted(curves.items()):
        row = _row(curve, seed=seed)
        slopes[run] = row["slope"]
        yield {"method": method, "seed": run, "condition": condition, **row}
    ratios = np.concatenate([curve.ratios for curve in curves.values()])
    if len({curve.excess.shape[1] for curve in curves.values()}) == 1:
        pooled = _Curve(ratios, np.concatenate([curve.excess for curve in curves.values()]))
        headline = _row(pooled, seed=seed)
        of_images = (headline["images_high"] - headline["images_low"]) / 2
        ends = slope_over_seeds(np.array(list(slopes.values())), of_images=of_images)
        headline |= dict(zip(("seeds_low", "seeds_high"), ends, strict=True))
        yield {"method": method, "seed": ALL, "condition": condition, **headline}


def _row(curve: _Curve, *, seed: int) -> dict[str, Any]:
    means = curve.excess.mean(axis=1)
    images = slope_over_images(curve.ratios, curve.excess)
    published = slope_over_points(curve.ratios, means, seed=seed)
    return {
        "points": len(means),
        "n": curve.excess.shape[1],
        "slope": slope(curve.ratios, means),
        **dict(zip(("images_low", "images_high"), images, strict=True)),
        **dict(zip(("published_low", "published_high"), published, strict=True)),
    }


def _values(score: Score) -> Floats:
    (values,) = score.evidence.values()
    return np.asarray(values, dtype=np.float64)


def _size(score: Score) -> int:
    return sum(len(values) for values in score.evidence.values())
