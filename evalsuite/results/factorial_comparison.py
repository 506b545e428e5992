"""Factorial comparison: two methods under two recipes, which shows whether one is better, or only better trained."""

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
    """Returns, for each pair of methods and pair of recipes of a run, which method wins under each recipe.

    A suite makes the 2x2 design by giving the same producers twice, under two labels, with a ``retraining`` of their
    own. The same winner under both recipes is evidence for the method, if it is more than chance; a mixed outcome
    means that pruning and recipe interact, and all four numbers have to be reported.

    Args:
        run: At least two methods, each retrained by the same two recipes.
        metric: Metric that is compared, as a mean over the seeds.
        condition: Condition under which it is compared.

    Returns:
        One row per pair and target ratio that all four candidates have; ``winner`` is empty where they are mixed or
        equal. ``low`` and ``high`` hold, with 95 % for each recipe, by how much the second method is worse, these
        networks fixed and the images a sample: the verdict ``the methods differ`` means that neither interval holds 0.
        Neither is about other seeds, and the rows are not corrected for their number.

    Raises:
        UserError: If the run has no two methods under the same two recipes, or the metric has no direction.

    References:
        Wang et al. 2023, "Why is the state of neural network pruning so confusing?", arXiv 2301.05219.
    """
    values, sign = _mean_values(run, metric, condition)
    labels, between = _labels_by_recipe(run.record["suite"]), partial(_between, run, (metric, condition))
    rows = [
        row
        for recipes in combinations(sorted({recipe for _, recipe in labels}), 2)
        for methods in combinations(sorted({method for method, _ in labels}), 2)
        if all((method, recipe) in labels for method in methods for recipe in recipes)
        for row in _rows(values, labels, (methods, recipes), between, sign=sign)
    ]
    if not rows:
        raise UserError(
            f"{run.path} has no two methods under the same two recipes with numbers for {metric} on {condition}; give "
            "the same two producers twice in a suite, the second time with a label and a retraining of their own"
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _between(run: Run, of: tuple[str, str], labels: tuple[str, str], target: float) -> tuple[float, float]:
    return run.comparison.between(labels, target, of)


def _mean_values(run: Run, metric: str, condition: str) -> tuple[dict[tuple[str, float], float], int]:
    """Mean over the seeds by producer's label and target ratio; and 1 where higher is better, else -1."""
    table = run.measurements
    rows = table[(table["metric"] == metric) & (table["condition"] == condition) & (table["status"] == "ok")]
    if len(rows) and rows["higher_is_better"].isna().all():
        raise UserError(
            f"metric {metric} has no direction, so that no value is better; compare another metric"
        )
    means: Any = rows.groupby(["method", "target_ratio"])["value"].mean()
    values = {(str(label), float(ratio)): float(value) for (label, ratio), value in means.items()}
    return values, 1 if rows["higher_is_better"].eq(
        True
    ).any() else -1  # eq: the column may have missing values


def _labels_by_recipe(suite: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Method and recipe to the producer's label; a method has the name of the first producer with its settings."""
    recipes: list[Any] = []
    methods: list[tuple[str, Any]] = []
    labels = {}
    for producer in suite["producers"]:
        if producer.get("dense"):
            continue  # a control of one recipe is no method
        settings = {key: value for key, value in producer.items() if key != "label"}
        recipe = suite.get("retrainings", {}).get(producer["label"], suite["retraining"])
        if recipe not in recipes:
            recipes.append(recipe)
        if settings not in [others for _, others in methods]:
            methods.append((str(producer["label"]), settings))
        method = next(label for label, others in methods if others == settings)
        labels[method, f"recipe {recipes.index(recipe) + 1}"] = str(producer["label"])
    return labels


def _rows(
    values: Mapping[tuple[str, float], float],
    labels: Mapping[tuple[str, str], str],
    design: tuple[tuple[str, str], tuple[str, str]],
    between: Callable[[tuple[str, str], float], tuple[float, float]],
    *,
    sign: int,
) -> Iterator[dict[str, Any]]:
    """One row per ratio that all four cells of the design of methods and recipes have."""
    methods, recipes = design
    cells = [(method, recipe) for recipe in recipes for method in methods]
    names = [labels[cell] for cell in cells]
    for ratio in sorted({ratio for _, ratio in values if ratio}):
        means = [values[name, ratio] for name in names if (name, ratio) in values]
        if len(means) < len(names):
            continue
        ends = [between((names[first], names[first + 1]), ratio) for first in (0, 2)]
        a, b, c, d = (sign * mean for mean in means)
        signs = _sign(a - b), _sign(c - d)
        winner = methods[0 if signs[0] > 0 else 1] if signs[0] == signs[1] != 0 else ""
        best = cells[max(range(4), key=lambda index: sign * means[index])]
        row = (ratio, *recipes, *methods, *means, *ends[0], *ends[1], winner, _verdict(signs, ends, best))
        yield dict(zip(COLUMNS, row, strict=True))


def _verdict(signs: tuple[int, int], ends: Sequence[tuple[float, float]], best: tuple[str, str]) -> str:
    if signs[0] != signs[1]:
        return f"mixed: report all four, of which {best[0]} under {best[1]} is best"
    if not signs[0]:
        return "no difference"
    significant = all(low > 0 or high < 0 for low, high in ends)
    return "the methods differ" if significant else "the same winner, perhaps by chance"


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
