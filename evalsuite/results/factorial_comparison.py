"""Two methods under two recipes: whether one is better, or only better trained."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pandas as pd

from evalsuite.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from evalsuite.results.run import Run

COLUMNS = (
    *("target_ratio", "recipe", "other_recipe", "method", "other_method"),
    *("value", "other_value", "value_other_recipe", "other_value_other_recipe"),
    *("low", "high", "low_other_recipe", "high_other_recipe", "winner", "verdict"),
)


def factorial_comparison(run: Run, *, metric: str = "accuracy", condition: str = "clean") -> pd.DataFrame:
    """Returns, for each pair of methods and pair of recipes of a run, who wins under each recipe.

    A suite makes the cross by giving the same producers twice, under two labels, with a ``retraining`` of their own.
    The same winner under both recipes speaks for the method, if it is more than chance; a mixed outcome says that
    pruning and recipe interact, and all four numbers have to be reported, of which the best weighs most.

    Args:
        run: At least two methods, each retrained by the same two recipes.
        metric: What is compared, as a mean over the seeds.
        condition: Under which condition.

    Returns:
        One row per pair and target ratio that all four candidates have; ``winner`` is empty where they are mixed or
        equal. ``low`` and ``high`` hold, with 95 % for each recipe, by how much the second method is worse, these
        networks fixed and the images a sample: ``the methods differ`` says that both intervals lie on one side of 0.
        Neither says what other seeds would do, and the rows are not corrected for their number.

    Raises:
        UserError: If the run has no two methods under the same two recipes, or the metric has no better direction.

    References:
        Wang et al. 2023, "Why is the state of neural network pruning so confusing?", arXiv 2301.05219.
    """
    values, better = _values(run, metric, condition)
    crossed, between = _crossed(run.record["suite"]), partial(_between, run, (metric, condition))
    rows = [
        row
        for recipes in combinations(sorted({recipe for _, recipe in crossed}), 2)
        for methods in combinations(sorted({method for method, _ in crossed}), 2)
        if all((method, recipe) in crossed for method in methods for recipe in recipes)
        for row in _rows(values, crossed, (methods, recipes), between, better=better)
    ]
    if not rows:
        raise UserError(
            f"{run.path} has no two methods under the same two recipes with numbers for {metric} on {condition}; give "
            "the same two producers twice in a suite, the second time with a label and a retraining of their own"
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _between(run: Run, named: tuple[str, str], labels: tuple[str, str], target: float) -> tuple[float, float]:
    return run.comparison.between(labels, target, named)


def _values(run: Run, metric: str, condition: str) -> tuple[dict[tuple[str, float], float], int]:
    """Mean over the seeds by producer's label and target ratio; and 1 where higher is better, else -1."""
    table = run.measurements
    mine = table[(table["metric"] == metric) & (table["condition"] == condition) & (table["status"] == "ok")]
    if len(mine) and mine["higher_is_better"].isna().all():
        raise UserError(f"of {metric} nobody can say which value is better; compare another metric")
    means: Any = mine.groupby(["method", "target_ratio"])["value"].mean()
    found = {(str(label), float(ratio)): float(value) for (label, ratio), value in means.items()}
    return found, 1 if mine["higher_is_better"].eq(True).any() else -1  # of a column, not a switch


def _crossed(suite: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Method and recipe to the producer's label; a method is called after the first producer of its settings."""
    recipes: list[Any] = []
    methods: list[tuple[str, Any]] = []
    found = {}
    for choice in suite["producers"]:
        settings = {key: value for key, value in choice.items() if key != "label"}
        recipe = suite.get("retrainings", {}).get(choice["label"], suite["retraining"])
        if recipe not in recipes:
            recipes.append(recipe)
        if settings not in [known for _, known in methods]:
            methods.append((str(choice["label"]), settings))
        method = next(label for label, known in methods if known == settings)
        found[method, f"recipe {recipes.index(recipe) + 1}"] = str(choice["label"])
    return found


def _rows(
    values: Mapping[tuple[str, float], float],
    labels: Mapping[tuple[str, str], str],
    cross: tuple[tuple[str, str], tuple[str, str]],
    between: Callable[[tuple[str, str], float], tuple[float, float]],
    *,
    better: int,
) -> Iterator[dict[str, Any]]:
    """One row per ratio that all four corners of the cross of methods and recipes have."""
    methods, recipes = cross
    corners = [(method, recipe) for recipe in recipes for method in methods]
    names = [labels[corner] for corner in corners]
    for ratio in sorted({ratio for _, ratio in values if ratio}):
        found = [values[name, ratio] for name in names if (name, ratio) in values]
        if len(found) < len(names):
            continue
        ends = [between((names[at], names[at + 1]), ratio) for at in (0, 2)]
        a, b, c, d = (better * number for number in found)
        signs = _sign(a - b), _sign(c - d)
        winner = methods[0 if signs[0] > 0 else 1] if signs[0] == signs[1] != 0 else ""
        best = corners[max(range(4), key=lambda place: better * found[place])]
        row = (ratio, *recipes, *methods, *found, *ends[0], *ends[1], winner, _verdict(signs, ends, best))
        yield dict(zip(COLUMNS, row, strict=True))


def _verdict(signs: tuple[int, int], ends: Sequence[tuple[float, float]], best: tuple[str, str]) -> str:
    if signs[0] != signs[1]:
        return f"mixed: report all four, of which {best[0]} under {best[1]} is best"
    if not signs[0]:
        return "no difference"
    apart = all(low > 0 or high < 0 for low, high in ends)
    return "the methods differ" if apart else "the same winner, perhaps by chance"


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
