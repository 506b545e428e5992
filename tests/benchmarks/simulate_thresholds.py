"""How often `certified` and the interval of the potential are wrong, against their stated confidence.

Per-image evidence is drawn from a model in which the true drop at every ratio is known, and with it the true
potential. Run from the root of the repository::

    python tests/benchmarks/simulate_thresholds.py --simulations 2000

It prints the tables of `docs/statistics.md`. The tests run the same code with fewer simulations.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from evalsuite.statistics import bootstrap_weights, mean_bounds
from evalsuite.statistics.resampling import resampled_means
from evalsuite.thresholds.threshold import threshold
from evalsuite.types import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.types import Array, Floats

RATIOS = np.linspace(0.5, 0.95, 10)
SHAPES: dict[str, tuple[float, ...]] = {
    "steep": (-0.2, -0.1, 0, 0, 0.2, 3, 6, 8, 10, 12),
    "plateau below": (0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 6, 10),
    "ties": (0, 0.4, 1, 1, 1, 1, 1, 4, 8, 12),
    "fails at once": (1.02, 1.02, 1.02, 1.1, 1.2, 2, 4, 6, 8, 10),
}
"""True drops in multiples of the tolerance."""

METRICS = {
    "accuracy": Metric("accuracy", higher_is_better=True, unit="fraction", text=""),
    "nll": Metric("nll", higher_is_better=False, unit="nats", text=""),
    "auroc": Metric("auroc", higher_is_better=True, unit="fraction", text="", functional="auroc"),
    "fpr95": Metric(
        "fpr95", higher_is_better=False, unit="fraction", text="", functional="fpr95_ood_positive"
    ),
}
REPLICATES = 1000
RIGHT = 0.92
DISCORDANT = 0.07
CHAIN = 0.9
"""Correlation of neighbouring ratios."""

Evidence = dict[str, "Array"]


@dataclass(frozen=True)
class Setting:
    """One row of the table: seeds differ by fixed offsets of up to half a tolerance around the mean."""

    shape: str
    n: int
    seeds: int = 1
    tolerance: float = 0.005
    metric: str = "accuracy"

    @property
    def truth(self) -> float:
        """The true potential."""
        failing = [ratio for ratio, drop in zip(RATIOS, SHAPES[self.shape], strict=True) if drop > 1]
        return float(max((r for r in RATIOS if not failing or r < failing[0]), default=0.0))


@dataclass(frozen=True)
class Outcome:
    """The result of one simulated test: ratios, 0 for none."""

    potential: float
    certified: float
    low: float
    high: float
    naive_low: float
    naive_high: float


def chain(random: np.random.Generator, n: int) -> Floats:
    """Standard normal numbers for each image and ratio, alike at neighbouring ratios, shape (n, R)."""
    steps = random.standard_normal((n, len(RATIOS)))
    steps[:, 1:] *= np.sqrt(1 - CHAIN**2)
    for place in range(1, len(RATIOS)):
        steps[:, place] += CHAIN * steps[:, place - 1]
    return steps


def accuracy(random: np.random.Generator, n: int, drops: Floats) -> Iterator[tuple[Array, Array]]:
    """Whether parent and candidates of each seed are right; `drops` has shape (S, R)."""
    hard, common = random.standard_normal(n), chain(random, n)
    for drop in drops:
        difficulty = np.sqrt(0.8) * hard + np.sqrt(0.2) * random.standard_normal(n)
        right = difficulty < ndtri(RIGHT)
        discordant = np.maximum(DISCORDANT, np.abs(drop) + 0.01)
        lost, gained = (discordant + drop) / 2 / RIGHT, (discordant - drop) / 2 / (1 - RIGHT)
        latent = (common + chain(random, n)) / np.sqrt(2)
        flips = latent < ndtri(np.where(right[:, None], lost, gained))
        yield right, right[:, None] ^ flips


def nll(random: np.random.Generator, n: int, drops: Floats) -> Iterator[tuple[Array, Array]]:
    """Losses whose changes are skewed: most images gain a little, a few lose much (skewness about 4)."""
    common = chain(random, n)
    for drop in drops:
        parent = random.exponential(0.3, n)
        latent = (common + chain(random, n)) / np.sqrt(2)
        yield parent, parent[:, None] + drop + 0.1 * (np.exp(0.9 * latent) - np.exp(0.405))


def scores(random: np.random.Generator, n: int, shifts: Floats) -> Iterator[tuple[Evidence, list[Evidence]]]:
    """Normal scores of n images inside and n outside, which lie by `shifts` higher; the parent's is first."""
    for shift in shifts:
        latent = {name: chain(random, n) for name in ("inside", "outside")}
        first = {name: x[:, :1] + 0.5 * random.standard_normal((n, 1)) for name, x in latent.items()}
        table = {
            name: np.hstack([first[name] / np.sqrt(1.25), latent[name]]) + shift * (name == "outside")
            for name in latent
        }
        parent, *candidates = ({name: x[:, k] for name, x in table.items()} for k in range(len(shift)))
        yield parent, candidates


def evidence(random: np.random.Generator, setting: Setting) -> tuple[list[Evidence], list[list[Evidence]]]:
    """Evidence of the parents and the candidates of each seed."""
    offsets = 0.5 * setting.tolerance * (np.arange(setting.seeds) - (setting.seeds - 1) / 2)
    drops = setting.tolerance * np.array(SHAPES[setting.shape]) + offsets[:, None]
    if setting.metric in ("auroc", "fpr95"):
        sides = list(scores(random, setting.n, shifts(setting.metric, drops)))
        return [parent for parent, _ in sides], [candidates for _, candidates in sides]
    draw = accuracy if setting.metric == "accuracy" else nll
    pairs = list(draw(random, setting.n, drops))
    return [{"x": p} for p, _ in pairs], [[{"x": c} for c in table.T] for _, table in pairs]


def shifts(metric: str, drops: Floats) -> Floats:
    """How far outside scores lie above inside ones, first for the parent (AUROC 0.9), shape (S, 1 + R)."""
    parent = np.sqrt(2) * ndtri(0.9)
    if metric == "auroc":
        candidates = np.sqrt(2) * ndtri(0.9 - drops)
    else:
        candidates = ndtri(0.95) - ndtri(ndtr(ndtri(0.95) - parent) + drops)
    return np.hstack([np.full((len(drops), 1), parent), candidates])


def simulated(setting: Setting, simulations: int, *, naive: bool = False) -> Iterator[Outcome]:
    """The results of independent tests, all with the weights that a run would use."""
    sizes = dict.fromkeys(("x", "inside", "outside"), setting.n)
    weights = bootstrap_weights(sizes, replicates=REPLICATES, seed=0)
    weights = {name: x.astype(np.float64) for name, x in weights.items()}  # once, not once a simulation
    for number in range(simulations):
        address = [number, setting.n, setting.seeds, *map(ord, setting.shape + setting.metric)]
        random = np.random.default_rng(address)
        parents, candidates = evidence(random, setting)
        bounds = mean_bounds(METRICS[setting.metric], parents, candidates, weights=weights)
        result = threshold(RATIOS.tolist(), bounds.drop.tolist(), setting.tolerance, bounds=bounds)
        assert result.certified is not None
        assert result.interval is not None
        ends = naive_interval(parents, candidates, weights["x"], setting.tolerance) if naive else (0.0, 1.0)
        yield Outcome(result.potential, result.certified, *result.interval, *ends)


def naive_interval(
    parents: list[Evidence], candidates: list[list[Evidence]], weights: Array, tolerance: float
) -> tuple[float, float]:
    """The percentile bootstrap of the potential of an accuracy, which this package does not use."""
    differences = np.mean(
        [
            p["x"][:, None].astype(float) - np.stack([c["x"] for c in seed], axis=1)
            for p, seed in zip(parents, candidates, strict=True)
        ],
        axis=0,
    )
    passed = resampled_means(weights, differences) <= tolerance + 1e-12
    count = np.logical_and.accumulate(passed, axis=1).sum(axis=1)
    potentials = np.concatenate([[0.0], RATIOS])[count]
    low, high = np.quantile(potentials, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


def line(setting: Setting, simulations: int) -> str:
    """One row of the table."""
    naive = setting.metric == "accuracy"
    results = list(simulated(setting, simulations, naive=naive))
    truth, close = setting.truth, 1e-9
    over = np.mean([f.certified > truth + close for f in results])
    exact = np.mean([abs(f.certified - truth) < close for f in results])
    covered = np.mean([f.low <= truth + close and f.high >= truth - close for f in results])
    width = np.mean([steps(f.low, f.high) for f in results])
    cells = [f"{setting.metric}", f"{setting.n:,}", f"{setting.seeds}", f"{setting.tolerance:g}"]
    cells += [setting.shape, f"{truth:.2f}", f"{over:.1%}", f"{exact:.0%}"]
    cells += [
        f"{np.mean([f.potential > truth + close for f in results]):.0%}",
        f"{covered:.1%}",
        f"{width:.1f}",
    ]
    if naive:
        share = np.mean([f.naive_low <= truth + close and f.naive_high >= truth - close for f in results])
        cells += [f"{share:.1%}", f"{np.mean([steps(f.naive_low, f.naive_high) for f in results]):.1f}"]
    else:
        cells += ["", ""]
    return "| " + " | ".join(cells) + " |"


def steps(low: float, high: float) -> int:
    """Number of steps of the grid from one end of an interval to the other."""
    places = np.concatenate([[0.0], RATIOS])
    return int(np.searchsorted(places, high + 1e-9) - np.searchsorted(places, low + 1e-9))


HEAD = (
    "| metric | images | seeds | tolerance | shape | truth | certified too far | certified = truth "
    "| potential too far | interval covers | its width | naive covers | its width |"
)


def main() -> None:
    """Prints the tables, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--metric", choices=sorted(METRICS), default="accuracy")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0.005])
    parser.add_argument("--shapes", choices=sorted(SHAPES), nargs="+", default=list(SHAPES))
    options = parser.parse_args()
    sys.stdout.write(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}\n")
    for n in options.images:
        for seeds in options.seeds:
            for tolerance in options.tolerances:
                for shape in options.shapes:
                    start = time.perf_counter()
                    setting = Setting(shape, n, seeds, tolerance, options.metric)
                    sys.stdout.write(line(setting, options.simulations) + "\n")
                    sys.stdout.flush()
                    sys.stderr.write(f"{time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
