"""How often a sequential check claims what is wrong, how often it finds what is there, and how many images it takes.

Tables of checks of rates on the same number of images, measured in stages as `check --sequential` does: a check stops
when its repeated p-value decides it, or when a later stage will hardly decide it. Run from the root of the repository::

    python tests/benchmarks/simulate_sequential.py --runs 2000
    python tests/benchmarks/simulate_sequential.py --designs --runs 1000

With ``--designs``, single checks under several ways of spending the error, and a betting test that may stop after
any image (Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by betting"): how often
*non-inferior* or *inferior* is shown, and the mean share of the images.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

from evalsuite.statistics.group_sequential import SequentialDesign, predictive_power, stage_sizes
from evalsuite.statistics.rates import lower_score_quantile, score_quantile
from evalsuite.statistics.repeated_bounds import FUTILE
from evalsuite.thresholds.verdicts import ERROR, holm

if TYPE_CHECKING:
    from evalsuite.types import Array, Floats

CHECKS = 15
DISCORDANCE = np.linspace(0.02, 0.12, CHECKS)
"""Share of images on which parent and candidate differ in being right, of each check."""
SHAPES: dict[str, tuple[float, ...]] = {
    "all at the tolerance": (0.0,) * CHECKS,
    "three fail by .03, others at the tolerance": (0.03,) * 3 + (0.0,) * (CHECKS - 3),
    "three fail by .03, others equal": (0.03,) * 3 + (-1.0,) * (CHECKS - 3),
    "all fail by .03": (0.03,) * CHECKS,
    "all equal": (-1.0,) * CHECKS,
}
"""True drop less the tolerance, of each check; -1 stands for no drop."""


@dataclass(frozen=True)
class Outcome:
    """What many sequential tables of checks showed.

    Attributes:
        wrong_inferior: Share of tables in which a check that is not inferior is called so.
        wrong_noninferior: Share of the checks at or above their tolerance that are called non-inferior.
        inferior: Share of the checks above their tolerance that are called inferior.
        noninferior: Share of the checks below it that are called non-inferior.
        images: Mean share of the images.
    """

    wrong_inferior: float
    wrong_noninferior: float
    inferior: float
    noninferior: float
    images: float


def counts(
    random: np.random.Generator, runs: int, sizes: tuple[int, ...], drops: Floats
) -> tuple[Array, Array]:
    """Losses and gains up to each look, (looks, runs, checks), of drops (checks,)."""
    lost = (np.maximum(DISCORDANCE[: len(drops)], np.abs(drops)) + drops) / 2
    rates = np.stack([lost, lost - drops, 1 - 2 * lost + drops], axis=1)
    steps = np.diff([0, *sizes])
    drawn = np.stack(
        [np.stack([random.multinomial(step, rate, size=runs) for rate in rates], axis=1) for step in steps]
    ).cumsum(axis=0)
    return drawn[..., 0], drawn[..., 1]


def p_values(lost: Array, gained: Array, n: int, tolerance: float) -> tuple[Floats, Floats]:
    """P-values of "above the tolerance" and of "within it", as `evalsuite.statistics.bounds` has them."""
    above = (lost - gained) / n > tolerance
    within = np.where(above, 1.0, ndtr(-score_quantile(lost, gained, n=n, limit=tolerance)))
    beyond = np.where(above, ndtr(-lower_score_quantile(lost, gained, n=n, limit=tolerance)), 1.0)
    return within, beyond


def sequential(
    design: SequentialDesign, lost: Array, gained: Array, tolerance: float, *, family: int
) -> tuple[Floats, Floats, Array]:
    """Repeated p-values where each check stopped, of both claims, and the number of images that it took."""
    shape, errors = lost.shape[1:], (ERROR, ERROR / family)
    noninferior, inferior = np.ones(shape), np.ones(shape)
    images, is_open = np.full(shape, design.sizes[-1]), np.ones(shape, dtype=bool)
    for look, n in enumerate(design.sizes):
        found = [design.repeated_p_values(look, p) for p in p_values(lost[look], gained[look], n, tolerance)]
        noninferior, inferior = (
            np.where(is_open, new, old) for new, old in zip(found, (noninferior, inferior), strict=True)
        )
        images = np.where(is_open, n, images)
        drop = (lost[look] - gained[look]) / n
        variance = (lost[look] + gained[look] + 1) / (n + 1) - drop**2
        power = predictive_power(
            design, look, margin=tolerance - drop, deviation=np.sqrt(variance), errors=errors
        )
        is_open = is_open & ~((found[0] <= errors[0]) | (found[1] <= errors[1]) | (power < FUTILE))
    return noninferior, inferior, images


def outcome(
    shape: str, *, images: int, tolerance: float, runs: int, seed: int, power: float | None = None
) -> Outcome:
    """Simulates tables of checks of one shape."""
    sizes = stage_sizes(images)
    design = SequentialDesign(sizes) if power is None else SequentialDesign(sizes, power)
    excess = np.array(SHAPES[shape])
    drops = np.where(excess == -1, 0.0, tolerance + excess)
    lost, gained = counts(np.random.default_rng(seed), runs, sizes, drops)
    within, beyond, taken = sequential(design, lost, gained, tolerance, family=CHECKS)
    named = np.stack([holm(row, np.full(CHECKS, np.nan)) for row in beyond])
    held = within <= ERROR
    fails = drops > tolerance
    return Outcome(
        wrong_inferior=float(named[:, ~fails].any(axis=1).mean()),
        wrong_noninferior=_share(held[:, drops >= tolerance]),
        inferior=_share(named[:, fails]),
        noninferior=_share(held[:, drops < tolerance]),
        images=float(taken.mean() / images),
    )


def _share(flags: Array) -> float:
    return float(flags.mean()) if flags.size else float("nan")


DESIGN_SHAPES = (
    *(
        ("no drop, 2 % discordant", -1.0, 0.02),
        ("no drop, 6 %", -1.0, 0.06),
        ("half the tolerance, 4 %", -0.5, 0.04),
    ),
    *((".01 above it, 6 %", 0.01, 0.06), (".03 above it, 10 %", 0.03, 0.1)),
)
POWERS = (0.5, 1.0, 1.5, 2.0, 3.0)
FAMILY = 30


def designs(images: int, tolerance: float, *, runs: int, seed: int) -> list[dict[str, Any]]:
    """Single checks under several designs: share called non-inferior, called inferior, and mean share of images."""
    rows = []
    for name, excess, discordance in DESIGN_SHAPES:
        drop = {-1.0: 0.0, -0.5: tolerance / 2}.get(excess, tolerance + excess)
        lost, gained = (discordance + drop) / 2, (discordance - drop) / 2
        random = np.random.default_rng(seed)
        row: dict[str, Any] = {"truth": name}
        steps = np.diff([0, *stage_sizes(images)])
        drawn = np.stack([random.multinomial(n, [lost, gained, 1 - discordance], size=runs) for n in steps])
        drawn = drawn.cumsum(axis=0)
        row["one look"] = _decided(SequentialDesign((images,)), drawn[-1:], tolerance)
        for power in POWERS:
            row[f"power {power:g}"] = _decided(SequentialDesign(stage_sizes(images), power), drawn, tolerance)
        row["betting"] = _by_betting(random, min(runs, 200), images, (lost, gained), tolerance)
        rows.append(row)
    return rows


def _decided(design: SequentialDesign, drawn: Array, tolerance: float) -> tuple[float, float, float]:
    noninferior, inferior = np.zeros(drawn.shape[1], bool), np.zeros(drawn.shape[1], bool)
    images = np.full(drawn.shape[1], design.sizes[-1])
    for look, n in enumerate(design.sizes):
        within, beyond = (
            design.repeated_p_values(look, p)
            for p in p_values(drawn[look, :, 0], drawn[look, :, 1], n, tolerance)
        )
        is_open = ~(noninferior | inferior)
        noninferior |= is_open & (within <= ERROR)
        inferior |= is_open & (beyond <= ERROR / FAMILY)
        images = np.where(is_open & (noninferior | inferior), n, images)
    return float(noninferior.mean()), float(inferior.mean()), float(images.mean() / design.sizes[-1])


def _by_betting(
    random: np.random.Generator, runs: int, images: int, rates: tuple[float, float], tolerance: float
) -> tuple[float, float, float]:
    """A test martingale for each claim that may stop after any image, with bets that adapt to mean and variance."""
    u = random.random((runs, images), dtype=np.float32)
    x = np.where(u < rates[0], 1.0, np.where(u < sum(rates), -1.0, 0.0))
    n = np.arange(2, images + 2)
    mean, square = (
        np.concatenate([np.full((runs, 1), start), ((start + np.cumsum(values, axis=1)) / n)[:, :-1]], axis=1)
        for values, start in ((x, 0.0), (x * x, 0.25))
    )
    claims, taken = np.zeros((2, runs), dtype=bool), np.full(runs, images)
    for claim, (sign, error) in enumerate(((1, ERROR), (-1, ERROR / FAMILY))):
        edge = sign * (tolerance - mean)
        bets = np.clip(edge / (np.maximum(square - mean**2, 1e-6) + edge**2), 0, 0.75 / (1 + tolerance))
        crossed = np.cumsum(np.log1p(bets * sign * (tolerance - x)), axis=1) >= -np.log(error)
        claims[claim] = crossed.any(axis=1)
        taken = np.where(claims[claim], np.minimum(taken, crossed.argmax(axis=1) + 1), taken)
    return float(claims[0].mean()), float(claims[1].mean()), float(taken.mean() / images)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 10000])
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--designs", action="store_true")
    options = parser.parse_args()
    write = sys.stdout.write
    for images in options.images:
        if options.designs:
            for row in designs(images, options.tolerance, runs=options.runs, seed=options.seed):
                cells = [f"{a:.0%} / {b:.0%}, {c:.0%}" for a, b, c in list(row.values())[1:]]
                write(f"| {images:,} | {row['truth']} | {' | '.join(cells)} |\n")
            continue
        for shape in SHAPES:
            found = outcome(
                shape, images=images, tolerance=options.tolerance, runs=options.runs, seed=options.seed
            )
            numbers = (
                found.wrong_inferior,
                found.wrong_noninferior,
                found.inferior,
                found.noninferior,
                found.images,
            )
            write(f"| {images:,} | {shape} | {' | '.join(f'{x:.1%}' for x in numbers)} |\n")


if __name__ == "__main__":
    main()
