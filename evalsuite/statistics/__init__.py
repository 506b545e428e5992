"""Confidence intervals and tests of metrics and of drops, from per-image evidence: the images are a sample.

Parent and candidate see the same images, so everything here is paired: one set of resampling weights serves
the parent, all candidates and all metrics, and the interval is that of the difference.
"""

from evalsuite.statistics.bounds import bounds, mean_bounds
from evalsuite.statistics.intervals import marginal_interval
from evalsuite.statistics.paired import BIASED, paired_drop_interval
from evalsuite.statistics.rate_limits import rate_lower_limit, rate_upper_limit
from evalsuite.statistics.rates import mcnemar, paired_rate_interval, score_limit, wilson
from evalsuite.statistics.resampling import bootstrap_weights, drop, interval
from evalsuite.statistics.sample_size import required_images, required_seeds
from evalsuite.types import Bounds

__all__ = [
    "BIASED", "Bounds", "bootstrap_weights", "bounds", "drop", "interval", "marginal_interval", "mcnemar",
    "mean_bounds", "paired_drop_interval", "paired_rate_interval", "rate_lower_limit", "rate_upper_limit",
    "required_images", "required_seeds", "score_limit", "wilson",
]  # fmt: skip
