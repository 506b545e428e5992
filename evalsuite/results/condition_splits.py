"""Potentials and excess error, apart for the conditions that a network was trained on and for those held out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pandas as pd

from evalsuite.condition_splits import ConditionSplits
from evalsuite.runs.store import Key
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.types import Floats, Score

COLUMNS = (
    *("method", "metric", "split", "aggregate", "seed", "conditions"),
    *("potential", "potential_std", "potential_any", "potential_any_std"),
)
POTENTIALS = ("potential", "potential_any")
HELD_OUT = "held-out conditions"
"""Condition of the excess error of the held-out conditions over those of the training."""


def split_table(thresholds: pd.DataFrame, splits: ConditionSplits | None) -> pd.DataFrame:
    """Returns mean and minimum of the potentials over the conditions of each side, by seed, then over the seeds.

    Args:
        thresholds: As `evalsuite.thresholds.threshold.thresholds` returns them.
        splits: Sides of conditions; ``None`` gives an empty table.

    Returns:
        One row for each method, metric, side (``train``, ``held-out``), aggregate (``mean``, ``minimum``) and seed.
        Rows with seed ``all`` are mean and standard deviation (ddof 0) over the seeds, as the published tables are;
        `potential_any` is the published prune potential. A condition without a threshold is not counted.

    References:
        Liebenwein et al. 2021, arXiv 2103.03014, section 6, and its code ``generalization.py``.
    """
    if splits is None or thresholds.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    single = thresholds[(thresholds["aggregate"] == "single") & (thresholds["seed"] != ALL_SEEDS)]
    single = single.assign(split=[splits.side_of(name) for name in single["condition"]])
    rows = []
    for labels, group in single[single["split"] != ""].groupby(["method", "metric", "split"], sort=False):
        by_seed = group.groupby("seed", sort=False)[list(POTENTIALS)]
        for aggregate, table in (("mean", by_seed.mean()), ("minimum", by_seed.min())):
            counts = {"conditions": group["condition"].nunique()}
            names = (
                dict(zip(("method", "metric", "split"), labels, strict=True))
                | {"aggregate": aggregate}
                | counts
            )
            rows += [{**names, "seed": seed, **values} for seed, values in table.to_dict("index").items()]
            means = {name: table[name].mean() for name in POTENTIALS}
            spread = {f"{name}_std": table[name].std(ddof=0) for name in POTENTIALS}
            rows.append({**names, "seed": ALL_SEEDS, **means, **spread})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": object})


def error_parts(
    scores: Mapping[tuple[Key, str, str], Score], metric: str, key: Key, splits: ConditionSplits
) -> dict[str, Floats]:
    """Returns what each image adds to a network's excess error, in percentage points, by population of images.

    The excess error is the mean error over held-out conditions minus that over training conditions, each a mean over
    its images; the sum over populations of the mean over their images.

    Args:
        scores: By candidate, metric and condition, with one number of evidence per image.
        metric: Accuracy.
        key: Of the network.
        splits: Sides of conditions.

    Returns:
        Populations to arrays, (N,); empty where a side was not measured.
    """
    sides: dict[str, list[tuple[str, Floats]]] = defaultdict(list)
    for (owner, name, condition), score in scores.items():
        side = splits.side_of(condition)
        if owner == key and name == metric and side and len(score.evidence) == 1:
            ((population, values),) = score.evidence.items()
            sides[side].append((population, np.asarray(values, dtype=np.float64)))
    if set(sides) != {"train", "held-out"}:
        return {}
    parts: dict[str, Floats] = {}
    for side, sign in (("held-out", 1.0), ("train", -1.0)):
        for population, values in sides[side]:
            errors = sign * 100 * (1 - values) / len(sides[side])
            parts[population] = parts.get(population, np.zeros_like(errors)) + errors
    return parts
