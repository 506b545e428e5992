"""Tables of a run beside its measurements: reliability, retraining, slopes of the excess error, exemplars.

All of them come from the candidates of a run and from its scores with their evidence, without torch and without models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from evalsuite.metrics.calibration import reliability
from evalsuite.results.condition_splits import HELD_OUT, error_parts
from evalsuite.runs.store import Key
from evalsuite.statistics.exemplars import pruning_identified_exemplars
from evalsuite.statistics.rates import wilson
from evalsuite.statistics.resampling import one_thread
from evalsuite.statistics.slopes import slope, slope_over_images, slope_over_points, slope_over_seeds
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.types import DENSE, Array, Candidate, Floats, Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from evalsuite.condition_splits import ConditionSplits

Scores = Mapping[tuple[Key, str, str], Score]
"""Scores by candidate, metric and condition."""

CLEAN, ACCURACY, ECE, PREDICTED = "clean", "accuracy", "ece_equal_width", "predicted_classes"
RELIABILITY_COLUMNS = ("method", "seed", "ratio", "lower", "upper", "count", "confidence", "accuracy")
RETRAINING_COLUMNS = ("method", "seed", "target_ratio", "ratio", "before", "recalibrated", "after")
EXCESS_COLUMNS = (
    *("method", "seed", "condition", "points", "n", "slope", "images_low", "images_high"),
    *("seeds_low", "seeds_high", "published_low", "published_high"),
)
EXEMPLAR_COLUMNS = (
    *("method", "target_ratio", "ratio", "seeds", "n", "exemplars", "share", "share_low", "share_high"),
    *("parents_on_exemplars", "candidates_on_exemplars", "parents_on_others", "candidates_on_others"),
)


def reliability_table(candidates: Mapping[Key, Candidate], scores: Scores) -> pd.DataFrame:
    """Returns the reliability table of every candidate on clean images, one row per bin of the confidence.

    Args:
        candidates: The parent first.
        scores: Those of candidates without an ``ece_equal_width`` give no rows.
    """
    rows = []
    for key, candidate in candidates.items():
        score = scores.get((key, ECE, CLEAN))
        labels = {"method": key.method, "seed": key.seed, "ratio": candidate.ratio}
        for values in score.evidence.values() if score is not None else ():
            rows += [{**labels, **asdict(row)} for row in reliability(*values.T)]
    return pd.DataFrame(rows, columns=list(RELIABILITY_COLUMNS))


def retraining_table(candidates: Iterable[Candidate]) -> pd.DataFrame:
    """Returns one row per candidate whose last training was a retraining and whose accuracy before it was measured.

    Args:
        candidates: Of one run; parents (target ratio 0) are left out.

    Returns:
        Accuracies on the validation split: ``before`` without the pruned weights, ``recalibrated`` the same with batch
        norm statistics re-estimated on training images (NaN without batch norm), ``after`` at the end. Of a method
        that trains from new weights, ``before`` is the accuracy of these.
    """
    rows = []
    for candidate in candidates:
        last = candidate.history[-1] if candidate.history else None
        if candidate.target_ratio > 0 and last and last.what == "retraining" and last.before is not None:
            labels = (candidate.method, candidate.seed, candidate.target_ratio, candidate.ratio)
            rows.append((*labels, last.before, last.recalibrated, last.after))
    return pd.DataFrame(rows, columns=list(RETRAINING_COLUMNS)).astype({"recalibrated": float})


class _Curve(NamedTuple):
    """The excess error of one method and seed: measured ratios (R,), and what each image adds, in points.

    One part for each population of images, (R, N): the excess is the sum of the means over the images of each.
    """

    ratios: Floats
    parts: tuple[Floats, ...]


@one_thread()
def excess_table(
    scores: Scores, ratios: Mapping[Key, float], *, seed: int, splits: ConditionSplits | None = None
) -> pd.DataFrame:
    """Returns the slope of the excess error over the prune ratio, in percentage points at a ratio of 1.

    The excess error is what pruning adds to the error on shifted images beyond what it adds on clean ones. Rows with
    seed ``all`` are least squares over the points of all seeds. ``images_*`` are 95 % intervals for these networks,
    ``seeds_*`` for the method (Student's t over whole seeds, from three on, and the margin of the images),
    ``published_*`` the percentile bootstrap over points of the published code, which is too narrow.

    Args:
        scores: All scores of the run.
        ratios: Measured ratio of each candidate.
        seed: Address of the draws of the published interval.
        splits: Sides of conditions: adds rows of the mean over all held-out ones, as shifted images, beyond the mean
            over those of the training, in the place of the clean images. ``n`` is then the smallest number of images.

    References:
        Liebenwein et al. 2021, "Lost in Pruning"; see `evalsuite.statistics.slopes`.
    """
    curves: dict[tuple[str, str], dict[int, _Curve]] = defaultdict(dict)
    for (method, condition, run_seed), keys in _shifted_candidates(scores).items():
        curves[method, condition][run_seed] = _excess_curve(scores, ratios, condition, keys)
    for (method, run_seed), curve in _split_curves(scores, ratios, splits):
        curves[method, HELD_OUT][run_seed] = curve
    rows = [
        row
        for (method, condition), by_seed in curves.items()
        for row in _slope_rows(method, condition, by_seed, seed=seed)
    ]
    return pd.DataFrame(rows, columns=list(EXCESS_COLUMNS))


def _split_curves(
    scores: Scores, ratios: Mapping[Key, float], splits: ConditionSplits | None
) -> Iterator[tuple[tuple[str, int], _Curve]]:
    """The excess of held-out over training conditions, by method and seed; of candidates that have all of them."""
    if splits is None:
        return
    keys: dict[tuple[str, int], list[Key]] = defaultdict(list)
    for key in dict.fromkeys(key for key, _, _ in scores):
        keys[key.method, key.seed].append(key)
    for (method, seed), of_seed in keys.items():
        parent = error_parts(scores, ACCURACY, Key(DENSE, seed, 0.0), splits)
        parts = {key: error_parts(scores, ACCURACY, key, splits) for key in of_seed}
        complete = sorted(
            (key for key in of_seed if parts[key].keys() == parent.keys() and key in ratios),
            key=lambda key: key.target_ratio,
        )
        if method != DENSE and parent and complete:
            stacks = (np.stack([parts[key][name] - parent[name] for key in complete]) for name in parent)
            yield (method, seed), _Curve(np.array([ratios[key] for key in complete]), tuple(stacks))


def _shifted_candidates(scores: Scores) -> dict[tuple[str, str, int], list[Key]]:
    """Candidates, rising, with a clean accuracy and a mean accuracy on shifted images, which their parent has too."""
    candidates: dict[tuple[str, str, int], list[Key]] = defaultdict(list)
    for (key, metric, condition), score in scores.items():
        shifted = metric == ACCURACY and condition.startswith("corruptions") and not score.group
        if shifted and key.method != DENSE and _complete(scores, key, condition, size=_size(score)):
            candidates[key.method, condition, key.seed].append(key)
    return {name: sorted(keys, key=lambda key: key.target_ratio) for name, keys in candidates.items()}


def _complete(scores: Scores, key: Key, condition: str, *, size: int) -> bool:
    dense = Key(DENSE, key.seed, 0.0)
    needed = [(key, CLEAN), (dense, CLEAN), (dense, condition)]
    others = [scores.get((network, ACCURACY, name)) for network, name in needed]
    return size > 0 and all(score is not None and _size(score) == size for score in others)


def _excess_curve(scores: Scores, ratios: Mapping[Key, float], condition: str, keys: list[Key]) -> _Curve:
    def gap(key: Key) -> Floats:
        clean, shifted = (_values(scores[key, ACCURACY, name]) for name in (CLEAN, condition))
        return 100 * (clean - shifted)  # the error rises as the accuracy falls

    parent = gap(Key(DENSE, keys[0].seed, 0.0))
    excess = np.stack([gap(key) - parent for key in keys])
    return _Curve(np.array([ratios[key] for key in keys]), (excess,))


def _slope_rows(
    method: str, condition: str, curves: Mapping[int, _Curve], *, seed: int
) -> Iterator[dict[str, Any]]:
    slopes = {}
    for run_seed, curve in sorted(curves.items()):
        row = _slope_row(curve, seed=seed)
        slopes[run_seed] = row["slope"]
        yield {"method": method, "seed": run_seed, "condition": condition, **row}
    ratios = np.concatenate([curve.ratios for curve in curves.values()])
    if len({tuple(part.shape[1] for part in curve.parts) for curve in curves.values()}) == 1:
        parts = zip(*(curve.parts for curve in curves.values()), strict=True)
        headline = _slope_row(_Curve(ratios, tuple(map(np.concatenate, parts))), seed=seed)
        of_images = (headline["images_high"] - headline["images_low"]) / 2
        ends = slope_over_seeds(np.array(list(slopes.values())), of_images=of_images)
        headline |= dict(zip(("seeds_low", "seeds_high"), ends, strict=True))
        yield {"method": method, "seed": ALL_SEEDS, "condition": condition, **headline}


def _slope_row(curve: _Curve, *, seed: int) -> dict[str, Any]:
    means = np.sum([part.mean(axis=1) for part in curve.parts], axis=0)
    by_part = np.array([slope_over_images(curve.ratios, part) for part in curve.parts])
    middle, margin = by_part.mean(axis=1).sum(), np.linalg.norm(np.diff(by_part, axis=1)) / 2
    images = by_part[0] if len(by_part) == 1 else (middle - margin, middle + margin)
    published = slope_over_points(curve.ratios, means, seed=seed)
    return {
        "points": len(means),
        "n": min(part.shape[1] for part in curve.parts),
        "slope": slope(curve.ratios, means),
        **dict(zip(("images_low", "images_high"), map(float, images), strict=True)),
        **dict(zip(("published_low", "published_high"), published, strict=True)),
    }


def _values(score: Score) -> Floats:
    (values,) = score.evidence.values()
    return np.asarray(values, dtype=np.float64)


def _size(score: Score) -> int:
    return sum(len(values) for values in score.evidence.values())


def exemplar_table(scores: Scores, ratios: Mapping[Key, float]) -> pd.DataFrame:
    """Returns how many pruning-identified exemplars there are, and the accuracy on them and on all other images.

    Only target ratios whose candidates were measured in every seed have a row, and there must be two seeds: with
    one, an exemplar is an image on which two networks disagree. Published populations have 30 networks; with few,
    ties hide exemplars, and chance makes some.

    Args:
        scores: Those of `evalsuite.evaluators.similarity.Similarity`, which have predicted classes as evidence, and
            the accuracy on clean images.
        ratios: Measured ratio of each candidate.

    Returns:
        ``share`` of the images that are exemplars, with its 95 % Wilson interval; ``parents_on_exemplars`` and so
        on are mean accuracies over networks, NaN where there is no such image.

    References:
        Hooker et al. 2019, "What do compressed deep neural networks forget?", arXiv 1911.05248.
    """
    predicted, correct = _clean_evidence(scores, PREDICTED), _clean_evidence(scores, ACCURACY)
    measured = [key for key in predicted if key in correct and key in ratios]
    seeds = sorted({key.seed for key in measured if key.method == DENSE})
    rows = []
    for (method, target), keys in _populations(measured):
        parents = [Key(DENSE, key.seed, 0.0) for key in keys]
        if len(seeds) < 2 or [key.seed for key in keys] != seeds or not set(parents) <= set(measured):
            continue
        dense, pruned, dense_correct, pruned_correct = (
            np.stack([evidence[key] for key in networks])
            for evidence in (predicted, correct)
            for networks in (parents, keys)
        )
        ratio = float(np.mean([ratios[key] for key in keys]))
        labels = {"method": method, "target_ratio": target, "ratio": ratio, "seeds": len(keys)}
        is_exemplar = pruning_identified_exemplars(dense, pruned)
        rows.append({**labels, **_exemplar_row(is_exemplar, dense_correct, pruned_correct)})
    return pd.DataFrame(rows, columns=list(EXEMPLAR_COLUMNS))


def _clean_evidence(scores: Scores, metric: str) -> dict[Key, Array]:
    return {
        key: next(iter(score.evidence.values()))
        for (key, name, condition), score in scores.items()
        if (name, condition) == (metric, CLEAN) and score.evidence
    }


def _populations(keys: Sequence[Key]) -> Iterator[tuple[tuple[str, float], list[Key]]]:
    """Candidates of one method and target ratio, by seed."""
    populations: dict[tuple[str, float], list[Key]] = defaultdict(list)
    for key in sorted(keys, key=lambda key: key.seed):
        if key.method != DENSE:
            populations[key.method, key.target_ratio].append(key)
    yield from populations.items()


def _exemplar_row(is_exemplar: Array, dense_correct: Array, pruned_correct: Array) -> dict[str, Any]:
    count = int(is_exemplar.sum())
    low, high = wilson(count, is_exemplar.size)
    row: dict[str, Any] = {
        "n": is_exemplar.size,
        "exemplars": count,
        "share": count / is_exemplar.size,
        "share_low": low,
        "share_high": high,
    }
    for subset, images in (("exemplars", is_exemplar), ("others", ~is_exemplar)):
        for networks, correct in (("parents", dense_correct), ("candidates", pruned_correct)):
            accuracy = float(correct[:, images].mean()) if images.any() else float("nan")
            row[f"{networks}_on_{subset}"] = accuracy
    return row
