"""How often the marginal interval of one number holds the truth.

Areas under the ROC curve, and false-positive rates at 95 % recall and average precisions in both conventions, of normal
scores whose true values are known; one outlier set and the mean over two. Run from the root of the repository::

    python tests/benchmarks/simulate_intervals.py --simulations 2000
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from evalsuite.metrics.ood import RECALL
from evalsuite.statistics import marginal_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.types import Array

    Normal = tuple[float, float]

SIZES = ((300, 30), (2000, 20), (80, 120), (400, 200), (1000, 1000), (10_000, 50), (10_000, 1000))
DISTANCES = (0.5, 2.0, 4.0)
WIDER = 1.5
"""Standard deviation of the scores of the second outlier set, which lies one unit farther away."""


def sample(
    random: np.random.Generator, sizes: tuple[int, int], distance: float
) -> tuple[Array, Array, Array]:
    """Scores of test images and of two outlier sets."""
    inside, outside = sizes
    return (
        random.normal(size=inside),
        random.normal(distance, 1, outside),
        random.normal(distance + 1, WIDER, outside),
    )


def precision(positive: Normal, negative: Normal, share: float) -> float:
    """The true average precision, where this share of all images is positive."""
    mean, spread = positive

    def at(score: float) -> float:
        true, false = (
            part * ndtr((m - score) / s)
            for part, (m, s) in zip((share, 1 - share), (positive, negative), strict=True)
        )
        return float(true / (true + false) * norm.pdf(score, mean, spread))

    return float(quad(at, mean - 8 * spread, mean + 8 * spread, limit=200)[0])


def truths(sizes: tuple[int, int], distance: float) -> dict[str, float]:
    """The true values by functional."""
    inside, outside = (0.0, 1.0), ((distance, 1.0), (distance + 1, WIDER))
    share = sizes[1] / sum(sizes)
    values = {
        "fpr95_ood_positive": [1 - ndtr(mean + spread * ndtri(1 - RECALL)) for mean, spread in outside],
        "fpr95_id_positive": [ndtr((ndtri(RECALL) - mean) / spread) for mean, spread in outside],
        "auroc": [ndtr(mean / np.hypot(1, spread)) for mean, spread in outside],
        "aupr_out": [precision(scores, inside, share) for scores in outside],
        "aupr_in": [precision(inside, (-mean, spread), 1 - share) for mean, spread in outside],
    }
    return {name: float(both[0]) for name, both in values.items()} | {
        f"mean_{name}": float(np.mean(both)) for name, both in values.items()
    }


def held(sizes: tuple[int, int], distance: float, simulations: int) -> Iterator[tuple[str, float]]:
    """Functional, and the share of simulations whose interval holds the truth."""
    random = np.random.default_rng([*sizes, int(10 * distance)])
    expected = truths(sizes, distance)
    count = dict.fromkeys(expected, 0)
    for _ in range(simulations):
        test, near, far = sample(random, sizes, distance)
        for name, truth in expected.items():
            evidence = {"test": test, "near": near} | ({"far": far} if name.startswith("mean") else {})
            low, high = marginal_interval(name, evidence) or (2.0, 2.0)
            count[name] += bool(low <= truth <= high)
    yield from ((name, number / simulations) for name, number in count.items())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=2000)
    options = parser.parse_args()
    sys.stdout.write("| test images | outliers | apart | functional | held |\n|---|---|---|---|---|\n")
    for sizes in SIZES:
        for distance in DISTANCES:
            for name, share in held(sizes, distance, options.simulations):
                sys.stdout.write(f"| {sizes[0]} | {sizes[1]} | {distance} | {name} | {share:.1%} |\n")


if __name__ == "__main__":
    main()
