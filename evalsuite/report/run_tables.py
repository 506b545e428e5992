"""Every table of a run by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.results.run import Run


def tables(run: Run) -> dict[str, pd.DataFrame]:
    """Returns every table of a run by name: measurements, thresholds, reliability, excess, exemplars, retraining.

    And verdicts (each check at each ratio in each scope), groups (intervals of the potential), counts (checks by
    verdict), and splits (potentials over training and over held-out conditions) where the suite keeps these apart.

    Raises:
        StoreError: If no cell is finished yet.
    """
    if run.measurements.empty or not run.metrics:
        raise StoreError(f"{run.path} holds no finished cell yet; run the suite first")
    return {
        "measurements": run.measurements,
        "thresholds": run.thresholds(),
        "reliability": run.reliability,
        "excess": run.excess,
        "exemplars": run.exemplars,
        "retraining": run.retraining,
        "verdicts": run.verdicts,
        "groups": run.groups,
        "counts": run.counts,
        **({} if run.splits.empty else {"splits": run.splits}),
    }
