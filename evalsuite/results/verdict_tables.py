"""Verdicts of a run as tables: of every check at every ratio, of groups of checks, and counted.

There are three scopes, and each claim names its own: *this network*, *mean of these networks* (the mean drop over the
seeds at hand), and *the method* (seeds are a sample as well, from three on).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.results.controls import COLUMNS as CONTROL_COLUMNS
from evalsuite.results.controls import PLACE
from evalsuite.results.harmless_copy import COLUMNS as HARMLESS_COLUMNS
from evalsuite.statistics.limits import Z_LIMIT
from evalsuite.thresholds.curves import any_along, selected, threshold_arrays
from evalsuite.thresholds.intervals import intervals_of_members
from evalsuite.thresholds.seeds import ALL_SEEDS, FEWEST_SEEDS, tests_over_seeds
from evalsuite.thresholds.threshold import threshold_rows
from evalsuite.thresholds.verdicts import (
    INFERIOR,
    INFERIOR_LEVEL,
    NONINFERIOR,
    NONINFERIOR_LEVEL,
    UNDECIDED,
    inferior_flags,
    verdicts,
)
from evalsuite.types import DENSE, SYNTHETIC_FROST

if TYPE_CHECKING:
    from evalsuite.thresholds.threshold import JudgedCurves
    from evalsuite.types import Array

NETWORK, MEAN, METHOD = "this network", "mean of these networks", "the method"
SINGLE, OF_MEAN = "single", "of-mean"
EVERYTHING = "everything"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""Families of the 15 corruptions, as `evalsuite.datasets.transforms` has them, which needs torch."""
VERDICT_COLUMNS = (
    *("method", "scope", "seed", "networks", "target_ratio", "metric", "condition", "aggregate"),
    *("drop", "drop_low", "drop_high", "drop_tolerance", "noninferiority_p", "inferiority_p"),
    *("verdict", "verdict_level", "measured_failure", "inferior_in", "n", "images_needed"),
    *CONTROL_COLUMNS,
    "beyond_control_verdict",
)
GROUP_COLUMNS = (
    *("method", "scope", "seed", "group", "metrics", "checks", "never_decided"),
    *("potential", "potential_median", "noninferior_up_to", "inferior_from"),
)
COUNT_COLUMNS = (
    *("method", "scope", "seed", "target_ratio", "checks"),
    *(NONINFERIOR, INFERIOR, UNDECIDED, "never_decided", "measured_failures"),
    *HARMLESS_COLUMNS,
)
TEST_COLUMNS = (
    *("method", "seed", "target_ratio", "metric", "condition"),
    *("drop", "drop_low", "drop_high", "drop_tolerance", "noninferiority_p", "inferiority_p", "test", "grid"),
    "n",
)
"""Columns of measurements that verdicts are made of."""
LEVELS = {NONINFERIOR: NONINFERIOR_LEVEL, INFERIOR: INFERIOR_LEVEL}
ROUNDING = 1e-12
Z_POWER = 0.8416212335729143
"""Normal quantile of a power of 80 %."""


def check_table(
    networks: pd.DataFrame,
    over_seeds: pd.DataFrame | None,
    over_groups: pd.DataFrame | None,
    beyond: pd.DataFrame | None,
) -> pd.DataFrame:
    """Returns the verdict of every check at every ratio, in each scope.

    Args:
        networks: Rows of measurements with a drop and a tolerance, with the columns ``test`` and ``grid``.
        over_seeds: Bounds on mean drops over the seeds; ``None`` for one seed.
        over_groups: Bounds on mean drops over groups, by seed; ``None`` if there is no group.
        beyond: See `evalsuite.results.controls.beyond_control`; ``None`` without a control.

    Returns:
        Columns `VERDICT_COLUMNS`; ``seed`` is ``all`` in all scopes but this network. Of what is undecided
        ``images_needed`` is the number of images with which a true drop of 0 is shown to be non-inferior in 80 % of
        samples; ``n`` is the number of images now (of means over groups, the smallest). ``inferior_in`` is in how
        many networks a check is shown to be inferior, all checks, ratios and seeds being one family.
    """
    networks = networks[[name for name in networks if name in TEST_COLUMNS]]
    table = _all_scopes(networks, over_seeds, over_groups)
    table["grid"] = table["grid"].fillna(0)
    table["verdict"] = verdicts(table)
    table["verdict_level"] = table["verdict"].map(LEVELS).fillna("")
    table["measured_failure"] = table["drop"] > table["drop_tolerance"] + ROUNDING
    table["networks"] = np.where(table["scope"] == NETWORK, 1, len(set(networks["seed"])))
    table["inferior_in"] = _inferior_in(table)
    table["images_needed"] = _images_needed(table)
    return _with_controls(table, beyond)[list(VERDICT_COLUMNS)]


def _all_scopes(
    networks: pd.DataFrame, over_seeds: pd.DataFrame | None, over_groups: pd.DataFrame | None
) -> pd.DataFrame:
    """The tests of single checks and of means over groups, of each network, of their mean and of the method."""
    parts = [networks.assign(scope=NETWORK, aggregate=SINGLE)]
    if over_seeds is not None:
        parts.append(over_seeds.assign(scope=MEAN, seed=ALL_SEEDS, aggregate=SINGLE))
    if over_groups is not None:
        scopes = np.where(over_groups["seed"] == ALL_SEEDS, MEAN, NETWORK)
        is_new = ~over_groups[list(PLACE)].apply(tuple, axis=1).isin(_places_of(parts))
        parts.append(over_groups.assign(scope=scopes, aggregate=OF_MEAN)[is_new])
    table = pd.concat(parts, ignore_index=True).astype({"seed": object})
    if len(set(networks["seed"])) > 1:
        table = pd.concat([table, _of_methods(table)], ignore_index=True)
    return table


def _places_of(parts: Sequence[pd.DataFrame]) -> set[Any]:
    """Places of means that a test reports itself: they are checks already."""
    return {place for part in parts for place in part[list(PLACE)].itertuples(index=False, name=None)}


KEYS = ["method", "target_ratio", "metric", "condition", "aggregate"]
"""What a check at a ratio is, whatever the scope and the seed."""


def _of_methods(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the scope *the method*: the spread over the seeds joins the noise of the images."""
    rows = table[table["scope"] == MEAN].assign(scope=METHOD)
    rows = rows.assign(**_over_seeds(rows, table, "drop", ("noninferiority_p", "inferiority_p")))
    rows = rows[rows["seeds"] >= FEWEST_SEEDS].drop(columns="seeds")
    return rows.assign(drop_low=np.nan, drop_high=np.nan, test=np.nan)


def _over_seeds(
    rows: pd.DataFrame, table: pd.DataFrame, value: str, p_values: tuple[str, str]
) -> dict[str, Any]:
    """P-values for the method from those for the mean of its networks, and the number of seeds.

    Args:
        rows: Means over the networks.
        table: With the rows of the single networks.
        value: Column of what is above or within its tolerance.
        p_values: Columns of the tests that it is within, and that it is above.
    """
    networks = table[(table["scope"] == NETWORK) & table[value].notna()]
    excess = (networks[value] - networks["drop_tolerance"]).groupby([networks[key] for key in KEYS])
    spread = pd.DataFrame({"seeds": excess.count(), "spread": excess.std(ddof=1)})
    spread = spread.reindex(pd.MultiIndex.from_frame(rows[KEYS]))
    seeds = spread["seeds"].fillna(0).to_numpy()
    enough = np.maximum(seeds, FEWEST_SEEDS)
    margin = (rows["drop_tolerance"] - rows[value]).to_numpy(dtype=np.float64)
    error = spread["spread"].to_numpy() / np.sqrt(enough)
    tests = {
        name: np.where(
            seeds >= FEWEST_SEEDS,
            tests_over_seeds(rows[name].to_numpy(dtype=np.float64), sign * margin, error, enough),
            np.nan,
        )
        for name, sign in zip(p_values, (1, -1), strict=True)
    }
    return {"seeds": seeds, **tests}


def _images_needed(table: pd.DataFrame) -> Array:
    """Images that show a true drop of 0 to be within the tolerance with 80 % power; NaN where a row is decided.

    The standard error at n images is that of the 95 % interval. Functionals without sound bounds are never decided.
    """
    images = table["n"].astype("float64")
    for keys in (["metric", "condition"], ["metric"]):
        images = images.fillna(images.groupby([table[key] for key in keys]).transform("min"))
    error = (table["drop_high"] - table["drop_low"]) / (2 * Z_LIMIT)
    with np.errstate(divide="ignore"):
        needed = np.ceil(images * ((Z_LIMIT + Z_POWER) * error / table["drop_tolerance"]) ** 2)
    open_rows = (table["verdict"] == UNDECIDED) & table["noninferiority_p"].notna()
    images_needed: Array = needed.where(open_rows & np.isfinite(needed)).to_numpy()
    return images_needed


def _inferior_in(table: pd.DataFrame) -> Array:
    """In how many networks a check is inferior, by Holm's procedure over checks, ratios and seeds of a method."""
    networks = table[table["scope"] == NETWORK].reset_index(drop=True)
    flags = networks[KEYS].assign(inferior=inferior_flags(networks, ["method"]))
    counts = flags.groupby(KEYS)["inferior"].sum().rename("count").reset_index()
    return table[KEYS].merge(counts, on=KEYS, how="left")["count"].to_numpy()


def _with_controls(table: pd.DataFrame, beyond: pd.DataFrame | None) -> pd.DataFrame:
    """The table with what each drop is beyond the control's, and its verdict."""
    if beyond is None or beyond.empty:
        return table.assign(**dict.fromkeys(CONTROL_COLUMNS, np.nan), beyond_control_verdict="")
    table = table.merge(beyond.astype({"seed": object}), on=list(PLACE), how="left")
    of_method = table["scope"] == METHOD
    if of_method.any():
        p_values = ("beyond_control_noninferiority_p", "beyond_control_inferiority_p")
        rows = table[of_method]
        over_seeds = _over_seeds(rows, table, "beyond_control", p_values)
        unknown = (
            "beyond_control_low",
            "beyond_control_high",
            "beyond_control_test",
        )  # of the mean, not the method
        columns = {**dict.fromkeys(unknown, np.nan), **{name: over_seeds[name] for name in p_values}}
        table.loc[of_method, list(columns)] = pd.DataFrame(columns, index=rows.index)
        table.loc[of_method & table["beyond_control_noninferiority_p"].isna(), "beyond_control"] = np.nan
    tests = pd.DataFrame(
        {
            **{name: table[name] for name in ("method", "scope", "seed", "grid")},
            **{name: table[name] for name in ("metric", "condition", "aggregate")},
            "drop_tolerance": table["drop_tolerance"].where(table["beyond_control"].notna()),
            "noninferiority_p": table["beyond_control_noninferiority_p"],
            "inferiority_p": table["beyond_control_inferiority_p"],
            "test": table["beyond_control_test"],
        }
    )
    return table.assign(beyond_control_verdict=verdicts(tests))


CONTROL_TESTS = {
    "noninferiority_p": "beyond_control_noninferiority_p",
    "inferiority_p": "beyond_control_inferiority_p",
    "test": "beyond_control_test",
}
CONTROL_INTERVAL = {
    "noninferior_up_to": "beyond_control_noninferior_up_to",
    "inferior_from": "beyond_control_inferior_from",
}


def tests_beyond_control(table: pd.DataFrame, beyond: pd.DataFrame) -> pd.DataFrame:
    """Returns a table of measurements, or of bounds, whose tests are those of the difference from the control."""
    untested = table.drop(columns=list(CONTROL_TESTS), errors="ignore").astype({"seed": object})
    tests = beyond[[*PLACE, *CONTROL_TESTS.values()]].astype({"seed": object})
    renamed = tests.rename(columns={new: old for old, new in CONTROL_TESTS.items()})
    return untested.merge(renamed, on=list(PLACE), how="left").set_index(table.index)


def beyond_control_intervals(judged: JudgedCurves, table: pd.DataFrame) -> dict[str, Any]:
    """Returns columns of `CONTROL_INTERVAL` for a table of thresholds: up to which ratio pruning itself costs nothing.

    Args:
        judged: Curves whose tests are of the difference from the control.
        table: Thresholds of the same curves.
    """
    keys = ["method", "seed", "metric", "condition", "aggregate"]
    rows = threshold_rows(judged).set_index(keys)[list(CONTROL_INTERVAL)]
    intervals = rows.reindex(pd.MultiIndex.from_frame(table[keys]))
    return {name: intervals[column].to_numpy() for column, name in CONTROL_INTERVAL.items()}


def group_table(judged: JudgedCurves) -> pd.DataFrame:
    """Returns the interval of the true potential of groups of checks over all metrics, and of everything.

    Groups are those of the conditions, and the families of corruptions; synthetic frost is in none.

    Args:
        judged: Curves with all bounds.

    Returns:
        Columns `GROUP_COLUMNS`. Checks that have no sound bounds can never be decided; they are counted and left out.
    """
    frames = [
        _group_rows(judged, name, members)
        for name, members in _members_by_group(judged.axes.pairs).items()
        if members
    ]
    columns = list(GROUP_COLUMNS)
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _members_by_group(pairs: pd.DataFrame) -> dict[str, list[int]]:
    """Indices of the checks of each group."""
    published = ~pairs["condition"].str.contains(SYNTHETIC_FROST, regex=False).to_numpy()
    kinds = pairs["condition"].str.split("/").str[0]
    members = {EVERYTHING: np.flatnonzero(published).tolist()}
    for group in dict.fromkeys(pairs["group"]):
        if group:
            members[group] = np.flatnonzero(published & (pairs["group"] == group)).tolist()
    for family, names in FAMILIES.items():
        inside = published & kinds.isin(names) & (pairs["group"] == "corruptions")
        members[f"{family} corruptions"] = np.flatnonzero(inside).tolist()
    return members


def _group_rows(judged: JudgedCurves, name: str, members: Sequence[int]) -> pd.DataFrame:
    """The rows of one group: one for each method and seed."""
    axes, curves = judged.axes, judged.curves
    tests = any_along(~np.isnan(curves.noninferiority_ps[:, :, members]), -1)
    decidable = [member for place, member in enumerate(members) if tests[:, :, place].any()]
    labels = axes.pairs.iloc[list(members)]
    interval = intervals_of_members(curves, decidable, judged.means_over(decidable))
    potential = smallest_potential(judged, decidable)
    rows = [
        {
            "method": method,
            "scope": MEAN if seed == ALL_SEEDS and len(axes.seeds) > 1 else NETWORK,
            "seed": seed,
            "group": name,
            "metrics": " ".join(dict.fromkeys(labels["metric"])),
            "checks": len(members),
            "never_decided": len(members) - len(decidable),
            "potential": potential[index, place],
            "potential_median": interval["median"][index, place],
            **{key: interval[key][index, place] for key in ("noninferior_up_to", "inferior_from")},
        }
        for index, method in enumerate(axes.methods)
        for place, seed in enumerate((*axes.seeds, ALL_SEEDS))
        if curves.exist[index, place, members].any()
    ]
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS)).astype({"seed": object})


def smallest_potential(judged: JudgedCurves, members: Sequence[int]) -> Array:
    """Returns the point estimate of the potential of several checks together, (methods, seeds); NaN without checks."""
    if not members:
        return np.full(judged.curves.limits.shape[:2], np.nan)
    potentials = threshold_arrays(selected(judged.curves, list(members)))["potential"]
    smallest: Array = potentials.min(axis=2)
    return smallest


def is_counted(aggregate: str, condition: str) -> bool:
    """Whether a check is counted: single ones are; means over groups, and what is under synthetic frost, are not."""
    return aggregate == SINGLE and SYNTHETIC_FROST not in condition  # as in the groups


def count_table(checks: pd.DataFrame, harmless: pd.DataFrame) -> pd.DataFrame:
    """Returns how many checks of each method are in which state, by scope and target ratio.

    Args:
        checks: See `check_table`; those are counted that `is_counted` names.
        harmless: See `evalsuite.results.harmless_copy.harmless_counts`.

    Returns:
        Columns `COUNT_COLUMNS`.
    """
    rows = zip(checks["aggregate"], checks["condition"], checks["method"], strict=True)
    single = checks[np.array([is_counted(*row) and method != DENSE for *row, method in rows], dtype=bool)]
    if single.empty:
        return pd.DataFrame(columns=list(COUNT_COLUMNS))
    keys = ["method", "scope", "seed", "target_ratio"]
    flags = {state: single["verdict"] == state for state in (NONINFERIOR, INFERIOR, UNDECIDED)}
    flags["never_decided"] = single["noninferiority_p"].isna()
    flags["measured_failures"] = single["measured_failure"]
    table = pd.DataFrame({**{key: single[key] for key in keys}, **flags}).assign(checks=1)
    counts = table.groupby(keys, sort=False).sum().reset_index()
    counts = counts.merge(
        harmless.astype({"seed": object}), on=["method", "seed", "target_ratio"], how="left"
    )
    counts.loc[counts["scope"] == METHOD, list(HARMLESS_COLUMNS)] = np.nan
    return counts.astype(dict.fromkeys(HARMLESS_COLUMNS, "Int64"))[list(COUNT_COLUMNS)]
