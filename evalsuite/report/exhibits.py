"""What a report shows beside its numbers: score histograms, robust accuracy over the radius, who may be compared.

All of it comes from the evidence in the cells of a run, without torch and without the models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.config.suite import DENSE
from evalsuite.report.fairness import SETUPS, TOTALS, Fairness, fairness

if TYPE_CHECKING:
    from evalsuite.results.run import Run
    from evalsuite.runs.store import Key
    from evalsuite.types import Array, Floats, Score

BINS = 24
DETECTORS = 2
"""Detectors whose histograms are kept: the first ones of the suite."""
_CUT = (0.5, 99.5)
"""Percentiles of all scores between which the bins lie; what is beyond counts in the last ones."""
_AUROC = "_auroc"
_ROBUST = "robust_accuracy"
_RADIUS = re.compile(r"(?P<attack>.*)/(?P<radius>[\d.]+(?:e-?\d+)?)(?P<unit>:255)?")


def exhibits(run: Run) -> dict[str, pd.DataFrame]:
    """Returns the tables ``robust``, ``histograms`` and ``fairness`` of `evalsuite.report.findings.Findings`."""
    return {"robust": robust(run), "histograms": histograms(run), "fairness": fairness_table(run)}


def fairness_table(run: Run) -> pd.DataFrame:
    """Returns which comparison setup holds between each two methods; see `evalsuite.report.fairness`."""
    made = [choice["label"] for choice in run.record["suite"]["producers"]]
    return fairness_rows(fairness(run.candidates.values(), made=made))


def fairness_rows(found: Sequence[Fairness]) -> pd.DataFrame:
    """Returns one row for each two methods, with a column for each setup."""
    columns = ["first", "second", "pairs", "setup", "fair", "why"]
    rows = [{name: getattr(one, name) for name in columns} | dict(one.holds) for one in found]
    return pd.DataFrame(rows, columns=[*columns, *SETUPS, *TOTALS])


def robust(run: Run) -> pd.DataFrame:
    """Returns robust accuracy by attack and radius, with radius 0 from the clean outputs of the same images.

    Attacks look at the first images of the test set, so that the accuracy at radius 0 is that of these.
    """
    rows = [row for (key, _, _), score in run.comparison.scores.items() for row in _robust(run, key, score)]
    columns = ["method", "seed", "target_ratio", "ratio", "norm", "attack", "epsilon", "value", "n"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(columns[:7], ignore_index=True)


def _robust(run: Run, key: Key, score: Score) -> Iterator[dict[str, Any]]:
    found = _RADIUS.fullmatch(score.condition)
    if score.metric != _ROBUST or found is None or score.value is None:
        return
    norm = "Linf" if found["unit"] else "L2"
    shared = {**_who(run, key), "norm": norm, "attack": found["attack"].removesuffix(" l2")}
    yield {**shared, "epsilon": float(found["radius"]), "value": score.value, "n": score.n}
    clean = run.comparison.scores.get((key, "accuracy", "clean"))
    if clean is not None and clean.evidence and score.n:
        (right,) = clean.evidence.values()
        yield {**shared, "epsilon": 0.0, "value": float(np.mean(right[: score.n])), "n": score.n}


def histograms(run: Run) -> pd.DataFrame:
    """Returns the detector scores of in- and out-of-distribution images in common bins, of the first seed."""
    seed = run.record["suite"]["seeds"][0]
    found: dict[str, dict[tuple[Key, str, str], Floats]] = {}
    for (key, metric, condition), score in run.comparison.scores.items():
        if metric.endswith(_AUROC) and key.seed == seed and len(score.evidence) == 2 and score.group:
            known = found.setdefault(metric.removesuffix(_AUROC), {})
            inside, outside = score.evidence.values()
            known[key, "test", ""] = _flat(inside)
            known[key, condition, score.group] = _flat(outside)
    rows = []
    for detector in list(found)[:DETECTORS]:
        edges = _edges(list(found[detector].values()))
        for (key, sample, group), scores in found[detector].items():
            shared = {**_who(run, key), "detector": detector, "sample": sample, "group": group}
            rows += [{**shared, **one} for one in _binned(scores, edges)]
    columns = [
        "method",
        "seed",
        "target_ratio",
        "ratio",
        "detector",
        "sample",
        "group",
        "low",
        "high",
        "count",
    ]
    return pd.DataFrame(rows, columns=columns)


def _who(run: Run, key: Key) -> dict[str, Any]:
    ratio = 0.0 if key.method == DENSE else run.candidates[key].ratio
    return {"method": key.method, "seed": key.seed, "target_ratio": key.target_ratio, "ratio": ratio}


def _flat(scores: Array) -> Floats:
    return np.asarray(scores, dtype=np.float64).ravel()


def _edges(scores: list[Floats]) -> Floats:
    low, high = np.percentile(np.concatenate(scores), _CUT)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _binned(scores: Floats, edges: Floats) -> Iterator[Mapping[str, Any]]:
    counts, _ = np.histogram(scores.clip(edges[0], edges[-1]), edges)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        yield {"low": float(low), "high": float(high), "count": int(count)}
