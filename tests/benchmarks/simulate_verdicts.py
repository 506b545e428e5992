"""Simulated batteries with known drops: how often verdicts and intervals are wrong, and what they find.

Per-image differences of a parent and its candidates come from a latent normal model: 75 corruptions in 15 kinds of
five severities and four families, correlated at 0.6 within a kind and 0.4 between kinds, ratios at 0.8, in a tail:
observed differences correlate at 0.1 to 0.3. Discordance goes from 0.5 to 12 %, or more where the drop is large.

    python tests/benchmarks/simulate_verdicts.py --draws 1000 --images 899 --tolerance 0.01
    python tests/benchmarks/simulate_verdicts.py --metrics --draws 1000
    python tests/benchmarks/simulate_verdicts.py --harmless --draws 2000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from evalsuite.metrics.functionals import evaluate
from evalsuite.statistics import bootstrap_weights, bounds
from evalsuite.statistics.limits import mean_quantile
from evalsuite.statistics.rates import lower_score_quantile, score_quantile
from evalsuite.thresholds.intervals import PotentialInterval, RatioTests, potential_interval
from evalsuite.thresholds.verdicts import ERROR, holm
from evalsuite.types import Metric

if TYPE_CHECKING:
    from evalsuite.types import Floats

RATIOS = np.array([0.5, 0.7, 0.8, 0.9, 0.95])
SHAPES: Mapping[str, tuple[float, ...]] = {
    "steep": (-0.2, 0, 0.2, 6, 12),
    "plateau": (0.8, 0.8, 0.8, 0.8, 10),
    "ties": (0, 1, 1, 4, 12),
    "at once": (1.02, 1.1, 2, 6, 10),
    "zero": (0, 0, 0, 0, 0),
    "all at the tolerance": (1, 1, 1, 1, 1),
}
"""True drops at the five ratios, in tolerances."""
ONE = "one +.03"
"""The shape in which one check of all drops by 0.03 at every ratio."""
FAMILY_SIZES = (15, 20, 20, 20)
SHARED = (0.4, 0.2, 0.4)
"""Parts of the latent variance: of the image, of a kind on the image, of a severity alone."""


@dataclass(frozen=True)
class Setting:
    """One kind of simulated battery.

    Attributes:
        shape: A name in `SHAPES`, or `ONE`.
        images: Number of images.
        tolerance: Largest drop that is commensurate.
        checks: Number of checks, in kinds of five.
        lowest: Smallest discordance of a check.
        highest: Largest one.
    """

    shape: str
    images: int
    tolerance: float
    checks: int = 75
    lowest: float = 0.005
    highest: float = 0.12

    @property
    def drops(self) -> Floats:
        """True drops, (checks, ratios)."""
        if self.shape == ONE:
            drops = np.zeros((self.checks, len(RATIOS)))
            drops[self.checks // 2] = 0.03
            return drops
        return np.tile(np.array(SHAPES[self.shape]) * self.tolerance, (self.checks, 1))

    @property
    def truth(self) -> float:
        """The true potential of all checks together."""
        failing = (self.drops > self.tolerance + 1e-12).any(axis=0)
        first = int(failing.argmax()) if failing.any() else len(RATIOS)
        return float(RATIOS[first - 1]) if first else 0.0


def differences(setting: Setting, random: np.random.Generator) -> Floats:
    """Differences -1, 0 and 1 of each image, check and ratio, (N, K, R)."""
    n, k = setting.images, setting.checks
    drops = setting.drops
    order = np.random.default_rng(7).permutation(k)
    shares = np.geomspace(setting.lowest, setting.highest, k)[order]
    shares[k // 2] = np.median(shares)
    discordance = np.maximum(shares[:, None], 1.2 * np.abs(drops))
    latent = np.sqrt(0.8) * _field(random, n, k, 1) + np.sqrt(0.2) * _field(random, n, k, len(RATIOS))
    lost = latent > ndtri(1 - (discordance + drops) / 2)
    gained = latent < ndtri((discordance - drops) / 2)
    found: Floats = lost.astype(np.float32) - gained
    return found


def _field(random: np.random.Generator, n: int, k: int, ratios: int) -> Any:
    """Standard normal numbers (n, k, ratios) that images and kinds share."""
    image, kind, own = (np.float32(np.sqrt(part)) for part in SHARED)
    numbers = own * random.standard_normal((n, k, ratios), dtype=np.float32)
    numbers += image * random.standard_normal((n, 1, ratios), dtype=np.float32)
    of_kinds = random.standard_normal((n, -(-k // 5), ratios), dtype=np.float32)
    numbers += kind * np.repeat(of_kinds, 5, axis=1)[:, :k]
    return numbers


def rate_tests(d: Floats, tolerance: float) -> tuple[Floats, Floats, Floats]:
    """Measured drops, and p-values of non-inferiority and of inferiority, each (K, R), as `bounds` has them."""
    n = len(d)
    lost, gained = (d > 0).sum(axis=0), (d < 0).sum(axis=0)
    drops = (lost - gained) / n
    above = drops > tolerance + 1e-12
    noninferiority = np.where(above, 1.0, ndtr(-score_quantile(lost, gained, n=n, limit=tolerance)))
    inferiority = np.where(above, ndtr(-lower_score_quantile(lost, gained, n=n, limit=tolerance)), 1.0)
    return drops, noninferiority, inferiority


def family_tests(d: Floats, tolerance: float) -> Floats:
    """P-values of inferiority of the means over families, and over all checks, (M, R)."""
    edges = np.cumsum((0, *FAMILY_SIZES))
    parts = [d[:, a:b].mean(axis=1) for a, b in pairwise(edges) if b <= d.shape[1]]
    rows = []
    for mean in (*parts, d.mean(axis=1)):
        p = ndtr(-mean_quantile(mean.astype(np.float64), np.full(mean.shape[1], tolerance)))
        rows.append(np.where(mean.mean(axis=0) > tolerance, p, 1.0))
    return np.stack(rows)


@dataclass(frozen=True)
class Claims:
    """What is said about one simulated battery.

    Attributes:
        potential: The point estimate: the largest ratio up to which every measured drop is within the tolerance.
        interval: Of the true potential.
        inferior: Which checks are shown to fail at which ratio, (K, R).
        noninferior: Which are shown to hold, (K, R).
    """

    potential: float
    interval: PotentialInterval
    inferior: Any
    noninferior: Any


def claims(d: Floats, tolerance: float) -> Claims:
    """Returns all that is said from the differences (N, K, R)."""
    drops, noninferiority, inferiority = rate_tests(d, tolerance)
    together = np.concatenate([inferiority, family_tests(d, tolerance)])
    unknown = np.full(together.shape, np.nan)
    interval = potential_interval(
        RatioTests(RATIOS, np.ones(drops.shape, bool), noninferiority, together, unknown)
    )
    failing = (drops > tolerance + 1e-12).any(axis=0)
    first = int(failing.argmax()) if failing.any() else len(RATIOS)
    inferior = holm(inferiority.ravel(), unknown[: len(drops)].ravel()).reshape(drops.shape)
    return Claims(float(RATIOS[first - 1]) if first else 0.0, interval, inferior, noninferiority <= ERROR)


def simulated(setting: Setting, draws: int, *, seed: int = 0) -> Iterator[Claims]:
    """Yields what is said about each of some simulated batteries."""
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield claims(differences(setting, random), setting.tolerance)


def exchanged(d: Floats, random: np.random.Generator) -> Floats:
    """The differences with parent and candidate exchanged on half of the images, all checks and ratios together."""
    return d * np.where(random.random(len(d)) < 0.5, np.float32(-1), np.float32(1))[:, None, None]


def measurements(d: Floats, tolerance: float) -> pd.DataFrame:
    """The differences as a table of measurements with p-values, as a run has it."""
    drops, noninferiority, inferiority = rate_tests(d, tolerance)
    checks, ratios = drops.shape
    group = np.repeat(["noise", "blur", "weather", "digital"], FAMILY_SIZES)[:checks]
    labels = [f"{group[k]}-{k}/1" for k in range(checks)]
    common: Any = {
        "metric": "accuracy",
        "higher_is_better": True,
        "seed": 0,
        "n": len(d),
        "drop_tolerance": tolerance,
    }
    parent = pd.DataFrame({"condition": labels, "group": group, "value": 0.9, "drop": 0.0}).assign(
        method="dense", ratio=0.0, target_ratio=0.0, **common
    )
    index = np.arange(drops.size)
    rows = pd.DataFrame(
        {
            "condition": np.repeat(labels, ratios),
            "group": np.repeat(group, ratios),
            "ratio": RATIOS[index % ratios],
            "target_ratio": RATIOS[index % ratios],
            "drop": drops.ravel(),
            "value": 0.9 - drops.ravel(),
            "noninferiority_p": noninferiority.ravel(),
            "inferiority_p": inferiority.ravel(),
            "test": index.astype(float),
        }
    ).assign(method="m", grid=0, drop_low=np.nan, drop_high=np.nan, **common)
    return pd.concat([parent, rows], ignore_index=True)


def row_of(setting: Setting, draws: int, seed: int) -> str:
    """One line of the table of `docs/statistics.md`."""
    found = list(simulated(setting, draws, seed=seed))
    truth, false = setting.truth, setting.drops <= setting.tolerance + 1e-12

    def share(flags: Sequence[bool]) -> str:
        return f"{100 * np.mean(flags):.1f} %"

    low = [c.interval.noninferior_up_to for c in found]
    high = [c.interval.largest_undecided for c in found]
    power = [c.inferior[~false].mean() for c in found] if (~false).any() else [np.nan]
    steps = np.searchsorted(RATIOS, high, side="right") - np.searchsorted(RATIOS, low, side="right")
    cells = [
        setting.shape,
        f"{setting.images:,}",
        f"{setting.tolerance:g}",
        f"{truth:g}",
        share([c.potential < truth - 1e-9 for c in found]),
        share([x > truth + 1e-9 for x in low]),
        share([x < truth - 1e-9 for x in high]),
        share([abs(x - truth) < 1e-9 for x in high]),
        f"{np.mean(steps):.1f}",
        share([bool((c.inferior & false).any()) for c in found]),
        f"{100 * np.mean(power):.0f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def scores(random: np.random.Generator, n: int, shift: float) -> dict[str, Floats]:
    return {"test": random.normal(0, 1, n), "out": random.normal(shift, 1, n // 2)}


SIGMAS = {"nll": 1.2, "nll, heavy": 1.8}
"""Standard deviation of the logarithm of simulated losses."""
METRICS: Mapping[str, Metric] = {
    name: Metric(name, name != "fpr95_ood_positive", "fraction", "", name)
    for name in ("auroc", "aupr_out", "fpr95_ood_positive")
} | dict.fromkeys(SIGMAS, Metric("nll", False, "nats", ""))


def drawn_pair(
    name: str, random: np.random.Generator, n: int, effect: float
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Evidence of a parent and of a candidate whose scores are shifted, or whose losses grow, by `effect`."""
    if name in SIGMAS:
        parent = random.lognormal(-2, SIGMAS[name], n)
        return {"test": parent}, {"test": parent * random.lognormal(-0.125, 0.5, n) + effect * parent}
    before = scores(random, n, 2.0)
    after = {key: 0.9 * x + np.sqrt(0.19) * random.normal(0, 1, len(x)) for key, x in before.items()}
    after["out"] = after["out"] + 0.2 - effect
    return before, after


def metric_errors(name: str, n: int, draws: int, *, relative: bool = False) -> dict[str, float]:
    """How often a drop that equals its tolerance (true values: two million images) is called so at some levels."""
    metric, effect = METRICS[name], 0.1 if name in SIGMAS else 0.3
    large, reference = drawn_pair(name, np.random.default_rng(1), 2_000_000, effect), np.random.default_rng(2)
    wide = {key: np.ones((1, len(x)), np.float32) for key, x in large[0].items()}
    values = [float(evaluate(metric.functional, part, weights=wide)[0]) for part in large]
    drop = (values[0] - values[1]) * (1 if metric.higher_is_better else -1)
    if name in SIGMAS:  # two million images do not show the mean of so skewed numbers
        values[0] = float(np.exp(-2 + SIGMAS[name] ** 2 / 2))
        drop = effect * values[0]
    rule: Any = f"{100 * drop / values[0]}%" if relative else drop
    counts = {"inferior .025": 0.0, "inferior .001": 0.0, "inferior .0001": 0.0, "non-inferior .025": 0.0}
    for _ in range(draws):
        parent, candidate = drawn_pair(name, reference, n, effect)
        weights = bootstrap_weights(
            {key: len(x) for key, x in parent.items()}, replicates=1000, seed=int(reference.integers(1 << 30))
        )
        found = bounds(metric, parent, [candidate], weights=weights, tolerance=rule)
        for key in counts:
            p = found.inferiority_p if key.startswith("inferior") else found.noninferiority_p
            counts[key] += float(p[0] <= float(key.split()[1])) / draws
    return counts


def harmless(draws: int, seed: int) -> str:
    """How often a harmless copy is said to fail, and how often the minimum of point estimates is 0, in words."""
    random = np.random.default_rng(seed)
    real = differences(Setting("ties", 600, 0.01, checks=15), random)
    found = [claims(exchanged(real, random), 0.01) for _ in range(draws)]
    named = sum(bool(c.inferior.any()) or not np.isnan(c.interval.inferior_from) for c in found)
    zero = sum(c.potential == 0 for c in found)
    return f"of {draws} harmless copies {named} are said to fail; the minimum of point estimates is 0 in {zero}\n"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--images", type=int, default=899)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--harmless", action="store_true")
    given = parser.parse_args()
    if given.harmless:
        sys.stdout.write(harmless(given.draws, given.seed))
        return
    if given.metrics:
        for name in METRICS:
            for relative in (False, True):
                found = metric_errors(name, given.images, given.draws, relative=relative)
                text = ", ".join(f"{key}: {100 * share:.2f} %" for key, share in found.items())
                kind = "relative" if relative else "absolute"
                sys.stdout.write(f"{name}, {kind}, {given.images} images: {text}\n")
                sys.stdout.flush()
        return
    for shape in (*SHAPES, ONE):
        setting = Setting(shape, given.images, given.tolerance)
        sys.stdout.write(row_of(setting, given.draws, given.seed) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
