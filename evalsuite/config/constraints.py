"""What must hold of every suite before anything is asked of its data: names, numbers, and what fits together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evalsuite.config.suite import RESERVED, Suite
from evalsuite.errors import SuiteError, UserError, first_few
from evalsuite.plugin_config import PluginConfig
from evalsuite.registry import unknown_name
from evalsuite.tolerances import parse_limits
from evalsuite.types import Metric

if TYPE_CHECKING:
    from evalsuite.evaluators.base import Evaluator

MAX_RATIOS = 2_000
MAX_CANDIDATES = 100_000
"""Numbers up to which a plan takes seconds; a run of a suite near them takes years."""


def check_suite(suite: Suite, where: str) -> None:
    """Checks what several keys of a suite say together.

    Args:
        suite: The suite.
        where: The file, for error messages.

    Raises:
        SuiteError: At the first mistake, in one sentence.
    """
    _check_some(suite)
    _check_size(suite)
    _check_candidates(suite, f"{where}, [[candidates]]")
    for key in ("checkpoint_weights", "checkpoint_entry"):
        if getattr(suite, key) != "" and not suite.checkpoint:
            raise SuiteError(f"{where}: found {key} without checkpoint; leave it out")
    _check_tolerances(suite, f"{where}, [tolerances]")
    _check_metrics(suite.evaluators, f"{where}, [[evaluators]]")
    _check_held_out(suite, f"{where}, [conditions]")


def _check_some(suite: Suite) -> None:
    if not suite.producers and not suite.candidates:
        raise SuiteError(
            f"{suite.source}, [[producers]]: found none, and no [[candidates]]; "
            "expected at least one producer or finished model"
        )
    if not suite.evaluators:
        raise SuiteError(f"{suite.source}, [[evaluators]]: found none, expected at least one evaluator")


def _check_size(suite: Suite) -> None:
    """Refuses sizes that are mistakes: their plan alone would take minutes and gigabytes."""
    ratios, methods, seeds = len(suite.ratios), len(suite.producers), len(suite.seeds)
    if ratios > MAX_RATIOS:
        raise SuiteError(
            f"{suite.source}: found {ratios:,} ratios, expected at most {MAX_RATIOS:,}; leave some out: models "
            "that differ by a few weights cannot be distinguished"
        )
    models = seeds * (1 + methods * ratios) + len(suite.candidates)
    if models > MAX_CANDIDATES:
        raise SuiteError(
            f"{suite.source}: found {models:,} models ({seeds:,} seeds, {methods} methods, {ratios:,} ratios), "
            f"expected at most {MAX_CANDIDATES:,}; leave some out, or make several suites of it"
        )


def _check_candidates(suite: Suite, where: str) -> None:
    taken = {*RESERVED, *(config.label for config in suite.producers)}
    for candidate in suite.candidates:
        if candidate.method in taken or not candidate.method.strip():
            raise SuiteError(
                f"{where}, {candidate.file}: the method {candidate.method!r} is taken or empty; name another"
            )
        if candidate.seed not in suite.seeds:
            raise SuiteError(
                f"{where}, {candidate.file}: found seed {candidate.seed}, expected one of {first_few(suite.seeds, 8)}"
            )
        if candidate.ratio is not None and not 0 <= candidate.ratio < 1:
            raise SuiteError(
                f"{where}, {candidate.file}: found ratio {candidate.ratio}, expected the share removed, in [0, 1)"
            )


def _check_tolerances(suite: Suite, where: str) -> None:
    reported = suite.metrics
    for name, tolerance in suite.tolerances.items():
        if name not in reported:
            raise SuiteError(
                f"{where}: no evaluator of this suite reports metric {name!r}: {unknown_name('metric', name, reported)}"
            )
        try:
            parse_limits(tolerance)
        except UserError as error:
            raise SuiteError(f"{where}: {name}: {error}") from None
        if reported[name].higher_is_better is None:
            raise SuiteError(f"{where}: {name} has no direction, so no tolerance; leave it out")


def _check_metrics(evaluators: tuple[PluginConfig[Evaluator], ...], where: str) -> None:
    """Two evaluators may share a metric (accuracy under noise is accuracy) but must mean the same by it."""
    seen: dict[str, Metric] = {}
    for config in evaluators:
        for metric in config.plugin.metrics:
            if seen.setdefault(metric.name, metric) != metric:
                raise SuiteError(
                    f"{where}, {config.name}: another evaluator means something else by {metric.name!r}"
                )


def _check_held_out(suite: Suite, where: str) -> None:
    """No training may see what is held out: then it would not be."""
    recipes = (suite.recipe, suite.retraining, *suite.retrainings.values())
    for kind in dict.fromkeys(kind for recipe in recipes for kind in recipe.all_corruptions):
        if suite.conditions and suite.conditions.holds_out(kind):
            raise SuiteError(
                f"{where}: found {kind} in held_out, but a recipe trains on it (corruptions); name it in train"
            )


def valid_accuracy(accuracy: float | None, where: str) -> float | None:
    """Returns the published accuracy of the parent, where the suite has it.

    Raises:
        SuiteError: If it is no share of images.
    """
    if accuracy is not None and not 0 < accuracy <= 1:
        raise SuiteError(f"{where}: found parent_accuracy = {accuracy}, expected a share of images in (0, 1]")
    return accuracy


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
        raise SuiteError(
            f"{where}: found ratios = [{first_few(ratios, 8)}], expected rising numbers without repeats"
        )
    return ratios


def valid_seeds(seeds: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Returns the seeds of a suite.

    Raises:
        SuiteError: If they are not different integers from 0 on.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise SuiteError(
            f"{where}: found seeds = [{first_few(seeds, 8)}], expected different integers from 0 on"
        )
    return seeds


def valid_threads(threads: int, where: str) -> int:
    """Returns the number of threads of each computation.

    Raises:
        SuiteError: If it is below 1.
    """
    if threads < 1:
        raise SuiteError(f"{where}: found threads = {threads}, expected at least 1")
    return threads
