"""From a long-format table, one number per row, to curves: checked, paired with parents, arranged along axes.

The axes are methods, seeds, pairs of metric and condition, and indices into the method's grid of target ratios, so
that the seeds of a method have the same index although their measured ratios differ.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.errors import UnknownNameError, UserError
from evalsuite.registry import unknown_name
from evalsuite.thresholds.curves import Curves, is_test_against
from evalsuite.tolerances import OTHER_CONDITIONS, Limit, limit_for, parse_limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.tolerances import Rule, Tolerance
    from evalsuite.types import Floats

REQUIRED = ("method", "ratio", "metric", "condition", "value")
BOUND_COLUMNS = ("drop_low", "drop_high", "drop_upper_95", "drop_lower_simultaneous")
TEST_COLUMNS = ("noninferiority_p", "inferiority_p", "drop_tolerance", "test")
RENAMED_COLUMNS = {
    "drop_upper": "drop_upper_95",
    "drop_floor": "drop_lower_simultaneous",
    "drop_p": "noninferiority_p",
}
"""Columns in tables of earlier versions, with their names now."""
RESULTS = ("value", "drop", *BOUND_COLUMNS, *TEST_COLUMNS, "n")
NUMBERS = ("ratio", "target_ratio", "chance", "grid", *RESULTS)
DIRECTION_HINT = "give a column higher_is_better with True or False, or the argument higher_is_better"
SHARES = re.compile(
    r"accuracy|auroc|aupr|fpr|ece|(?<![a-z])(acc|top[-_@ ]?[15]|f1|m?iou|precision|recall|error_rate)(?![a-z])",
    re.IGNORECASE,
)
"""Names of metrics that are shares, or what they contain: in [0, 1], or in percent."""
LEAST_PERCENT = 0.05
"""Percentage points below which a tolerance of a percentage was rather meant as a share."""
OPTIONAL: dict[str, Any] = {
    "seed": 0,
    "target_ratio": np.nan,
    "group": "",
    "n": np.nan,
    "unit": "",
    "status": "ok",
    "reason": "",
    "drop": np.nan,
    **dict.fromkeys((*BOUND_COLUMNS, *TEST_COLUMNS), np.nan),
    "chance": np.nan,
    "grid": 0,
    "higher_is_better": None,
}


@dataclass(frozen=True, slots=True)
class TableAxes:
    """The labels of the axes of curves with shape (methods, seeds, pairs, ratio indices).

    Attributes:
        methods: Labels in order of first appearance.
        seeds: Training seeds in order of first appearance.
        pairs: A row for each metric and condition, with columns metric, condition, group, unit, chance,
            higher_is_better, and limit (`evalsuite.tolerances.Limit`).
        grids: Target ratios of each method, rising.
    """

    methods: list[Any]
    seeds: list[Any]
    pairs: pd.DataFrame
    grids: list[list[float]]


def curves_of_table(
    frame: pd.DataFrame, tolerance: Rule | Mapping[str, Tolerance], directions: Mapping[str, bool]
) -> tuple[TableAxes, Curves]:
    """Returns the curves of a table, and their labels.

    Args:
        frame: See `evalsuite.thresholds.threshold.thresholds`.
        tolerance: One for all metrics that have a direction, or one for each metric of interest.
        directions: Whether higher is better, by metric; overrides the column ``higher_is_better``.

    Raises:
        UserError: If a column or a value that is needed is missing or contradictory.
    """
    table = _checked_table(frame)
    higher_is_better = _unique_values(table, ["metric"], "higher_is_better") | dict(directions)
    rules = _limits_by_metric(tolerance, list(dict.fromkeys(table["metric"])), higher_is_better)
    conditions = pd.Index(table["condition"].unique())
    table = table[table["metric"].isin(list(rules))].reset_index(drop=True)
    groups = _unique_values(table, ["metric", "condition"], "group")
    _check_conditions(rules, groups, table)
    pairs = table[["metric", "condition"]].drop_duplicates()
    keys = zip(pairs["metric"], pairs["condition"], strict=True)
    pair_limits: list[Any] = [limit_for(rules[key[0]], key[1], groups.get(key, "")) for key in keys]
    pairs["limit"] = pair_limits
    pairs = pairs[pairs["limit"].notna()]
    order = np.lexsort((conditions.get_indexer(pairs["condition"]), pd.factorize(pairs["metric"])[0]))
    pairs = pairs.iloc[order].reset_index(drop=True)
    units = _unique_values(table, ["metric"], "unit")
    keys = zip(pairs["metric"], pairs["condition"], strict=True)
    pairs["group"] = [groups.get(key, "") for key in keys]
    chances = _unique_values(table, ["metric"], "chance")
    pairs["chance"] = [chances.get(metric, np.nan) for metric in pairs["metric"]]
    pairs["unit"] = [units.get(metric, "") for metric in pairs["metric"]]
    _check_shares(table, pairs)
    pairs["higher_is_better"] = [higher_is_better[metric] for metric in pairs["metric"]]
    with_limit = pd.MultiIndex.from_frame(pairs[["metric", "condition"]])
    selected = pd.MultiIndex.from_frame(table[["metric", "condition"]]).isin(with_limit)
    return _curves_of_rows(table[selected].reset_index(drop=True), pairs)


def _check_shares(table: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Refuses shares in percent with a tolerance of a share: it would be a hundredth of what was meant."""
    largest = table.groupby("metric", sort=False)["value"].max()
    for metric, unit, limit in zip(pairs["metric"], pairs["unit"], pairs["limit"], strict=True):
        share = SHARES.search(str(metric)) and not unit
        if share and 1 < largest[metric] <= 100 and not limit.relative and limit.amount < LEAST_PERCENT:
            raise UserError(
                f"{metric} holds values up to {largest[metric]:g}, more than a share has, and its tolerance is "
                f"{limit.amount:g}: divide percentages by 100, or say that the tolerance has the same unit by a column "
                "unit with '%'"
            )


def with_current_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with the present names of columns that earlier versions called otherwise.

    Args:
        frame: Measurements, or bounds over seeds; a column whose present name exists as well is left alone.
    """
    renamed = {old: new for old, new in RENAMED_COLUMNS.items() if old in frame and new not in frame}
    for old, new in renamed.items():
        warnings.warn(
            f"column {old!r} is now called {new!r}; rename it, for the next version ignores the old name",
            DeprecationWarning,
            stacklevel=3,
        )
    return frame.rename(columns=renamed)


def _check_conditions(
    rules: Mapping[str, Mapping[str, Limit]], groups: Mapping[Any, str], table: pd.DataFrame
) -> None:
    """Refuses tolerances of conditions that the table does not have."""
    for metric, by_condition in rules.items():
        conditions = table.loc[table["metric"] == metric, "condition"]
        names = {
            OTHER_CONDITIONS,
            *conditions,
            *(group for (name, _), group in groups.items() if name == metric),
        }
        if unmatched := [condition for condition in by_condition if condition not in names]:
            raise UnknownNameError(
                f"tolerance of {metric} on an {unknown_name('condition', unmatched[0], names - {OTHER_CONDITIONS})}"
            )


def _checked_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with all columns, numeric columns as float64, and NaN where nothing was measured."""
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise UserError(
            f"the table has no column {', '.join(missing)}; thresholds need {', '.join(REQUIRED)}"
        )
    table = frame.reset_index(drop=True)
    table = table.assign(**{name: value for name, value in OPTIONAL.items() if name not in frame})
    for name in NUMBERS:
        table[name] = _numbers(table[name])
    for name in ("method", "seed", "metric", "condition"):
        if table[name].isna().any():
            row = int(table[name].isna().to_numpy().argmax())
            raise UserError(f"row {row} of the table has no {name}; every row must name it")
    missing_number = table["status"] != "ok"  # a candidate that could not be made has no measured ratio
    table.loc[missing_number, "ratio"] = table["ratio"].fillna(table["target_ratio"])[missing_number]
    outside = ~table["ratio"].between(0, 1, inclusive="left")
    if outside.any():
        raise UserError(
            f"{_first_row(table, outside)}: the ratio must be in [0, 1), and 0 for the parent only"
        )
    table["target_ratio"] = table["target_ratio"].fillna(table["ratio"])
    table.loc[missing_number, list(RESULTS)] = np.nan
    wrong = table["n"].notna() & ((table["n"] < 1) | (table["n"] % 1 != 0))
    if wrong.any():
        raise UserError(
            f"{_first_row(table, wrong)}: n is the number of images and must be a whole number above 0"
        )
    _check_unique(table)
    return table


def _numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    wrong = numbers.isna() & column.notna()
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise UserError(
            f"column {column.name!r} has {column.iloc[row]!r} in row {row}; it must hold numbers, "
            "and nothing where a number is missing"
        )
    return numbers


def _check_unique(table: pd.DataFrame) -> None:
    parent = table["ratio"] == 0
    twice = parent & table[parent].duplicated(["seed", "metric", "condition"]).reindex(
        table.index, fill_value=False
    )
    if twice.any():
        raise UserError(
            f"{_first_row(table, twice)}: a second parent; give one row with ratio 0, which all methods share"
        )
    keys = ["method", "seed", "metric", "condition", "target_ratio"]
    for name, columns in (("ratio", [*keys, "ratio"]), ("target_ratio", keys)):
        twice = ~parent & table.duplicated(columns)
        if twice.any():
            raise UserError(
                f"{_first_row(table, twice)}: a second row with this {name}; give one row for each"
            )


def _first_row(table: pd.DataFrame, marked: pd.Series[bool]) -> str:
    """The keys of the first row that is marked, for a message."""
    row = table[marked].iloc[0]
    names = ("method", "seed", "ratio", "metric", "condition")
    return ", ".join(f"{name} {row[name]!s}" for name in names)


def _unique_values(table: pd.DataFrame, keys: list[str], column: str) -> dict[Any, Any]:
    """The one value of `column` for each key that has any."""
    filled = table[table[column].notna() & (table[column] != "")]
    pairs = filled[[*keys, column]].drop_duplicates()
    twice = pairs.duplicated(keys)
    if twice.any():
        key = pairs.loc[twice, keys].iloc[0]
        both = pairs.loc[(pairs[keys] == key).all(axis=1), column].tolist()
        name = ", ".join(f"{kind} {key[kind]!r}" for kind in keys)
        raise UserError(f"{name} has two values of {column}: {both[0]!r} and {both[1]!r}; give one")
    labels = pairs[keys[0]] if len(keys) == 1 else zip(*(pairs[name] for name in keys), strict=True)
    return dict(zip(labels, pairs[column], strict=True))


def _limits_by_metric(
    tolerance: Rule | Mapping[str, Tolerance], metrics: list[str], directions: Mapping[str, bool]
) -> dict[str, dict[str, Limit]]:
    """The limits of each metric that gets thresholds."""
    by_metric = isinstance(tolerance, Mapping)
    if isinstance(tolerance, Mapping):
        rules = {name: parse_limits(value, of=f" of metric {name!r}") for name, value in tolerance.items()}
    else:
        rules = {
            name: parse_limits(tolerance, of=f" of metric {name!r}") for name in metrics if name in directions
        }
        if metrics and not rules:
            raise UserError(f"no direction is known for {', '.join(metrics)}; {DIRECTION_HINT}")
    for name in rules:
        if by_metric and name not in metrics:
            raise UnknownNameError(f"tolerance for an {unknown_name('metric', name, metrics)}")
        if directions.get(name) not in (True, False):
            raise UserError(f"the direction of metric {name!r} is not known; {DIRECTION_HINT}")
    return rules


def _curves_of_rows(table: pd.DataFrame, pairs: pd.DataFrame) -> tuple[TableAxes, Curves]:
    """The table as arrays of shape (methods, seeds, pairs, ratio indices)."""
    rows, references, (seed, seeds), pair = _beside_parents(table, pairs)
    method, methods = pd.factorize(rows["method"])
    index = _ratio_indices(method, rows["target_ratio"].to_numpy())
    shape = (len(methods), len(seeds), len(pairs), int(index.max(initial=-1)) + 1)

    def spread(numbers: pd.Series[Any] | Floats, empty: float = np.nan) -> Floats:
        array = np.full(shape, empty)
        array[method, seed, pair, index] = numbers
        return array

    limits_of_pairs = np.broadcast_to(_largest_drops(pairs, references), shape[:3])
    same_test = is_test_against(spread(rows["drop_tolerance"]), limits_of_pairs)
    curves = Curves(
        ratios=spread(rows["ratio"]),
        drops=spread(_drops(rows)),
        widths=spread(rows["drop_high"] - rows["drop_low"]),
        highs=spread(rows["drop_high"]),
        uppers=spread(rows["drop_upper_95"]),
        simultaneous_lowers=spread(rows["drop_lower_simultaneous"]),
        method_uppers=np.full(shape, np.nan),
        noninferiority_ps=np.where(same_test, spread(rows["noninferiority_p"]), np.nan),
        inferiority_ps=np.where(same_test, spread(rows["inferiority_p"]), np.nan),
        codes=spread(rows["test"]),
        scales=spread(_scales(rows), 1.0),
        reference=np.broadcast_to(references, shape[:3]),
        limits=limits_of_pairs,
        n=np.fmin.reduce(spread(rows["n"]), axis=-1, initial=np.nan),
        partial=np.zeros(shape[:3], dtype=bool),
        grid=spread(rows["grid"].fillna(0), 0.0).max(axis=-1, initial=0.0),
    )
    grids = [sorted(set(rows["target_ratio"].to_numpy()[method == m])) for m in range(len(methods))]
    return TableAxes(methods.tolist(), seeds.tolist(), pairs, grids), curves


def _beside_parents(
    table: pd.DataFrame, pairs: pd.DataFrame
) -> tuple[pd.DataFrame, Floats, tuple[NDArray[np.intp], pd.Index[Any]], NDArray[np.intp]]:
    """The rows of candidates beside their parents' values.

    Returns:
        The rows, with columns ``reference`` and ``higher_is_better``; the parents' values, shape (seeds, pairs); per
        row the index of its seed, with the seeds; and per row the index of its pair.
    """
    seed, seeds = pd.factorize(table["seed"])
    pair = pd.MultiIndex.from_frame(pairs[["metric", "condition"]]).get_indexer(
        pd.MultiIndex.from_frame(table[["metric", "condition"]])
    )
    references = np.full((len(seeds), len(pairs)), np.nan)
    parent = _parents(table, seed * len(pairs) + pair)
    references[seed[parent], pair[parent]] = table["value"].to_numpy()[parent]
    rows = table.assign(
        reference=references[seed, pair],
        higher_is_better=pairs["higher_is_better"].to_numpy(dtype=bool)[pair],
    )[~parent]
    return rows, references, (seed[~parent], seeds), pair[~parent]


def _largest_drops(pairs: pd.DataFrame, references: Floats) -> Floats:
    """The largest commensurate drop given each parent's value, shape (seeds, pairs)."""
    amount = np.array([rule.amount for rule in pairs["limit"]], dtype=np.float64)
    relative = np.array([rule.relative for rule in pairs["limit"]], dtype=np.bool_)
    drops: Floats = np.where(relative, amount * np.abs(references), amount)
    return drops


def _parents(table: pd.DataFrame, key: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which rows are parents; every row must have a parent of its `key` (seed, metric and condition)."""
    parent = (table["ratio"] == 0).to_numpy()
    without = pd.Series(~np.isin(key, key[parent]), index=table.index)
    if without.any():
        raise UserError(
            f"{_first_row(table, without)}: no parent; give a row with ratio 0 of this seed, metric and condition"
        )
    return parent


def _drops(rows: pd.DataFrame) -> Floats:
    """The column ``drop``, or where it is empty the difference of the values in the direction of the metric."""
    reference, value = rows["reference"].to_numpy(), rows["value"].to_numpy()
    with np.errstate(invalid="ignore"):  # two infinite values have no difference
        worse = np.where(rows["higher_is_better"], reference - value, value - reference)
    return np.where(rows["drop"].isna(), worse, rows["drop"])


def _scales(rows: pd.DataFrame) -> Floats:
    """The magnitude that decides how far a drop may be rounded; infinite values fail with any."""
    largest = np.fmax(rows["reference"].abs(), rows["value"].abs())
    return np.where(np.isfinite(largest), np.maximum(largest, 1.0), 1.0)


def _ratio_indices(method: NDArray[np.intp], target: Floats) -> NDArray[np.intp]:
    """The rank of each row's target ratio within its method."""
    steps = np.unique(np.stack([method.astype(np.float64), target], axis=1), axis=0, return_inverse=True)
    first = np.searchsorted(steps[0][:, 0], method)
    return np.asarray(steps[1]).reshape(-1) - first
