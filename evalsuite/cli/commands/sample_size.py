"""``sample-size``: how many images and seeds a tolerance needs."""

from __future__ import annotations

from typing import Annotated

import typer

from evalsuite.cli import console


def sample_size_command(
    tolerance: Annotated[float, typer.Option(help="Largest drop that is commensurate, e.g. 0.005.")] = 0.005,
    discordance: Annotated[
        float, typer.Option(help="Share of images that exactly one of parent and candidate gets right.")
    ] = 0.06,
    drop: Annotated[float, typer.Option(help="True drop that is expected.")] = 0.0,
    power: Annotated[float, typer.Option(help="Probability that the ratio is then certified.")] = 0.8,
    spread: Annotated[
        float, typer.Option(help="Standard deviation of the drop over seeds, to plan seeds as well.")
    ] = 0.0,
) -> None:
    """Print how many images (and seeds) a tolerance needs to be certified."""
    from evalsuite.statistics.sample_size import required_images, required_seeds

    images = required_images(tolerance, discordance, drop=drop, power=power)
    assumed = f"(--discordance {discordance:g}, --drop {drop:g})"
    console.out.print(
        f"{images:,} images certify a drop of at most {tolerance:g} in {power:.0%} of the tests {assumed}"
    )
    if spread:
        seeds = required_seeds(tolerance, spread, drop=drop, power=power)
        console.out.print(f"{seeds} seeds do so for the method, as if the number of images were unlimited")
