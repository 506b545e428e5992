"""Every candidate against its parent, on the same images: drops, and what the images allow to say about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from evalsuite.config.suite import DENSE
from evalsuite.runs.store import Cell, Key
from evalsuite.statistics.bounds import mean_bounds
from evalsuite.statistics.intervals import marginal_interval
from evalsuite.statistics.rates import mcnemar
from evalsuite.statistics.resampling import bootstrap_weights, drop
from evalsuite.tolerances import Limit, Tolerance, applying, limits
from evalsuite.types import Array, Bounds, Metric, Score

REPLICATES = 1000
LIMITS = ("low", "high", "upper", "floor", "p")
Named = tuple[str, str]  # metric and condition
Curve = tuple[str, str, str]  # method, metric and condition


class Comparison:
    """Compares the candidates of a run with their parents.

    Args:
        cells: What was measured, by candidate and test.
        metrics: Definitions by name.
        tolerances: Metric to tolerance: drops that are judged get bounds.
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
        self._rules = {name: limits(one) for name, one in tolerances.items()}
        self._cells = cells
        self.scores = {
            (key, score.metric, score.condition): score
            for (key, _), cell in cells.items()
            for score in cell.scores
            if not score.reason
        }

    def expected(self, seed: int, evaluator: str) -> Iterable[Score]:
        """Returns what a test reported about the parent of one seed, or one nameless score if that failed."""
        cell = self._cells.get((_dense(seed), evaluator))
        return cell.scores if cell is not None and cell.scores else [Score("", "")]

    def change(self, key: Key, score: Score) -> dict[str, float]:
        """Returns the columns ``value_low`` to ``drop_floor`` of one score; without a drop where no parent has it."""
        return self._alone(score) | self._change(key, score)

    def _alone(self, score: Score) -> dict[str, float]:
        """The interval of the number by itself, where there is one."""
        ends = (
            marginal_interval(self.metrics[score.metric].functional, score.evidence)
            if score.evidence
            else None
        )
        return {} if ends is None else {"value_low": ends[0], "value_high": ends[1]}

    def _change(self, key: Key, score: Score) -> dict[str, float]:
        """The drop against the parent."""
        parent = self.scores.get((_dense(key.seed), score.metric, score.condition))
        better = self.metrics[score.metric].higher_is_better
        if parent is None or parent.value is None or score.value is None or better is None:
            return {}
        found = {
            "drop": drop(parent.value, score.value, higher_is_better=better),
            **_discordance(parent, score),
        }
        return found | self._limits.get((key, score.metric, score.condition), {})

    def over_seeds(self) -> pd.DataFrame | None:
        """Returns bounds on the mean drops over several seeds; ``None`` if there is one seed."""
        rows = []
        seeds = sorted({key.seed for key, _ in self._cells})
        if len(seeds) < 2:
            return None
        for (method, metric, condition), keys in self._curves.items():
            by_seed = {seed: {key.target_ratio: key for key in keys if key.seed == seed} for seed in seeds}
            ladders = [set(places) for places in by_seed.values()]
            shared = sorted(set.intersection(*ladders))
            if not shared or any(ladder != set(shared) for ladder in ladders):
                continue  # a candidate is missing: there is no mean over these seeds
            found = self._bounds(metric, condition, [[by_seed[s][ratio] for ratio in shared] for s in seeds])
            named = {"method": method, "metric": metric, "condition": condition}
            rows += [
                {**named, "target_ratio": ratio, **ends} for ratio, ends in zip(shared, found, strict=True)
            ]
        return pd.DataFrame(rows) if rows else None

    def between(self, methods: tuple[str, str], target: float, named: Named) -> tuple[float, float]:
        """Returns a 95 % interval of how much worse the second method is, mean over the seeds, at a target ratio.

        The networks are fixed and the images a sample; NaN where the two have no evidence on the same images.
        """
        by = [{k.seed: s for (k, *at), s in self.scores.items()
               if (k.method, k.target_ratio, *at) == (method, target, *named)} for method in methods]  # fmt: skip
        pairs = [(by[0][seed], by[1][seed]) for seed in by[0] if seed in by[1]]
        if not pairs or len(by[0]) != len(by[1]) or not all(_same_images(*pair) for pair in pairs):
            return float("nan"), float("nan")
        first, second = ([score.evidence for score in side] for side in zip(*pairs, strict=True))
        found = mean_bounds(self.metrics[named[0]], first, [[one] for one in second], weights=self._weights)
        return float(found.low[0]), float(found.high[0])

    @cached_property
    def _limits(self) -> dict[tuple[Key, str, str], dict[str, float]]:
        found: dict[tuple[Key, str, str], dict[str, float]] = {}
        for (_, metric, condition), keys in self._curves.items():
            for seed in sorted({key.seed for key in keys}):
                mine = sorted((key for key in keys if key.seed == seed), key=lambda key: key.target_ratio)
                ends = self._bounds(metric, condition, [mine])
                found |= {(key, metric, condition): one for key, one in zip(mine, ends, strict=True)}
        return found

    @cached_property
    def _curves(self) -> dict[Curve, list[Key]]:
        """Candidates whose drops get bounds, by what makes a curve of them."""
        curves: dict[Curve, list[Key]] = defaultdict(list)
        for (key, metric, condition), score in self.scores.items():
            parent = self.scores.get((_dense(key.seed), metric, condition))
            rules = self._rules.get(metric, {})
            wanted = key.method != DENSE and applying(rules, condition, score.group) is not None
            if wanted and parent is not None and _same_images(parent, score):
                curves[key.method, metric, condition].append(key)
        return curves

    def _bounds(self, metric: str, condition: str, keys: list[list[Key]]) -> list[dict[str, float]]:
        """Limits of the mean drop over seeds at each place of their ladders."""
        parents = [self.scores[_dense(ladder[0].seed), metric, condition].evidence for ladder in keys]
        candidates = [[self.scores[key, metric, condition].evidence for key in ladder] for ladder in keys]
        group = self.scores[keys[0][0], metric, condition].group
        rule = applying(self._rules[metric], condition, group) or Limit(0.0)
        found = mean_bounds(self.metrics[metric], parents, candidates, weights=self._weights, tolerance=rule)
        return [_limits_at(found, place) for place in range(len(keys[0]))]

    @cached_property
    def _weights(self) -> Mapping[str, Array]:
        sizes = {
            population: len(values)
            for score in self.scores.values()
            for population, values in score.evidence.items()
        }
        return bootstrap_weights(sizes, replicates=REPLICATES, seed=self.seed)


def _discordance(parent: Score, candidate: Score) -> dict[str, float]:
    """McNemar's p-value of two rates over the same images; nothing for other numbers."""
    both = [list(score.evidence.values()) for score in (parent, candidate)]
    if any(len(arrays) != 1 or arrays[0].dtype != np.bool_ for arrays in both):
        return {}
    (mine,), (other,) = both
    if mine.shape != other.shape:
        return {}
    return {"mcnemar": mcnemar(int((mine & ~other).sum()), int((other & ~mine).sum()))}


def apply_search_correction(table: pd.DataFrame, searched: Iterable[str]) -> pd.DataFrame:
    """Returns a table with bounds at 97.5 % for those at 95 % where a search chose the ratios by their drops.

    The first tested ratio that truly fails is then no longer one ratio, given beforehand: in simulated searches up to
    8 % were certified too far at 95 % (docs/statistics.md).

    Args:
        table: With the columns method, drop_upper, drop_high and drop_p.
        searched: Methods whose ratios a search chose.
    """
    plain = ~table["method"].isin(list(searched))
    higher = table[["drop_upper", "drop_high"]].max(axis=1, skipna=False)
    twice = (2 * table["drop_p"]).clip(upper=1)
    return table.assign(
        drop_upper=table["drop_upper"].where(plain, higher), drop_p=table["drop_p"].where(plain, twice)
    )


def disambiguate_conditions(cells: Mapping[tuple[Key, str], Cell]) -> Iterator[Cell]:
    """Yields the cells; where several tests report one metric under one condition, that carries the test's label.

    Two attacks of different strength, for example: each candidate must meet the parent under its own test.
    """
    by: dict[Named, set[str]] = defaultdict(set)
    for (_, label), cell in cells.items():
        for score in cell.scores:
            by[score.metric, score.condition].add(label)
    for (_, label), cell in cells.items():
        yield replace(cell, scores=tuple(_named(score, label, by) for score in cell.scores))


def _named(score: Score, label: str, by: Mapping[Named, set[str]]) -> Score:
    alone = len(by[score.metric, score.condition]) == 1
    return score if alone else replace(score, condition=f"{score.condition} ({label})")


def _dense(seed: int) -> Key:
    return Key(DENSE, seed, 0.0)


def _limits_at(found: Bounds, place: int) -> dict[str, float]:
    ends = {f"drop_{name}": float(getattr(found, name)[place]) for name in LIMITS}
    return ends | {"drop_tolerance": found.tolerance}


def _same_images(mine: Score, other: Score) -> bool:
    sizes = [{name: len(rows) for name, rows in score.evidence.items()} for score in (mine, other)]
    return bool(sizes[0]) and sizes[0] == sizes[1]
