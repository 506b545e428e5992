"""How sure the candidates of a run are, and how often they are right when they are that sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from evalsuite.metrics.calibration import reliability as bins
from evalsuite.runs.store import Key
from evalsuite.types import Candidate, Score

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evalsuite.types import Candidate


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


RETRAINING_COLUMNS = ("method", "seed", "target_ratio", "ratio", "before", "recalibrated", "after")


def retrainings(candidates: Iterable[Candidate]) -> pd.DataFrame:
    """Returns one row per candidate whose last training was a retraining and which was looked at before it.

    Args:
        candidates: Of one run; parents (target ratio 0) are left out.

    Returns:
        Accuracies on the validation split: ``before`` with all that is pruned gone, ``recalibrated`` the same with
        batch norms that were re-estimated on training images (NaN without any), ``after`` at the end. Of a method
        that trains from new weights, ``before`` is that of these.
    """
    rows = []
    for one in candidates:
        last = one.history[-1] if one.history else None
        if (
            one.target_ratio > 0
            and last is not None
            and last.what == "retraining"
            and last.before is not None
        ):
            found = (last.before, last.recalibrated, last.after)
            rows.append((one.method, one.seed, one.target_ratio, one.ratio, *found))
    return pd.DataFrame(rows, columns=list(RETRAINING_COLUMNS)).astype({"recalibrated": float})
