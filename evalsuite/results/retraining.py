"""What retraining repaired: how good each candidate was before and after its last training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evalsuite.records import Candidate

COLUMNS = ("method", "seed", "target_ratio", "ratio", "before", "recalibrated", "after")


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
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"recalibrated": float})
