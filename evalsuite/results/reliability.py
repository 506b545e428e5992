"""How sure the candidates of a run are, and how often they are right when they are that sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd

from evalsuite.metrics import reliability as bins
from evalsuite.records import Candidate, Score
from evalsuite.storage.store import Key

COLUMNS = ("method", "seed", "ratio", "lower", "upper", "count", "confidence", "accuracy")


def reliability(
    candidates: Mapping[Key, Candidate], scores: Mapping[tuple[Key, str, str], Score]
) -> pd.DataFrame:
    """Returns the reliability table of every candidate on clean images, one row per bin of the confidence.

    Args:
        candidates: The parent first.
        scores: By candidate, metric and condition; candidates without an ``ece_equal_width`` have no rows.
    """
    rows = []
    for key, candidate in candidates.items():
        score = scores.get((key, "ece_equal_width", "clean"))
        shared = {"method": key.method, "seed": key.seed, "ratio": candidate.ratio}
        for values in score.evidence.values() if score is not None else ():
            rows += [{**shared, **asdict(one)} for one in bins(*values.T)]
    return pd.DataFrame(rows, columns=list(COLUMNS))
