"""What the images of a run cannot decide: before it, from an assumed discordance; after it, from measured intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalsuite.results.verdict_tables import MEAN, NETWORK
from evalsuite.statistics.limits import SIMULTANEOUS
from evalsuite.statistics.sample_size import required_images
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.thresholds.verdicts import UNDECIDED

if TYPE_CHECKING:
    import pandas as pd

ASSUMED_DISCORDANCE = 0.06
"""Share of images on which parent and candidate differ in being right, where nothing is measured yet."""


@dataclass(frozen=True, slots=True)
class PlannedRate:
    """A check of a rate that is to be measured.

    Attributes:
        metric: Its name.
        condition: What the images are.
        images: Their number.
        tolerance: Largest drop that is commensurate.
    """

    metric: str
    condition: str
    images: int
    tolerance: float

    def needed(self, discordance: float) -> int:
        """Returns the number of images that show a true drop of 0 to be non-inferior with 80 % power."""
        return required_images(self.tolerance, discordance, level=SIMULTANEOUS)


def planned_power(rates: Sequence[PlannedRate], discordance: float | None = None) -> str:
    """Returns what the images of a planned run cannot decide, in one sentence; empty where they decide all.

    Args:
        rates: Checks of rates with a tolerance in the metric's unit.
        discordance: As it was measured in earlier cells; ``None``: as assumed.

    >>> print(planned_power([PlannedRate("accuracy", "clean", 899, 0.01)]))
    These images cannot decide 1 of 1 check of a rate: at an assumed discordance of 6 %, a candidate without any loss \
would be shown to hold in less than 80 % of samples; accuracy on clean (tolerance 0.01) needs 4,875 images and has 899.
    """
    share = ASSUMED_DISCORDANCE if discordance is None else discordance
    needs = [(rate.needed(share), rate) for rate in rates if 0 < rate.tolerance < 1]
    short = [(needed, rate) for needed, rate in needs if needed > rate.images]
    if not short:
        return ""
    needed, worst = max(short, key=lambda pair: pair[0] / pair[1].images)
    kind = "an assumed" if discordance is None else "the measured"
    return (
        f"These images cannot decide {len(short)} of {len(needs)} check{'s' * (len(needs) > 1)} of a rate: at {kind} "
        f"discordance of {100 * share:.3g} %, a candidate without any loss would be shown to hold in less than 80 % of "
        f"samples; {worst.metric} on {worst.condition} (tolerance {worst.tolerance:g}) needs {needed:,} images and has "
        f"{worst.images:,}."
    )


def measured_power(verdicts: pd.DataFrame, unpruned: Collection[str] = ()) -> str:
    """Returns what the images of a run were too few for, in one sentence; empty where they decide all checks.

    Looked at is the smallest ratio, where candidates differ least, in the scope of the headlines. A check is too small
    if a candidate without any loss, as discordant as the measured one, would be shown to hold in less than 80 % of
    samples.

    Args:
        verdicts: See `evalsuite.results.verdict_tables.check_table`.
        unpruned: Methods that prune nothing.
    """
    rows = verdicts[(verdicts["aggregate"] == "single") & ~verdicts["method"].isin(list(unpruned))]
    several = (rows["seed"] == ALL_SEEDS).any()
    rows = rows[rows["scope"] == (MEAN if several else NETWORK)]
    rows = rows[rows["target_ratio"] == rows.groupby("method")["target_ratio"].transform("min")]
    checks = rows.groupby(["metric", "condition"], sort=False).ngroups
    short = rows[(rows["verdict"] == UNDECIDED) & (rows["images_needed"] > rows["n"])]
    if short.empty:
        return ""
    series = verdicts.groupby("method")["target_ratio"].nunique().max() > 1
    at = "At the smallest ratio the" if series else "The"
    short = short.assign(times=short["images_needed"] / short["n"].astype(float))
    worst = short.sort_values("times", kind="stable").groupby(["metric", "condition"], sort=False).tail(1)
    row = worst.iloc[len(worst) // 2]
    return (
        f"{at} images are too few for {len(worst)} of {checks} checks: a candidate without any "
        f"loss would be shown to hold in less than 80 % of samples. Half of them would need up to "
        f"{worst['times'].median():.1f} times as many images, all of them {worst['times'].max():.1f} times: "
        f"{row['metric']} on {row['condition']}, for example, {int(row['images_needed']):,} instead of "
        f"{int(row['n']):,}."
    )
