"""Every candidate against its parent, on the same images: drops, with their intervals and bounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

from evalsuite.runs.store import Cell, Key
from evalsuite.statistics.bounds import PairedDrops, bounds_of_many, group_mean_bounds, mean_bounds
from evalsuite.statistics.group_sequential import SequentialDesign
from evalsuite.statistics.intervals import marginal_interval
from evalsuite.statistics.rates import mcnemar
from evalsuite.statistics.repeated_bounds import is_bounded, repeated_bounds
from evalsuite.statistics.resampling import Replicates, bootstrap_weights, drop
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.tolerances import Limit, Tolerance, limit_for, parse_limits
from evalsuite.types import DENSE, Array, Bounds, Metric, Score

REPLICATES = 1000
COLUMNS = {
    "low": "drop_low",
    "high": "drop_high",
    "upper": "drop_upper_95",
    "lower_simultaneous": "drop_lower_simultaneous",
    "noninferiority_p": "noninferiority_p",
    "inferiority_p": "inferiority_p",
}
"""Arrays of `Bounds` to columns of measurements."""
MetricOnCondition = tuple[str, str]
Curve = tuple[str, str, str]
"""Method, metric and condition."""
Evidence = Mapping[str, Array]
"""Per-image outputs by population."""


class Comparison:
    """The candidates of a run compared with their parents.

    Args:
        cells: Cells of the run, by candidate and test.
        metrics: Definitions by name.
        tolerances: Metric to tolerance: drops with a tolerance get bounds.
        seed: Address of the resampling.
    """

    def __init__(
        self,
        cells: Mapping[tuple[Key, str], Cell],
        metrics: Mapping[str, Metric],
        tolerances: Mapping[str, Tolerance],
        *,
        seed: int,
    ) -> None:
        self.metrics, self.seed = metrics, seed
        self._rules = {name: parse_limits(tolerance) for name, tolerance in tolerances.items()}
        self._cells = cells
        self._codes: dict[tuple[Any, ...], int] = {}
        self._digests: dict[int, bytes] = {}
        self.scores = {
            (key, score.metric, score.condition): score
            for (key, _), cell in cells.items()
            for score in cell.scores
            if not score.reason
        }
        self._parents = {
            (key, score.metric, score.condition): score
            for (key, _), cell in cells.items()
            for score in cell.parent
            if not score.reason
        }
        self._designs = {
            (key, score.metric, score.condition): _design(cell.looks)
            for (key, _), cell in cells.items()
            if cell.looks
            for score in cell.scores
        }

    def parent_scores(self, seed: int, evaluator: str) -> Iterable[Score]:
        """Returns the scores of a test of the parent of one seed, or one without a name if that test failed."""
        cell = self._cells.get((_dense(seed), evaluator))
        return cell.scores if cell is not None and cell.scores else [Score("", "")]

    def parent_of(self, key: Key, metric: str, condition: str) -> Score | None:
        """Returns the parent's score on the images of a candidate's: beside it where it was measured in stages."""
        beside = self._parents.get((key, metric, condition))
        return beside or self.scores.get((_dense(key.seed), metric, condition))

    def is_staged(self, key: Key, metric: str, condition: str) -> bool:
        """Returns whether a score was measured in stages: its number of images depends on what they showed."""
        return (key, metric, condition) in self._designs

    @cached_property
    def on_all_images(self) -> dict[tuple[Key, str, str], Score]:
        """The scores that were measured on all images, in the order of the data set."""
        return {place: score for place, score in self.scores.items() if not self.is_staged(*place)}

    def statistics(self, key: Key, score: Score) -> dict[str, float]:
        """Returns the columns of one score from ``value_low`` to ``mcnemar`` that are known.

        There is a drop only where the parent has the same score.
        """
        return self._marginal_interval(score) | self._paired_drop(key, score)

    def _marginal_interval(self, score: Score) -> dict[str, float]:
        """The interval of the number by itself, where there is one."""
        ends = (
            marginal_interval(self.metrics[score.metric].functional, score.evidence)
            if score.evidence
            else None
        )
        return {} if ends is None else {"value_low": ends[0], "value_high": ends[1]}

    def _paired_drop(self, key: Key, score: Score) -> dict[str, float]:
        """The drop relative to the parent, with its bounds."""
        parent = self.parent_of(key, score.metric, score.condition)
        higher_is_better = self.metrics[score.metric].higher_is_better
        if parent is None or parent.value is None or score.value is None or higher_is_better is None:
            return {}
        columns = {"drop": drop(parent.value, score.value, higher_is_better=higher_is_better)}
        bounds = self._bounds_by_score.get((key, score.metric, score.condition), {})
        return bounds | columns | _mcnemar(parent, score)

    def over_seeds(self) -> pd.DataFrame | None:
        """Returns bounds on the mean drops over several seeds; ``None`` if there is one seed."""
        seeds = sorted({key.seed for key, _ in self._cells})
        if len(seeds) < 2:
            return None
        chains: dict[Curve, list[list[Key]]] = {}
        for curve, keys in self._curves.items():
            if any(self.is_staged(key, *curve[1:]) for key in keys):
                continue  # a mean over seeds would need all on the same images
            by_seed = {seed: {key.target_ratio: key for key in keys if key.seed == seed} for seed in seeds}
            grids = [set(by_ratio) for by_ratio in by_seed.values()]
            shared = sorted(set.intersection(*grids))
            if shared and all(
                grid == set(shared) for grid in grids
            ):  # else there is no mean over these seeds
                chains[curve] = [[by_seed[seed][ratio] for ratio in shared] for seed in seeds]
        columns = self._bounds_of_many([(*curve[1:], keys) for curve, keys in chains.items()])
        rows = [
            {
                "method": method,
                "metric": metric,
                "condition": condition,
                "target_ratio": keys[0].target_ratio,
                **bounds,
                "test": self.code(keys, metric, condition),
            }
            for ((method, metric, condition), of_seeds), found in zip(chains.items(), columns, strict=True)
            for bounds, keys in zip(found, zip(*of_seeds, strict=True), strict=True)
        ]
        return pd.DataFrame(rows) if rows else None

    def code(self, keys: Sequence[Key], metric: str, condition: str) -> int:
        """Returns a number for the test of a metric on a condition: equal where evidence and tolerance are the same.

        Args:
            keys: The candidate of each seed.
            metric: Its name.
            condition: Its name.
        """
        definition, group = self.metrics[metric], self.scores[keys[0], metric, condition].group
        parts: list[Any] = [definition.functional, definition.higher_is_better]
        parts.append(limit_for(self._rules.get(metric, {}), condition, group))
        for key in keys:
            parts += [
                self._digest(self.parent_of(key, metric, condition)),
                self._digest(self.scores[key, metric, condition]),
            ]
        return self._codes.setdefault(tuple(parts), len(self._codes))

    def _digest(self, score: Score | None) -> bytes:
        """Digest of the evidence of a score, population by population."""
        evidence = {} if score is None else score.evidence
        if id(evidence) not in self._digests:
            content = blake2b(digest_size=16)
            for population, values in evidence.items():
                content.update(f"{population} {values.dtype} {values.shape}".encode())
                content.update(np.ascontiguousarray(values).tobytes())
            self._digests[id(evidence)] = content.digest()
        return self._digests[id(evidence)]

    def over_groups(self) -> pd.DataFrame | None:
        """Returns bounds on the mean drops over the conditions of each group, by seed and over all seeds.

        A mean that a test reports itself, as a condition called like the group, is taken from there. Groups whose
        conditions have different tolerances have none.
        """
        rows = [row for group in self.groups.items() for row in self._group_rows(*group)]
        return pd.DataFrame(rows) if rows else None

    def _group_rows(
        self, place: tuple[str, str, str], curves: Mapping[str, list[Key]]
    ) -> Iterator[dict[str, Any]]:
        """Rows of the mean over a group; `curves` has the candidates of each of its conditions."""
        method, metric, group = place
        candidates = {
            tuple(sorted(keys, key=lambda key: (key.seed, key.target_ratio))) for keys in curves.values()
        }
        limits = {limit_for(self._rules[metric], name, group) for name in (*curves, group)}
        if len(candidates) != 1 or len(limits) != 1:
            return
        staged = any(self.is_staged(keys[0], metric, name) for name, keys in curves.items())
        if staged and (next(iter(candidates))[0], metric, group) not in self.scores:
            return  # a mean over conditions would need all on the same images
        by_seed: dict[int, list[Key]] = defaultdict(list)
        for key in next(iter(candidates)):
            by_seed[key.seed].append(key)
        scopes: dict[int | str, list[list[Key]]] = {seed: [keys] for seed, keys in by_seed.items()}
        ratios = {tuple(key.target_ratio for key in keys) for keys in by_seed.values()}
        if len(by_seed) > 1 and len(ratios) == 1:
            scopes |= {ALL_SEEDS: list(by_seed.values())}
        for scope, chains in scopes.items():
            for index, columns in enumerate(self._group_bounds(metric, group, list(curves), chains)):
                labels = {"method": method, "seed": scope, "metric": metric, "condition": group}
                yield {**labels, "target_ratio": chains[0][index].target_ratio, **columns}

    def _group_bounds(
        self, metric: str, group: str, conditions: list[str], chains: list[list[Key]]
    ) -> list[dict[str, float]]:
        """Columns of the bounds on the mean drop over some conditions, at each ratio of the chains of all seeds."""
        keys = [_dense(chains[0][0].seed), *(key for chain in chains for key in chain)]
        if all((key, metric, group) in self.scores for key in keys):
            codes = [self.code(column, metric, group) for column in zip(*chains, strict=True)]
            bounds = (
                [self._bounds_by_score[key, metric, group] for key in chains[0]]
                if len(chains) == 1 and (chains[0][0], metric, group) in self._bounds_by_score
                else self._bounds_of_many([(metric, group, chains)])[0]
            )
            return [columns | {"test": code} for columns, code in zip(bounds, codes, strict=True)]
        members = [self._evidence(metric, condition, chains) for condition in conditions]
        limit = limit_for(self._rules[metric], conditions[0], group) or Limit(0.0)
        bounds_of_mean = group_mean_bounds(
            self.metrics[metric], members, weights=self.replicates, tolerance=limit
        )
        return [_columns_at(bounds_of_mean, index) for index in range(len(chains[0]))]

    @cached_property
    def groups(self) -> dict[tuple[str, str, str], dict[str, list[Key]]]:
        """Candidates by condition, for each method, metric and group of two or more conditions with a tolerance."""
        groups: dict[tuple[str, str, str], dict[str, list[Key]]] = defaultdict(dict)
        for (method, metric, condition), keys in self._curves.items():
            group = self.scores[keys[0], metric, condition].group
            if group:
                groups[method, metric, group][condition] = keys
        return {place: curves for place, curves in groups.items() if len(curves) > 1}

    def between(self, methods: tuple[str, str], target: float, of: MetricOnCondition) -> tuple[float, float]:
        """Returns a 95 % interval of how much worse the second method is, mean over the seeds, at a target ratio.

        The networks are fixed and the images a sample; NaN where the two have no evidence on the same images.
        """
        first, second = (self._by_seed(method, target, of) for method in methods)
        pairs = [(first[seed], second[seed]) for seed in first if seed in second]
        if not pairs or len(first) != len(second) or not all(_same_images(*pair) for pair in pairs):
            return float("nan"), float("nan")
        parents, candidates = ([score.evidence for score in scores] for scores in zip(*pairs, strict=True))
        bounds = mean_bounds(
            self.metrics[of[0]], parents, [[evidence] for evidence in candidates], weights=self.replicates
        )
        return float(bounds.low[0]), float(bounds.high[0])

    def _by_seed(self, method: str, target: float, of: MetricOnCondition) -> dict[int, Score]:
        """The scores of one method at a target ratio, by seed."""
        return {
            key.seed: score
            for (key, metric, condition), score in self.scores.items()
            if (key.method, key.target_ratio, metric, condition) == (method, target, *of)
        }

    @cached_property
    def _bounds_by_score(self) -> dict[tuple[Key, str, str], dict[str, float]]:
        """Columns of the bounds on the drop, by candidate, metric and condition."""
        chains = [
            (metric, condition, [sorted((k for k in keys if k.seed == seed), key=lambda k: k.target_ratio)])
            for (_, metric, condition), keys in self._curves.items()
            for seed in sorted({key.seed for key in keys})
        ]
        whole = [chain for chain in chains if not self.is_staged(chain[2][0][0], *chain[:2])]
        rows = {
            (key, metric, condition): row
            for (metric, condition, (rising,)), found in zip(whole, self._bounds_of_many(whole), strict=True)
            for key, row in zip(rising, found, strict=True)
        }
        staged = {
            (key, metric, condition): self._repeated_bounds(key, metric, condition, family=len(rising))
            for metric, condition, (rising,) in chains
            for key in rising
            if self.is_staged(key, metric, condition)
        }
        return rows | staged

    def _repeated_bounds(self, key: Key, metric: str, condition: str, *, family: int) -> dict[str, float]:
        """Columns of the bounds on a drop that was measured in stages."""
        drops, design = self._paired_drops(metric, condition, [[key]]), self._designs[key, metric, condition]
        if not is_bounded(self.metrics[metric]):  # measured on all images, so that there was one look
            return _columns_at(bounds_of_many([drops], weights=self.replicates)[0], 0)
        images = len(next(iter(drops.parents[0].values())))
        bounds = repeated_bounds(
            drops,
            design=design,
            look=design.sizes.index(images),
            weights=lambda: self.replicates,
            family=family,
        )
        return _columns_at(bounds, 0)

    @property
    def tested(self) -> Collection[tuple[Key, str, str]]:
        """Candidate, metric and condition of every drop that has bounds."""
        return self._bounds_by_score.keys()

    def tolerance_of(self, key: Key, metric: str, condition: str) -> float:
        """Returns the largest drop that is commensurate, in the metric's unit, of a drop that has bounds."""
        return self._bounds_by_score[key, metric, condition]["drop_tolerance"]

    @cached_property
    def _curves(self) -> dict[Curve, list[Key]]:
        """Candidates whose drops get bounds, by curve."""
        curves: dict[Curve, list[Key]] = defaultdict(list)
        for (key, metric, condition), score in self.scores.items():
            rules = self._rules.get(metric, {})
            parent = self.parent_of(key, metric, condition)
            has_limit = key.method != DENSE and limit_for(rules, condition, score.group) is not None
            if has_limit and parent is not None and _same_images(parent, score):
                curves[key.method, metric, condition].append(key)
        return curves

    def _bounds_of_many(
        self, chains: Sequence[tuple[str, str, list[list[Key]]]]
    ) -> list[list[dict[str, float]]]:
        """Columns of the bounds on mean drops over seeds, at each ratio.

        Args:
            chains: Metric, condition, and the candidates of each seed.
        """
        drops = [self._paired_drops(*chain) for chain in chains]
        bounds_of_chains = bounds_of_many(drops, weights=self.replicates)
        return [
            [_columns_at(bounds, index) for index in range(len(chain[2][0]))]
            for chain, bounds in zip(chains, bounds_of_chains, strict=True)
        ]

    def _paired_drops(self, metric: str, condition: str, keys: list[list[Key]]) -> PairedDrops:
        parents, candidates = self._evidence(metric, condition, keys)
        group = self.scores[keys[0][0], metric, condition].group
        limit = limit_for(self._rules[metric], condition, group) or Limit(0.0)
        return PairedDrops(self.metrics[metric], parents, candidates, limit)

    def _evidence(
        self, metric: str, condition: str, keys: list[list[Key]]
    ) -> tuple[list[Evidence], list[list[Evidence]]]:
        """Evidence of the parent of each seed, and of its candidates."""
        parent_scores = [self.parent_of(of_seed[0], metric, condition) for of_seed in keys]
        parents = [{} if parent is None else parent.evidence for parent in parent_scores]
        candidates = [[self.scores[key, metric, condition].evidence for key in of_seed] for of_seed in keys]
        return parents, candidates

    @cached_property
    def replicates(self) -> Replicates:
        """Bootstrap replicates of the values of all networks."""
        return Replicates(self._weights)

    @cached_property
    def _weights(self) -> Mapping[str, Array]:
        sizes = {
            population: len(values)
            for score in self.scores.values()
            for population, values in score.evidence.items()
        }
        return bootstrap_weights(sizes, replicates=REPLICATES, seed=self.seed)


@cache
def _design(looks: tuple[int, ...]) -> SequentialDesign:
    return SequentialDesign(looks)  # with the table of its critical values


def _mcnemar(parent: Score, candidate: Score) -> dict[str, float]:
    """McNemar's p-value of two rates over the same images; nothing for other numbers."""
    evidence = [list(score.evidence.values()) for score in (parent, candidate)]
    if any(len(arrays) != 1 or arrays[0].dtype != np.bool_ for arrays in evidence):
        return {}
    (before,), (after,) = evidence
    if before.shape != after.shape:
        return {}
    return {"mcnemar": mcnemar(int((before & ~after).sum()), int((after & ~before).sum()))}


def apply_search_correction(table: pd.DataFrame, searched: Mapping[str, int]) -> pd.DataFrame:
    """Returns a table with bounds at 97.5 % for those at 95 % where a search chose the ratios by their drops.

    The first tested ratio that truly fails is then no longer one ratio that was fixed before: in simulated searches up
    to 8 % were certified too far at 95 % (docs/statistics.md).

    Args:
        table: With the columns method, drop_upper_95, drop_high and noninferiority_p.
        searched: Methods whose ratios a search chose, with the number of ratios that it chose from. They stand in the
            column ``grid`` of the result: a ratio is inferior at a level that is shared by the whole grid.
    """
    fixed = ~table["method"].isin(list(searched))
    upper = table[["drop_upper_95", "drop_high"]].max(axis=1, skipna=False)
    doubled = (2 * table["noninferiority_p"]).clip(upper=1)
    return table.assign(
        drop_upper_95=table["drop_upper_95"].where(fixed, upper),
        noninferiority_p=table["noninferiority_p"].where(fixed, doubled),
        grid=[searched.get(method, 0) for method in table["method"]],
    )


def with_longest_parents(cells: Mapping[tuple[Key, str], Cell]) -> dict[tuple[Key, str], Cell]:
    """Returns the cells; those of a parent in stages have its numbers on the most images that a candidate needed."""
    longest: dict[tuple[int, str], dict[MetricOnCondition, Score]] = defaultdict(dict)
    for (key, label), cell in cells.items():
        for score in (cell.scores if key.method == DENSE else cell.parent) if cell.looks else ():
            place = (score.metric, score.condition)
            longest_so_far = longest[key.seed, label].get(place)
            if longest_so_far is None or (score.n or 0) > (longest_so_far.n or 0):
                longest[key.seed, label][place] = score
    return {
        (key, label): replace(cell, scores=tuple(longest[key.seed, label].values()))
        if cell.looks and key.method == DENSE
        else cell
        for (key, label), cell in cells.items()
    }


def disambiguate_conditions(cells: Mapping[tuple[Key, str], Cell]) -> Iterator[Cell]:
    """Yields the cells; where several tests report one metric on one condition, its name gets the test's label.

    Two attacks of different strength, for example: each candidate must be compared with the parent in the same test.
    """
    tests: dict[MetricOnCondition, set[str]] = defaultdict(set)
    for (_, label), cell in cells.items():
        for score in cell.scores:
            tests[score.metric, score.condition].add(label)
    for (_, label), cell in cells.items():
        scores, parent = (
            tuple(_with_label(score, label, tests) for score in scores)
            for scores in (cell.scores, cell.parent)
        )
        yield replace(cell, scores=scores, parent=parent)


def _with_label(score: Score, label: str, tests: Mapping[MetricOnCondition, set[str]]) -> Score:
    unique = len(tests[score.metric, score.condition]) == 1
    return score if unique else replace(score, condition=f"{score.condition} ({label})")


def _dense(seed: int) -> Key:
    return Key(DENSE, seed, 0.0)


def _columns_at(bounds: Bounds, index: int) -> dict[str, float]:
    columns = {column: float(getattr(bounds, name)[index]) for name, column in COLUMNS.items()}
    columns["drop"] = float(bounds.drop[index])
    return columns | {"drop_tolerance": bounds.tolerance}


def _same_images(first: Score, second: Score) -> bool:
    sizes = [{name: len(rows) for name, rows in score.evidence.items()} for score in (first, second)]
    return bool(sizes[0]) and sizes[0] == sizes[1]
