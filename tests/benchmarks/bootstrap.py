"""Time of the bounds of a large study: 50 candidates, 30 metrics, 10,000 images, 2,000 replicates.

Run ``python tests/benchmarks/bootstrap.py`` (``--images``, ``--candidates``, ``--replicates`` for less). One set of
weights serves all candidates and metrics. Ten of the metrics are rates, fourteen are means of real numbers, three are
areas under the ROC curve, one is an FPR95 and two are calibration errors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import numpy as np

from evalsuite.statistics import bootstrap_weights, bounds
from evalsuite.types import Array, Metric

KINDS = (("rate", "mean", 10), ("mean", "mean", 14), ("auroc", "auroc", 3), ("fpr95", "fpr95_ood_positive", 1),
         ("ece", "ece_equal_width", 2))  # fmt: skip


def evidence(kind: str, draws: np.random.Generator, images: int) -> Mapping[str, Array]:
    """Per-image outputs of one network."""
    right = draws.random(images) < 0.9
    if kind == "rate":
        return {"test": right}
    if kind == "mean":
        return {"test": draws.exponential(0.3, images).astype(np.float32)}
    if kind == "ece":
        return {"test": np.column_stack([draws.beta(8, 1, images), right]).astype(np.float32)}
    return {"test": draws.normal(size=images), "letters": draws.normal(1, 1.5, images)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--replicates", type=int, default=2_000)
    options = parser.parse_args()
    draws = np.random.default_rng(0)
    started = time.perf_counter()
    sizes = {"test": options.images, "letters": options.images}
    weights = bootstrap_weights(sizes, replicates=options.replicates, seed=0)
    print(f"weights: {time.perf_counter() - started:.1f} s")  # noqa: T201  # a script's output
    total = time.perf_counter() - started
    for kind, functional, count in KINDS:
        metric = Metric(kind, higher_is_better=True, unit="1", text="", functional=functional)
        spent = 0.0
        for _ in range(count):
            parent, *others = (evidence(kind, draws, options.images) for _ in range(options.candidates + 1))
            started = time.perf_counter()
            bounds(metric, parent, others, weights=weights)
            spent += time.perf_counter() - started
        total += spent
        print(f"{count} x {kind}: {spent:.1f} s")  # noqa: T201  # a script's output
    print(f"total: {total:.1f} s")  # noqa: T201  # a script's output


if __name__ == "__main__":
    main()
