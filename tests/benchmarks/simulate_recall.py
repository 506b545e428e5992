"""How often does the interval of a false-positive rate at 95 % recall hold the truth?

Normal scores whose true rates are known, one outlier set and the mean over two, in both conventions. Run from the root
of the repository::

    python tests/benchmarks/simulate_recall.py --simulations 2000
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from evalsuite.metrics.ood import RECALL
from evalsuite.statistics import own_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.records import Array

SIZES = ((80, 120), (400, 200), (1000, 1000), (10_000, 1000))
APART = (0.5, 2.0, 4.0)
WIDER = 1.5
"""Standard deviation of the scores of the second outlier set, which lies one unit farther away."""


def sample(random: np.random.Generator, sizes: tuple[int, int], apart: float) -> tuple[Array, Array, Array]:
    """Scores of test images and of two outlier sets."""
    inside, outside = sizes
    return (
        random.normal(size=inside),
        random.normal(apart, 1, outside),
        random.normal(apart + 1, WIDER, outside),
    )


def truths(apart: float) -> dict[str, float]:
    """The true rates by functional."""
    flagged = [
        1 - ndtr(mean + spread * ndtri(1 - RECALL)) for mean, spread in ((apart, 1), (apart + 1, WIDER))
    ]
    kept = [ndtr((ndtri(RECALL) - mean) / spread) for mean, spread in ((apart, 1), (apart + 1, WIDER))]
    found = {"fpr95_ood_positive": flagged, "fpr95_id_positive": kept}
    return {name: float(both[0]) for name, both in found.items()} | {
        f"mean_{name}": float(np.mean(both)) for name, both in found.items()
    }


def held(sizes: tuple[int, int], apart: float, simulations: int) -> Iterator[tuple[str, float]]:
    """Functional, and the share of simulations whose interval holds the truth."""
    random = np.random.default_rng([*sizes, int(10 * apart)])
    expected = truths(apart)
    count = dict.fromkeys(expected, 0)
    for _ in range(simulations):
        test, near, far = sample(random, sizes, apart)
        for name, truth in expected.items():
            evidence = {"test": test, "near": near} | ({"far": far} if name.startswith("mean") else {})
            low, high = own_interval(name, evidence) or (2.0, 2.0)
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
        for apart in APART:
            for name, share in held(sizes, apart, options.simulations):
                sys.stdout.write(f"| {sizes[0]} | {sizes[1]} | {apart} | {name} | {share:.1%} |\n")


if __name__ == "__main__":
    main()
