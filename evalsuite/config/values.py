"""What the plain values of a suite must be: its name, ratios, seeds, threads, recipes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evalsuite.errors import SuiteError
from evalsuite.plugin_config import build
from evalsuite.training.published_recipes import merge_recipe
from evalsuite.training.recipe import Recipe

OWN = "retraining"
"""Key of a producer's table that is the suite's and not the producer's: how its candidates are retrained."""


def valid_name(name: str, where: str) -> str:
    """Returns the name of a suite, which also names a folder.

    Raises:
        SuiteError: If no folder can be called so.
    """
    if not name or not all(part.isalnum() or part in "-_." for part in name) or name.startswith("."):
        raise SuiteError(
            f"{where}: found name = {name!r}, expected letters, digits, '-', '_' or '.': it names a folder"
        )
    return name


def valid_ratios(ratios: tuple[float, ...], where: str, *, needed: bool) -> tuple[float, ...]:
    """Returns the target ratios of a suite; they may be missing where nothing is pruned here.

    Raises:
        SuiteError: If they do not rise inside (0, 1).
    """
    if not ratios and not needed:
        return ratios
    if not ratios:
        raise SuiteError(f"{where}: found ratios = [], expected at least one number in (0, 1)")
    for ratio in ratios:
        if not (math.isfinite(ratio) and 0 < ratio < 1):
            raise SuiteError(f"{where}: found the ratio {ratio}, expected the share to remove, in (0, 1)")
    if list(ratios) != sorted(set(ratios)):
        raise SuiteError(f"{where}: found ratios = {list(ratios)}, expected rising numbers without repeats")
    return ratios


def valid_seeds(seeds: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Returns the seeds of a suite.

    Raises:
        SuiteError: If they are not different integers from 0 on.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise SuiteError(f"{where}: found seeds = {list(seeds)}, expected different integers from 0 on")
    return seeds


def valid_threads(threads: int, where: str) -> int:
    """Returns the number of threads of each computation.

    Raises:
        SuiteError: If it is below 1.
    """
    if threads < 1:
        raise SuiteError(f"{where}: found threads = {threads}, expected at least 1")
    return threads


def build_recipe(table: Mapping[str, Any], under: Mapping[str, Any], where: str) -> Recipe:
    """Returns the recipe of a table, which may name one and leave out what holds otherwise.

    Raises:
        SuiteError: If no recipe has the name, or a key or value is none of a recipe.
    """
    try:
        keys = merge_recipe(table, under)
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from error
    return build(Recipe, keys, where=where)


def build_retrainings(
    producers: Iterable[Mapping[str, Any]], under: Mapping[str, Any], where: str
) -> dict[str, Recipe]:
    """Returns the recipes of the producers that have one of their own, by label.

    Args:
        producers: Tables of producers; the key `OWN` is a recipe's name, or a table.
        under: Keys that hold where such a table says nothing else.
        where: Place in a file, for error messages.

    Raises:
        SuiteError: If one is no recipe.
    """
    found = {}
    for table in producers:
        own, label = table.get(OWN), str(table.get("label", table.get("name")))
        if own is not None and not isinstance(own, str | dict):
            raise SuiteError(f"{where}, {label}: found {OWN} = {own!r}, expected a recipe's name or a table")
        if own is not None:
            found[label] = build_recipe(
                {"name": own} if isinstance(own, str) else own, under, f"{where}, {label}"
            )
    return found


@dataclass(frozen=True)
class Resources:
    """Is the table ``[resources]`` of a suite.

    Attributes:
        time_limit: Seconds that one test of one candidate may take; ``None`` for any number.
        production_limit: Seconds that making one candidate may take; ``None`` for any number.
        cpus: Processors that Ray keeps for one task; 0 for the suite's number of threads.
        gpus: Graphics cards that Ray keeps for one task; a fraction lets several tasks share one.
    """

    time_limit: float | None = None
    production_limit: float | None = None
    cpus: float = 0.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name in ("time_limit", "production_limit"):
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise SuiteError(f"found {name} = {limit}, expected seconds above 0, or leave it out")
        for name in ("cpus", "gpus"):
            share = getattr(self, name)
            if not (math.isfinite(share) and share >= 0):
                raise SuiteError(f"found {name} = {share}, expected a number from 0 on")
