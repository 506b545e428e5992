"""A threshold with fewer tests: bisection over the ratios of a suite, then a test of the neighbours.

More than a quarter of real curves are not monotone near the tolerance, so bisection alone may stop at the wrong
failure: the ratios next to the boundary are tested as well, three below the failure and one above it, and if one below
fails, the search goes on from there. What was not tested is reported, and no conclusion rests on it: what is certified
is certified up to a tested ratio at every smaller *tested* one. Since drops decide which ratios those are, each is
tested at 2.5 % instead of 5 %. A chain is produced only as far as it is tested.

A search is a sequence of plans, each with more tested ratios than the one before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import UserError
from evalsuite.execution.scheduler import execute
from evalsuite.execution.suite_checks import check_condition, declared_conditions
from evalsuite.registry import unknown_name
from evalsuite.results.run import Run
from evalsuite.runs.plan import ResolvedPlan, RunPlan
from evalsuite.runs.provenance import record
from evalsuite.thresholds.curves import ULPS
from evalsuite.tolerances import parse_limits

if TYPE_CHECKING:
    from evalsuite.config.suite import Suite
    from evalsuite.execution.planning import PreparedRun
    from evalsuite.execution.scheduler import ProgressCallback


@dataclass(frozen=True, slots=True)
class Goal:
    """The threshold that a search looks for.

    Attributes:
        metric: Name of a metric with a tolerance.
        condition: Name of a condition.
    """

    metric: str
    condition: str

    @property
    def text(self) -> str:
        """``metric@condition``."""
        return f"{self.metric}@{self.condition}"


def next_steps(count: int, known: Mapping[int, bool]) -> frozenset[int]:
    """Returns which indices of a rising grid of ratios to test next; none when the search is over.

    Args:
        count: Length of the grid.
        known: Index to whether it passed, for those that were tested.

    >>> next_steps(9, {}), next_steps(9, {4: True}), next_steps(9, {3: True, 4: True, 5: False, 6: False})
    (frozenset({4}), frozenset({6}), frozenset({2}))
    """
    failed = min((index for index, passed in known.items() if not passed), default=count)
    passed = max((index for index in known if index < failed), default=-1)
    if failed - passed > 1:
        return frozenset({(passed + failed) // 2})
    near = {passed - 2, passed - 1, failed + 1}
    return frozenset(near & set(range(count)) - set(known))


def search(prepared: PreparedRun, *, progress: ProgressCallback | None = None) -> Run:
    """Runs only as much of a suite as the threshold of one metric on one condition needs, for every producer.

    Args:
        prepared: The run; its options name what is searched for, ``metric@condition``, for example
            ``accuracy@fog/3``; a metric alone is on ``clean``.
        progress: Called after each cell.

    Returns:
        The results; ratios that were not tested are on no curve.

    Raises:
        UserError: If the suite has no tolerance for this, or no evaluator reports it.
    """
    plan: RunPlan | None = search_plan(prepared)
    while plan is not None:  # each plan tests more: cells that fail again and again do not hold it up
        run = execute(replace(prepared, plan=plan), progress=progress)
        plan = _next_plan(run, plan, prepared.suite)
    return run


def search_plan(prepared: PreparedRun) -> RunPlan:
    """Returns the plan of a search, as far as the results in the run folder decide it.

    Raises:
        UserError: As `search`.
    """
    goal = parse_goal(prepared)
    first = next_steps(len(prepared.suite.ratios), {})
    ratios = {config.label: _ratios(prepared.suite, first) for config in prepared.suite.producers}
    plan = prepared.plan.searching(goal.text, ratios)
    while _is_done(plan, prepared):
        about = record(prepared.suite, prepared.options) | {"plan": plan.to_record()}
        extended = _next_plan(Run(prepared.root, record=about), plan, prepared.suite)
        if extended is None:
            return plan
        plan = extended
    return plan


def parse_goal(prepared: PreparedRun) -> Goal:
    """Returns what a search is for.

    Raises:
        UserError: If the suite has no tolerance for this, or no evaluator reports it.
    """
    text, suite = prepared.options.search, prepared.suite
    metric, _, condition = text.partition("@")
    goal = Goal(metric, condition or "clean")
    if metric not in suite.tolerances:
        raise UserError(
            f"--search {text}: {unknown_name('metric with a tolerance', metric, suite.tolerances)}"
        )
    parse_limits(suite.tolerances[metric])
    declared = declared_conditions(suite, prepared.image_source)
    check_condition(metric, goal.condition, declared, where=f"--search {text}")
    return goal


def _is_done(plan: RunPlan, prepared: PreparedRun) -> bool:
    """Whether every cell that the plan selects is in the run folder."""
    cells = ResolvedPlan(plan, prepared.runner.store).cells
    return not plan.unresolved and all(cell.state == "done" for cell in cells if cell.selected)


def _next_plan(run: Run, plan: RunPlan, suite: Suite) -> RunPlan | None:
    """The plan with the ratios that are to be tested next; ``None`` when the search is over."""
    goal = Goal(*plan.search.split("@", 1))
    passed = _passed(run, goal, suite)
    wanted = {label: next_steps(len(suite.ratios), known) for label, known in passed.items()}
    if not any(wanted.values()):
        return None
    ratios = {label: _ratios(suite, wanted[label] | set(passed[label])) for label in wanted}
    everywhere = frozenset().union(*ratios.values())  # a control stands beside every candidate
    return plan.searching(plan.search, {**dict.fromkeys(_labels(suite), everywhere), **ratios})


def _labels(suite: Suite) -> list[str]:
    return [config.label for config in suite.producers]


def _searched(suite: Suite) -> list[str]:
    """The methods that prune; all of them if none does."""
    pruning = [config.label for config in suite.producers if not config.plugin.dense]
    return pruning or _labels(suite)


def _ratios(suite: Suite, steps: frozenset[int]) -> frozenset[float]:
    return frozenset(suite.ratios[step] for step in steps)


def _passed(run: Run, goal: Goal, suite: Suite) -> dict[str, dict[int, bool]]:
    """Index of the ratio to whether the mean drop over the seeds was commensurate, for each producer."""
    metric, condition = goal.metric, goal.condition
    rows = run.thresholds().query("seed == 'all' and aggregate == 'single'")
    of_goal = rows[(rows["metric"] == metric) & (rows["condition"] == condition)].set_index("method")
    if of_goal.empty:
        conditions = sorted(set(rows.loc[rows["metric"] == metric, "condition"]))
        raise UserError(f"--search {goal.text}: {unknown_name('condition', condition, conditions)}")
    table = run.measurements
    table = table[(table["metric"] == metric) & (table["condition"] == condition)]
    passed: dict[str, dict[int, bool]] = {}
    for label in _searched(suite):
        tested = table["target_ratio"].isin(run.tested(label))
        drops = table[(table["method"] == label) & tested].groupby("target_ratio")["drop"]
        allowed = float(of_goal["tolerance"].get(label, math.nan))
        most = allowed + ULPS * np.finfo(np.float64).eps * max(allowed, 1.0)
        means = drops.agg(lambda x: x.mean(skipna=False))
        passed[label] = {suite.ratios.index(target): bool(drop <= most) for target, drop in means.items()}
    return passed
