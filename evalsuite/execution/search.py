"""A threshold with fewer tests: bisection over the ratios of a suite, then a look at the neighbours.

More than a quarter of real curves are not monotone near the tolerance, so bisection alone may stop at the wrong
failure: the ratios next to the boundary are tested as well, three below the failure and one above it, and if one below
fails, the search goes on from there. What was not tested is said, and no conclusion rests on it: what is certified is
certified up to a tested ratio at every smaller *tested* one. Since drops decide which ratios those are, each is tested
at 2.5 % instead of 5 %. A chain is produced only as far as it is tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.config.suite import Suite, load_suite
from evalsuite.errors import UserError
from evalsuite.execution.scheduler import run
from evalsuite.registry import unknown
from evalsuite.thresholds.curves import ULPS
from evalsuite.tolerances import limits

if TYPE_CHECKING:
    from evalsuite.execution.scheduler import ProgressCallback
    from evalsuite.results.run import Run
    from evalsuite.runs.provenance import Options


def next_steps(count: int, known: Mapping[int, bool]) -> frozenset[int]:
    """Returns which places of a rising ladder to test next; none when the search is over.

    Args:
        count: Length of the ladder.
        known: Place to whether it passed, for those that were tested.

    >>> next_steps(9, {}), next_steps(9, {4: True}), next_steps(9, {3: True, 4: True, 5: False, 6: False})
    (frozenset({4}), frozenset({6}), frozenset({2}))
    """
    failed = min((place for place, passed in known.items() if not passed), default=count)
    passed = max((place for place in known if place < failed), default=-1)
    if failed - passed > 1:
        return frozenset({(passed + failed) // 2})
    near = {passed - 2, passed - 1, failed + 1}
    return frozenset(near & set(range(count)) - set(known))


def search(
    suite: Suite | str | Path,
    place: str,
    *,
    out: Path | str | None = None,
    options: Options,
    progress: ProgressCallback | None = None,
) -> Run:
    """Runs only as much of a suite as the threshold of one metric on one condition needs, for every producer.

    Args:
        suite: A suite, the path of one, or the name of one that ships with the package.
        place: ``metric@condition``, for example ``accuracy@corruptions``; a metric alone is on ``clean``.
        out: Run folder; ``reports/<suite>`` under the current folder by default.
        options: As for `evalsuite.execution.scheduler.run`.
        progress: Called after each cell.

    Returns:
        The run; ratios that were not tested are in its record, and on no curve.

    Raises:
        UserError: If the suite has no tolerance for this, or nobody measured it.
    """
    chosen = options.applied(suite if isinstance(suite, Suite) else load_suite(suite))
    metric, _, condition = place.partition("@")
    condition = condition or "clean"
    if metric not in chosen.tolerances:
        raise UserError(f"--search {place}: {unknown('metric with a tolerance', metric, chosen.tolerances)}")
    limits(chosen.tolerances[metric])
    steps: dict[str, frozenset[int]] = {choice.label: frozenset() for choice in chosen.producers}
    wanted = dict.fromkeys(steps, next_steps(len(chosen.ratios), {}))
    while any(wanted.values()):
        steps = {label: steps[label] | wanted[label] for label in steps}
        found = run(chosen, out=out, options=replace(options, steps=steps, search=place), progress=progress)
        passed = _passed(found, metric, condition, chosen)
        wanted = {label: next_steps(len(chosen.ratios), passed[label]) for label in steps}
    return found


def _passed(found: Run, metric: str, condition: str, suite: Suite) -> dict[str, dict[int, bool]]:
    """Place on the ladder to whether the mean drop over the seeds was commensurate, for each producer."""
    rows = found.thresholds().query("seed == 'all' and aggregate == 'single'")
    mine = rows[(rows["metric"] == metric) & (rows["condition"] == condition)].set_index("method")
    if mine.empty:
        conditions = sorted(set(rows.loc[rows["metric"] == metric, "condition"]))
        raise UserError(f"--search {metric}@{condition}: {unknown('condition', condition, conditions)}")
    table = found.measurements
    table = table[(table["metric"] == metric) & (table["condition"] == condition)]
    passed: dict[str, dict[int, bool]] = {}
    for choice in suite.producers:
        own = table[
            (table["method"] == choice.label) & table["target_ratio"].isin(found.tested(choice.label))
        ]
        drops = own.groupby("target_ratio")["drop"].agg(lambda x: x.mean(skipna=False))
        allowed = float(mine["tolerance"].get(choice.label, math.nan))
        passed[choice.label] = {
            suite.ratios.index(target): bool(
                drop <= allowed + ULPS * np.finfo(np.float64).eps * max(allowed, 1.0)
            )
            for target, drop in drops.items()
        }
    return passed
