"""A tidy table of anybody's numbers, one per row, to curves: checked, paired with parents, sorted into axes.

The axes are methods, seeds, pairs of metric and condition, and slots. A slot is one rung of a method's
ladder of target ratios, so that the seeds of a method meet in the same slot although their measured ratios
differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.errors import UnknownNameError, UserError
from evalsuite.registry import unknown
from evalsuite.thresholds.curves import Curves, about
from evalsuite.tolerances import REST, Limit, applying, limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.tolerances import Rule, Tolerance
    from evalsuite.types import Floats

REQUIRED = ("method", "ratio", "metric", "condition", "value")
LIMITS = ("drop_low", "drop_high", "drop_upper", "drop_floor")
TEST = ("drop_p", "drop_tolerance")
RESULTS = ("value", "drop", *LIMITS, *TEST, "n")
NUMBERS = ("ratio", "target_ratio", "chance", *RESULTS)
DIRECTION_HINT = "give a column higher_is_better with True or False, or the argument higher_is_better"
OPTIONAL: dict[str, Any] = {
    "seed": 0,
    "target_ratio": np.nan,
    "group": "",
    "n": np.nan,
    "unit": "",
    "status": "ok",
    "reason": "",
    "drop": np.nan,
    **dict.fromkeys((*LIMITS, *TEST), np.nan),
    "chance": np.nan,
    "higher_is_better": None,
}


@dataclass(frozen=True, slots=True)
class TableAxes:
    """Are the labels of the axes of curves with shape (methods, seeds, pairs, slots).

    Attributes:
        methods: Labels in order of first appearance.
        seeds: Training seeds in order of first appearance.
        pairs: A row for each metric and condition, with columns metric, condition, group, unit, chance,
            higher_is_better, and limit (`evalsuite.tolerances.Limit`).
        ladders: Target ratios of each method, rising: one for each slot that it uses.
    """

    methods: list[Any]
    seeds: list[Any]
    pairs: pd.DataFrame
    ladders: list[list[float]]


def curves_of_table(
    frame: pd.DataFrame, tolerance: Rule | Mapping[str, Tolerance], directions: Mapping[str, bool]
) -> tuple[TableAxes, Curves]:
    """Returns the curves of a table, and their labels.

    Args:
        frame: See `evalsuite.thresholds.threshold.thresholds`.
        tolerance: One for all metrics that have a direction, or one for each metric of interest.
        directions: Whether higher is better, by metric; overrides the column ``higher_is_better``.

    Raises:
        UserError: If the table does not say what it must.
    """
    table = _checked(frame)
    known = _constant(table, ["metric"], "higher_is_better") | dict(directions)
    rules = _rules(tolerance, list(dict.fromkeys(table["metric"])), known)
    conditions = pd.Index(table["condition"].unique())
    table = table[table["metric"].isin(list(rules))].reset_index(drop=True)
    groups = _constant(table, ["metric", "condition"], "group")
    _check_named(rules, groups, table)
    pairs = table[["metric", "condition"]].drop_duplicates()
    keys = zip(pairs["metric"], pairs["condition"], strict=True)
    allowed: list[Any] = [applying(rules[key[0]], key[1], groups.get(key, "")) for key in keys]
    pairs["limit"] = allowed
    pairs = pairs[pairs["limit"].notna()]
    order = np.lexsort((conditions.get_indexer(pairs["condition"]), pd.factorize(pairs["metric"])[0]))
    pairs = pairs.iloc[order].reset_index(drop=True)
    units = _constant(table, ["metric"], "unit")
    keys = zip(pairs["metric"], pairs["condition"], strict=True)
    pairs["group"] = [groups.get(key, "") for key in keys]
    chances = _constant(table, ["metric"], "chance")
    pairs["chance"] = [chances.get(metric, np.nan) for metric in pairs["metric"]]
    pairs["unit"] = [units.get(metric, "") for metric in pairs["metric"]]
    pairs["higher_is_better"] = [known[metric] for metric in pairs["metric"]]
    judged = pd.MultiIndex.from_frame(pairs[["metric", "condition"]])
    inside = pd.MultiIndex.from_frame(table[["metric", "condition"]]).isin(judged)
    return _pivoted(table[inside].reset_index(drop=True), pairs)


def _check_named(
    rules: Mapping[str, Mapping[str, Limit]], groups: Mapping[Any, str], table: pd.DataFrame
) -> None:
    """A rule for a condition that nobody measured is a mistake."""
    for metric, by_condition in rules.items():
        own = table.loc[table["metric"] == metric, "condition"]
        known = {REST, *own, *(group for (name, _), group in groups.items() if name == metric)}
        if strange := [where for where in by_condition if where not in known]:
            raise UnknownNameError(
                f"tolerance of {metric} on an {unknown('condition', strange[0], known - {REST})}"
            )


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with all columns, with numbers where numbers belong, and NaN for what was not measured."""
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
    unmade = table["status"] != "ok"  # a candidate that could not be made has no measured ratio
    table.loc[unmade, "ratio"] = table["ratio"].fillna(table["target_ratio"])[unmade]
    outside = ~table["ratio"].between(0, 1, inclusive="left")
    if outside.any():
        raise UserError(f"{_where(table, outside)}: the ratio must be in [0, 1), and 0 for the parent only")
    table["target_ratio"] = table["target_ratio"].fillna(table["ratio"])
    table.loc[unmade, list(RESULTS)] = np.nan
    wrong = table["n"].notna() & ((table["n"] < 1) | (table["n"] % 1 != 0))
    if wrong.any():
        raise UserError(
            f"{_where(table, wrong)}: n is the number of images and must be a whole number above 0"
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
            f"{_where(table, twice)}: a second parent; give one row with ratio 0, which all methods share"
        )
    place = ["method", "seed", "metric", "condition", "target_ratio"]
    for name, columns in (("ratio", [*place, "ratio"]), ("target_ratio", place)):
        twice = ~parent & table.duplicated(columns)
        if twice.any():
            raise UserError(f"{_where(table, twice)}: a second row with this {name}; give one row for each")


def _where(table: pd.DataFrame, marked: pd.Series[bool]) -> str:
    """Names the first row that is marked."""
    row = table[marked].iloc[0]
    names = ("method", "seed", "ratio", "metric", "condition")
    return ", ".join(f"{name} {row[name]!s}" for name in names)


def _constant(table: pd.DataFrame, keys: list[str], column: str) -> dict[Any, Any]:
    """The one value of `column` for each key that has any."""
    given = table[table[column].notna() & (table[column] != "")]
    pairs = given[[*keys, column]].drop_duplicates()
    twice = pairs.duplicated(keys)
    if twice.any():
        key = pairs.loc[twice, keys].iloc[0]
        both = pairs.loc[(pairs[keys] == key).all(axis=1), column].tolist()
        name = ", ".join(f"{kind} {key[kind]!r}" for kind in keys)
        raise UserError(f"{name} has two values of {column}: {both[0]!r} and {both[1]!r}; give one")
    labels = pairs[keys[0]] if len(keys) == 1 else zip(*(pairs[name] for name in keys), strict=True)
    return dict(zip(labels, pairs[column], strict=True))


def _rules(
    tolerance: Rule | Mapping[str, Tolerance], metrics: list[str], directions: Mapping[str, bool]
) -> dict[str, dict[str, Limit]]:
    """The limits of each metric that gets thresholds."""
    named = isinstance(tolerance, Mapping)
    if isinstance(tolerance, Mapping):
        rules = {name: limits(value, of=f" of metric {name!r}") for name, value in tolerance.items()}
    else:
        rules = {name: limits(tolerance, of=f" of metric {name!r}") for name in metrics if name in directions}
        if metrics and not rules:
            raise UserError(f"no direction is known for {', '.join(metrics)}; {DIRECTION_HINT}")
    for name in rules:
        if named and name not in metrics:
            raise UnknownNameError(f"tolerance for an {unknown('metric', name, metrics)}")
        if directions.get(name) not in (True, False):
            raise UserError(f"the direction of metric {name!r} is not known; {DIRECTION_HINT}")
    return rules


def _pivoted(table: pd.DataFrame, pairs: pd.DataFrame) -> tuple[TableAxes, Curves]:
    """The table as arrays of shape (methods, seeds, pairs, slots)."""
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
    method, methods = pd.factorize(rows["method"])
    slot = _slots(method, rows["target_ratio"].to_numpy())
    shape = (len(methods), len(seeds), len(pairs), int(slot.max(initial=-1)) + 1)

    def spread(numbers: pd.Series[Any] | Floats, empty: float = np.nan) -> Floats:
        array = np.full(shape, empty)
        array[method, seed[~parent], pair[~parent], slot] = numbers
        return array

    allowed = np.broadcast_to(_limits(pairs, references), shape[:3])
    curves = Curves(
        ratios=spread(rows["ratio"]),
        drops=spread(_drops(rows)),
        widths=spread(rows["drop_high"] - rows["drop_low"]),
        highs=spread(rows["drop_high"]),
        uppers=spread(rows["drop_upper"]),
        floors=spread(rows["drop_floor"]),
        method_uppers=np.full(shape, np.nan),
        ps=np.where(about(spread(rows["drop_tolerance"]), allowed), spread(rows["drop_p"]), np.nan),
        scales=spread(_scales(rows), 1.0),
        reference=np.broadcast_to(references, shape[:3]),
        limits=allowed,
        n=np.fmin.reduce(spread(rows["n"]), axis=-1, initial=np.nan),
        partial=np.zeros(shape[:3], dtype=bool),
    )
    ladders = [sorted(set(rows["target_ratio"].to_numpy()[method == m])) for m in range(len(methods))]
    return TableAxes(methods.tolist(), seeds.tolist(), pairs, ladders), curves


def _limits(pairs: pd.DataFrame, references: Floats) -> Floats:
    """The largest commensurate drop beside each parent's value, shape (seeds, pairs)."""
    amount = np.array([one.amount for one in pairs["limit"]], dtype=np.float64)
    relative = np.array([one.relative for one in pairs["limit"]], dtype=np.bool_)
    found: Floats = np.where(relative, amount * np.abs(references), amount)
    return found


def _parents(table: pd.DataFrame, place: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which rows are parents; every row must have one at its own `place` (seed, metric and condition)."""
    parent = (table["ratio"] == 0).to_numpy()
    orphan = pd.Series(~np.isin(place, place[parent]), index=table.index)
    if orphan.any():
        raise UserError(
            f"{_where(table, orphan)}: no parent; give a row with ratio 0 of this seed, metric and condition"
        )
    return parent


def _drops(rows: pd.DataFrame) -> Floats:
    """The drop that the table gives, or else the difference of the values in the direction of the metric."""
    reference, value = rows["reference"].to_numpy(), rows["value"].to_numpy()
    with np.errstate(invalid="ignore"):  # two infinite values have no difference
        worse = np.where(rows["higher_is_better"], reference - value, value - reference)
    return np.where(rows["drop"].isna(), worse, rows["drop"])


def _scales(rows: pd.DataFrame) -> Floats:
    """The magnitude that decides how far a drop may be rounded; infinite values fail whatever it is."""
    largest = np.fmax(rows["reference"].abs(), rows["value"].abs())
    return np.where(np.isfinite(largest), np.maximum(largest, 1.0), 1.0)


def _slots(method: NDArray[np.intp], target: Floats) -> NDArray[np.intp]:
    """The rank of each row's target ratio within its method."""
    steps = np.unique(np.stack([method.astype(np.float64), target], axis=1), axis=0, return_inverse=True)
    first = np.searchsorted(steps[0][:, 0], method)
    return np.asarray(steps[1]).reshape(-1) - first
