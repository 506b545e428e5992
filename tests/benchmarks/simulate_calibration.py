"""How often bounds on drops of calibration errors hold, over simulated tests: the table in docs/statistics.md.

python tests/benchmarks/simulate_calibration.py --simulations 1000 --images 1000
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import numpy as np

from evalsuite.metrics import evaluate
from evalsuite.statistics import bootstrap_weights, mean_bounds
from evalsuite.types import Array, Floats, Metric

FUNCTIONALS = ("ece_l2_squared_debiased", "ece_l2_debiased", "ece_equal_width")
REPLICATES = 400


class Case(NamedTuple):
    """Two gaps: how far above their true accuracy the confidences of parent and candidate lie."""

    parent: float
    candidate: float


CASES = (
    Case(0, 0),
    Case(0, 0.01),
    Case(0, 0.03),
    Case(0, 0.07),
    Case(0.01, 0.02),
    Case(0.05, 0.05),
    Case(0.05, 0.08),
    Case(0.08, 0.03),
)


def drawn(case: Case, images: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Confidence and correctness of parent and candidate on the same images, (N, 2) each; correlated at 0.8."""
    confidence = np.clip(
        1 - 0.9 * random.beta(0.35, 2.2, images), 0.1, 1
    )  # as a trained network's: half above 0.95
    candidate_confidence = np.clip(confidence + random.normal(0, 0.03, images), 0.1, 1)
    luck = random.random(images)
    candidate_luck = np.where(random.random(images) < 0.8, luck, random.random(images))
    correct = (
        luck < chance(confidence, case.parent),
        candidate_luck < chance(candidate_confidence, case.candidate),
    )
    return np.column_stack([confidence, correct[0]]), np.column_stack([candidate_confidence, correct[1]])


def chance(confidence: Floats, gap: float) -> Floats:
    """Probability of being right."""
    return np.maximum(confidence - gap, 0.0)


def truth(functional: str, gap: float) -> float:
    """The gap is the same in all bins, so the errors are known."""
    return gap**2 if "squared" in functional else gap


def simulated(functional: str, case: Case, *, images: int, simulations: int) -> Array:
    """Rows: whether `upper`, and both ends of the interval, held; how far `upper` was off."""
    drop = truth(functional, case.candidate) - truth(functional, case.parent)
    random = np.random.default_rng([images, *(round(1000 * gap) for gap in case)])
    rows = []
    for seed in range(simulations):
        parent, candidate = drawn(case, images, random)
        weights = bootstrap_weights({"test": images}, replicates=REPLICATES, seed=seed)
        rows.append(_row(functional, parent, candidate, weights, drop))
    return np.array(rows)


def _row(
    functional: str, parent: Array, candidate: Array, weights: dict[str, Array], drop: float
) -> list[float]:
    """`mean_bounds` gives functionals in `BIASED` no upper bound, so it is a plain percentile here."""
    metric = Metric("simulated", higher_is_better=False, unit="1", text="", functional=functional)
    bounds = mean_bounds(metric, [{"test": parent}], [[{"test": candidate}]], weights=weights)
    pair = (evaluate(functional, {"test": outputs}, weights=weights) for outputs in (parent, candidate))
    before, after = pair
    upper = max(
        float(np.sort(after - before)[int(np.ceil((REPLICATES + 1) * 0.95)) - 1]), float(bounds.drop[0])
    )
    if not np.isnan(bounds.upper[0]):
        assert upper <= bounds.upper[0] + 1e-12, "corrected percentiles are not inside the plain ones"
        upper = float(bounds.upper[0])
    floor_holds = np.isnan(bounds.lower_simultaneous[0]) or bounds.lower_simultaneous[0] <= drop
    inside = bounds.low[0] <= drop <= bounds.high[0]
    return [upper >= drop, inside, floor_holds, upper - drop]


def main() -> None:
    """Writes a row per case and functional."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    for case in CASES:
        for functional in FUNCTIONALS:
            rows = simulated(functional, case, images=options.images, simulations=options.simulations)
            upper, inside, floor, excess = rows.mean(axis=0)
            sys.stdout.write(
                f"| {options.images:,} | {case.parent:g} | {case.candidate:g} | {functional} | {upper:.1%} "
                f"| {inside:.1%} | {floor:.1%} | {excess:.4f} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
