"""How candidates are retrained: the recipe of each method, and the controls that retrain and prune nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalsuite.errors import SuiteError
from evalsuite.plugin_config import PluginConfig, build
from evalsuite.training.published_recipes import merge_recipe
from evalsuite.training.recipe import Recipe

if TYPE_CHECKING:
    from evalsuite.producers.base import Producer

RETRAINING = "retraining"
"""Key of a producer's table that the suite reads itself: how the candidates are retrained."""
CONTROL = "dense-retrained"
"""The producer that retrains and prunes nothing."""
WITHOUT_RETRAINING = tuple(
    f"evalsuite.producers.{module}"
    for module in ("at_init.", "baselines.scratch", "baselines.thin", "baselines.lottery_tickets")
)
"""Modules of methods that train by the parent's recipe: retraining the parent is no control of theirs."""


def is_retrained(config: PluginConfig[Producer]) -> bool:
    """Whether a method retrains the parent; else it starts each ratio from first or earlier weights."""
    return not type(config.plugin).__module__.startswith(WITHOUT_RETRAINING)


def control_tables(
    producers: Sequence[PluginConfig[Producer]],
    tables: Sequence[Mapping[str, Any]],
    control: bool | None,
    where: str,
) -> list[dict[str, Any]]:
    """Returns tables of a control for each way of retraining that has none, unless the suite leaves them out.

    Args:
        producers: The methods of the suite.
        tables: Their tables.
        control: The suite's key ``control``; ``None`` where it has none.
        where: Place in a file, for error messages.

    Raises:
        SuiteError: If the suite says that it has or has no control where it makes no difference.
    """
    ways: dict[str, dict[str, Any]] = {}
    for config, table in zip(producers, tables, strict=True):
        if not is_retrained(config):
            continue
        settings = {key: table[key] for key in (RETRAINING,) if key in table}
        if getattr(config.plugin, "schedule", "") == "one-shot":
            settings["schedule"] = "one-shot"
        way = ways.setdefault(json.dumps(settings, sort_keys=True, default=str), {"settings": settings})
        way.setdefault("control" if config.plugin.dense else "method", config.label)
    missing = [way for way in ways.values() if "control" not in way]
    if control is not None and not missing:
        mistake = f"found control = {str(control).lower()}, which has no effect"
        raise SuiteError(
            f"{where}: {mistake}: no method here is retrained without a control in [[producers]]; leave it out"
        )
    if control is False:
        return []
    labels = {config.label for config in producers}
    added = []
    for way in missing:
        label = CONTROL if CONTROL not in labels else f"{CONTROL}, as {way['method']}"
        labels.add(label)
        added.append({"name": CONTROL, "label": label, **way["settings"]})
    return added


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
        producers: Tables of producers; the key `RETRAINING` is a recipe's name, or a table.
        under: Keys that hold where such a table says nothing else.
        where: Place in a file, for error messages.

    Raises:
        SuiteError: If one is no recipe.
    """
    recipes = {}
    for table in producers:
        recipe, label = table.get(RETRAINING), str(table.get("label", table.get("name")))
        if recipe is not None and not isinstance(recipe, str | dict):
            raise SuiteError(
                f"{where}, {label}: found {RETRAINING} = {recipe!r}, expected a recipe's name or a table"
            )
        if recipe is not None:
            keys = {"name": recipe} if isinstance(recipe, str) else recipe
            recipes[label] = build_recipe(keys, under, f"{where}, {label}")
    return recipes
