"""Which images pruning changes whatever the seed, and how hard they are: one row per method and target ratio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evalsuite.config.suite import DENSE
from evalsuite.runs.store import Key
from evalsuite.statistics.rates import wilson
from evalsuite.thresholds.exemplars import exemplars
from evalsuite.types import Array, Score

PREDICTED, ACCURACY, CLEAN = "predicted_classes", "accuracy", "clean"
COLUMNS = (
    *("method", "target_ratio", "ratio", "seeds", "n", "exemplars", "share", "share_low", "share_high"),
    *("parents_on_exemplars", "candidates_on_exemplars", "parents_on_others", "candidates_on_others"),
)
Scores = Mapping[tuple[Key, str, str], Score]


def pruning_identified_exemplars(scores: Scores, ratios: Mapping[Key, float]) -> pd.DataFrame:
    """Returns how many pruning-identified exemplars there are, and the accuracy on them and on all other images.

    Only target ratios whose candidates were measured in every seed have a row, and there must be two seeds: with
    one, an exemplar is an image on which two networks disagree. Published populations have 30 networks; with few,
    ties hide exemplars, and chance makes some.

    Args:
        scores: By candidate, metric and condition: those of `evalsuite.evaluators.similarity.Similarity`, which
            keep predicted classes, and the accuracy on clean images.
        ratios: Measured ratio of each candidate.

    Returns:
        ``share`` of the images that are exemplars, with its 95 % Wilson interval; ``parents_on_exemplars`` and so
        on are mean accuracies over networks, NaN where there is no such image.

    References:
        Hooker et al. 2019, "What do compressed deep neural networks forget?", arXiv 1911.05248.
    """
    predicted, correct = _evidence(scores, PREDICTED), _evidence(scores, ACCURACY)
    known = [key for key in predicted if key in correct and key in ratios]
    seeds = sorted({key.seed for key in known if key.method == DENSE})
    rows = []
    for (method, target), keys in _populations(known):
        parents = [Key(DENSE, key.seed, 0.0) for key in keys]
        if len(seeds) < 2 or [key.seed for key in keys] != seeds or not set(parents) <= set(known):
            continue
        pairs = [
            np.stack([found[key] for key in who]) for found in (predicted, correct) for who in (parents, keys)
        ]
        named = {"method": method, "target_ratio": target, "seeds": len(keys)}
        ratio = float(np.mean([ratios[key] for key in keys]))
        rows.append({**named, "ratio": ratio, **_row(*pairs)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _evidence(scores: Scores, metric: str) -> dict[Key, Array]:
    return {
        key: next(iter(score.evidence.values()))
        for (key, name, condition), score in scores.items()
        if (name, condition) == (metric, CLEAN) and score.evidence
    }


def _populations(known: Sequence[Key]) -> Iterator[tuple[tuple[str, float], list[Key]]]:
    """Candidates of one method and target ratio, by seed."""
    found: dict[tuple[str, float], list[Key]] = defaultdict(list)
    for key in sorted(known, key=lambda key: key.seed):
        if key.method != DENSE:
            found[key.method, key.target_ratio].append(key)
    yield from found.items()


def _row(dense: Array, pruned: Array, dense_right: Array, pruned_right: Array) -> dict[str, Any]:
    hit = exemplars(dense, pruned)
    count = int(hit.sum())
    low, high = wilson(count, hit.size)
    found = {
        "n": hit.size,
        "exemplars": count,
        "share": count / hit.size,
        "share_low": low,
        "share_high": high,
    }
    for where, images in (("exemplars", hit), ("others", ~hit)):
        for who, right in (("parents", dense_right), ("candidates", pruned_right)):
            found[f"{who}_on_{where}"] = float(right[:, images].mean()) if images.any() else float("nan")
    return found
