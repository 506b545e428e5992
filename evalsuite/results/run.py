"""A run folder read back: measurements, thresholds and reliability as tables, without torch and without the models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from evalsuite.condition_splits import ConditionSplits
from evalsuite.cost_axes import AXES, DEFAULT_AXIS, check_axis
from evalsuite.errors import UserError
from evalsuite.results.chance_level import chance_levels
from evalsuite.results.comparison import (
    Comparison,
    apply_search_correction,
    disambiguate_conditions,
    with_longest_parents,
)
from evalsuite.results.condition_splits import split_table
from evalsuite.results.controls import PLACE, beyond_control, matching_controls
from evalsuite.results.harmless_copy import harmless_counts
from evalsuite.results.kept_tables import KeptTables
from evalsuite.results.power import measured_power
from evalsuite.results.ratios import (
    COST_COLUMNS,
    NOT_COUNTED,
    axes_of_methods,
    candidate_columns,
    candidates_on_axis,
    off_curve_notes,
    places_off_curve,
)
from evalsuite.results.tables import excess_table, exemplar_table, reliability_table, retraining_table
from evalsuite.results.verdict_tables import (
    NETWORK,
    beyond_control_intervals,
    check_table,
    count_table,
    group_table,
    tests_beyond_control,
)
from evalsuite.runs.legacy import current_cell, current_record
from evalsuite.runs.plan import ResolvedPlan, plan_of_record
from evalsuite.runs.store import Cell, Key, Store
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.thresholds.threshold import JudgedCurves, judged_curves, threshold_rows
from evalsuite.tolerances import OTHER_CONDITIONS, Rule, Tolerance, restrict_to_measured
from evalsuite.types import DENSE, Candidate, Metric, Score

COLUMNS = (
    *("method", "seed", "target_ratio", "ratio", "axis", "prunable_ratio"),
    *COST_COLUMNS,
    *("evaluator", "metric", "condition", "group", "unit", "higher_is_better"),
    *("value", "value_low", "value_high", "n"),
    *(
        "drop",
        "drop_low",
        "drop_high",
        "drop_upper_95",
        "drop_lower_simultaneous",
        "noninferiority_p",
        "inferiority_p",
        "drop_tolerance",
        "mcnemar",
    ),
    *("verdict", "verdict_level"),
    *("beyond_control", "beyond_control_low", "beyond_control_high", "beyond_control_verdict"),
    *("status", "reason", "flags"),
)
JUDGED = (
    *("verdict", "verdict_level"),
    *("beyond_control", "beyond_control_low", "beyond_control_high", "beyond_control_verdict"),
)
"""Columns that come from the verdicts of all checks together."""
COUNTS = (*COST_COLUMNS, "n")  # whole, also where one is missing

NO_CONTROL = {
    "method": "all",
    "seed": "all",
    "note": "The suite leaves out the control (control = false): what these methods lose may be due to their "
    "retraining alone.",
}
UNTESTED = "not tested: the search did not need it"
UNCOMPUTED = "not computed yet: start the same run again"


class Run:
    """The results of a run, as far as it has come.

    Args:
        path: The run folder.
        tolerances: Metric to tolerance instead of the suite's; conclusions, bounds included, are drawn anew.
        axis: What ratios are counted in, one of `evalsuite.cost_axes.AXES`: a candidate's is then
            ``1 - cost(candidate) / cost(parent)``. By default in what each method saves,
            which for nearly all is non-zero parameters.
        record: Content of ``run.json``, where it is not that of the folder.

    Raises:
        StoreError: If it is none.
        UnknownNameError: If there is no such axis.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        tolerances: Mapping[str, Tolerance] | None = None,
        axis: str = "",
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.axis = check_axis(axis) if axis else ""
        self._other = tolerances
        store = Store(self.path)
        content = store.record() if record is None else record
        self.plan = plan_of_record(content, path=str(self.path / "run.json"))
        self.record: Mapping[str, Any] = current_record(content)
        self._resolved = ResolvedPlan(self.plan, store)

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """One row per number, the parent first; drops are paired and their 95 % intervals hold over images.

        Rows without a number say why: ``status`` is ``skipped``, ``invalid`` or ``error``.
        """
        table = self._measured_rows
        places = pd.MultiIndex.from_frame(table[list(PLACE)].astype({"seed": object}))
        of_networks = self.verdicts[self.verdicts["scope"] == NETWORK].query("aggregate == 'single'")
        judged = of_networks.set_index(list(PLACE))[list(JUDGED)].reindex(places)
        texts = {name: judged[name].fillna("").to_numpy() for name in JUDGED if "verdict" in name}
        numbers = {name: judged[name].to_numpy() for name in JUDGED if "verdict" not in name}
        return table.assign(**texts, **numbers)[list(COLUMNS)]

    @cached_property
    def _measured_rows(self) -> pd.DataFrame:
        return self._coded_rows.drop(columns="test")

    @cached_property
    def _coded_rows(self) -> pd.DataFrame:
        """Measurements with the code of the evidence of each test."""
        return self._kept_table("measured", self._computed_rows)

    def _computed_rows(self) -> pd.DataFrame:
        rows = [row for seed in self._suite["seeds"] for row in self._seed_rows(seed)]
        table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))
        comparison = self.comparison
        codes = {place: comparison.code(place[:1], *place[1:]) for place in comparison.tested}
        keys = zip(table["method"], table["seed"], table["target_ratio"], strict=True)
        places = zip((Key(*key) for key in keys), table["metric"], table["condition"], strict=True)
        return table.assign(test=[codes.get(place, math.nan) for place in places])

    @cached_property
    def _kept(self) -> KeptTables:
        """Tables that are kept in the folder; none over another axis or at other tolerances."""
        is_own = self._other is None and not self.axis and isinstance(self.record.get("plan"), Mapping)
        content = {name: self.record[name] for name in ("suite", "plan")} if is_own else None
        return KeptTables(self.path, content)

    def _kept_table(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        table = self._kept.table(name, compute)
        return compute() if table is None else table

    def keep_tables(self) -> None:
        """Keeps in the folder what takes long to compute and was asked for; see `evalsuite.results.kept_tables`.

        Raises:
            StoreError: If the folder cannot be written.
        """
        self._kept.write()

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """Verdict of every check at every ratio, in each scope; see `evalsuite.results.verdict_tables`."""
        table = self._tests
        table = table[table["drop_tolerance"].notna()]
        over_seeds, over_groups = (
            None if frame is None else apply_search_correction(frame, self._searched)
            for frame in (self._over_seeds, self._over_groups)
        )
        return check_table(table, over_seeds, over_groups, self._beyond_control)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """Interval of the true potential of groups of checks, and of everything; see `verdicts`."""
        return group_table(self._judged)

    @cached_property
    def counts(self) -> pd.DataFrame:
        """How many checks of each method are in which state, by scope and target ratio; see `verdicts`."""
        harmless = self._kept_table("harmless copies", lambda: harmless_counts(self.comparison))
        return count_table(self.verdicts, harmless)

    @cached_property
    def _tests(self) -> pd.DataFrame:
        """Measurements with the code of the evidence of each test, corrected for a search."""
        return apply_search_correction(self._coded_rows, self._searched)

    @property
    def _searched(self) -> dict[str, int]:
        """Methods whose ratios a search chose, with the number of ratios that it chose from."""
        searched = self.plan.searched_methods() - self._unpruned  # a control is tested where the others are
        return dict.fromkeys(searched, len(self._suite["ratios"]))

    @cached_property
    def _over_seeds(self) -> pd.DataFrame | None:
        return self._kept.table("over seeds", lambda: self.comparison.over_seeds())

    @cached_property
    def _over_groups(self) -> pd.DataFrame | None:
        return self._kept.table("over groups", lambda: self.comparison.over_groups())

    @cached_property
    def _beyond_control(self) -> pd.DataFrame | None:
        """What candidates lose beyond their controls; ``None`` without a control."""
        controls = matching_controls(self.candidates, self._unpruned)
        if not controls:
            return None
        return self._kept.table("beyond control", lambda: beyond_control(self.comparison, controls))

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The definition of every metric that was measured."""
        return {metric.name: metric for cell in self._cells.values() for metric in cell.metrics}

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """Reliability table of every candidate on clean images: one row per bin of the confidence."""
        return reliability_table(self.candidates, self.comparison.scores)

    @cached_property
    def excess(self) -> pd.DataFrame:
        """Slope of the excess error on corrupted images over the prune ratio; see `evalsuite.results.tables`."""
        ratios = {key: candidate.ratio for key, candidate in self.candidates.items()}
        scores = {
            at: score for at, score in self.comparison.on_all_images.items() if self._is_on_curve(at[0])
        }
        return excess_table(scores, ratios, seed=self._suite["seeds"][0], splits=self._condition_splits)

    @property
    def splits(self) -> pd.DataFrame:
        """Potentials over training conditions and over held-out ones; see `evalsuite.results.condition_splits`."""
        return split_table(self._thresholds, self._condition_splits)

    @property
    def _condition_splits(self) -> ConditionSplits | None:
        sides = self._suite.get("conditions")
        return ConditionSplits(tuple(sides["train"]), tuple(sides["held_out"])) if sides else None

    @cached_property
    def exemplars(self) -> pd.DataFrame:
        """Images on which pruning changes the answer whatever the seed; see `evalsuite.results.tables`."""
        return exemplar_table(
            self.comparison.on_all_images,
            {key: candidate.ratio for key, candidate in self.candidates.items()},
        )

    @cached_property
    def retraining(self) -> pd.DataFrame:
        """How good each candidate was before and after its last training; see `evalsuite.results.tables`."""
        return retraining_table(self.candidates.values())

    @property
    def failures(self) -> pd.DataFrame:
        """Rows of `measurements` that have a reason instead of a number."""
        table = self.measurements
        return table[table["status"] != "ok"]

    def thresholds(self, tolerance: Rule | Mapping[str, Tolerance] | None = None) -> pd.DataFrame:
        """Returns the thresholds at the run's tolerances, or at others.

        Args:
            tolerance: One for all metrics that were measured and have a direction, or by metric. Bounds are new.

        Raises:
            UserError: If a tolerance is for what was not measured, or no candidate saves anything on the axis.
        """
        self._check_saved()
        if tolerance is not None and tolerance != self.tolerances:
            measured = dict.fromkeys(metric for _, metric, _ in self.comparison.scores)
            directed = [name for name in measured if self.metrics[name].higher_is_better is not None]
            named = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(directed, tolerance)
            return Run(self.path, tolerances=named, axis=self.axis, record=self.record).thresholds()
        return self._thresholds.copy()

    @cached_property
    def _thresholds(self) -> pd.DataFrame:
        """The thresholds at the run's tolerances: computed once, however often they are asked for."""
        table = threshold_rows(self._judged)
        if self._beyond_control is not None:
            table = table.assign(
                **beyond_control_intervals(self._judged_beyond_control(self._beyond_control), table)
            )
        table.insert(1, "axis", [self.counted_in(str(method)) for method in table["method"]])
        return table

    @cached_property
    def _judged(self) -> JudgedCurves:
        """The curves of all methods that prune, with their bounds, at the run's tolerances."""
        return self._curves_of(self._paired(self._tests), self._over_seeds, self._over_groups)

    def _judged_beyond_control(self, beyond: pd.DataFrame) -> JudgedCurves:
        """The same curves; their tests are those of the difference from the control."""
        tests = tests_beyond_control(self._paired(self._tests), beyond)
        seeds, groups = self._over_seeds, self._over_groups
        if seeds is not None:
            seeds = tests_beyond_control(seeds.assign(seed=ALL_SEEDS), beyond)
        if groups is not None:
            groups = tests_beyond_control(groups, beyond)
        return self._curves_of(tests, seeds, groups)

    def _curves_of(
        self, table: pd.DataFrame, over_seeds: pd.DataFrame | None, over_groups: pd.DataFrame | None
    ) -> JudgedCurves:
        wanted = self._measured_rules(table)
        if table.empty or not wanted:
            table, wanted = table.head(0), {}
        curved = (
            None if frame is None or table.empty else self._corrected(frame)
            for frame in (over_seeds, over_groups)
        )
        judged = table.assign(chance=chance_levels(table["metric"], self._suite))
        return judged_curves(judged, wanted, {}, *curved)

    def _corrected(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Bounds of what lies on a curve, corrected for a search."""
        return apply_search_correction(frame[self._curved(frame)], self._searched)

    def counted_in(self, method: str) -> str:
        """Returns the axis that ratios of a method are counted in."""
        return self.axis or self._own_axes.get(method, DEFAULT_AXIS)

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What a reader should know about models: what the record says, and who lies on no curve over the axis."""
        left_out = [NO_CONTROL] if self._suite.get("control") is False else []
        sequential = (
            "stages" in self.record
        )  # a check that stopped early has not seen the images that there are
        power = "" if sequential else measured_power(self.verdicts, self._unpruned)
        too_few = [{"method": "all", "seed": "all", "note": power}] if power else []
        return [
            *(self.record.get("notes") or ()),
            *left_out,
            *too_few,
            *off_curve_notes(self._off_curve),
        ]

    @property
    def tolerances(self) -> Mapping[str, Tolerance]:
        """Metric to tolerance, as the suite says or as they were given."""
        tolerances: Mapping[str, Tolerance] = self._suite["tolerances"]
        return tolerances if self._other is None else self._other

    @property
    def unmatched_tolerances(self) -> dict[str, list[str]]:
        """Metric to the conditions of its tolerance on which a complete run has measured nothing.

        Built-in tests declare what they report, so that such mistakes are refused before a run; a plug-in may not.
        """
        if not self._is_battery_complete:
            return {}
        matched = self._measured_rules(self._paired(self._measured_rows))
        unmatched = {}
        for metric, rule in self.tolerances.items():
            names = set(rule) if isinstance(rule, Mapping) else {OTHER_CONDITIONS}
            rest = (
                names
                - set(matched.get(metric, ()) if isinstance(rule, Mapping) else names)
                - {OTHER_CONDITIONS}
            )
            if rest:
                unmatched[metric] = sorted(rest)
        return unmatched

    def _measured_rules(self, table: pd.DataFrame) -> dict[str, Any]:
        """The tolerances of what is there: a run that is unfinished, or of a part of its suite, lacks some."""
        places: Any = table[["metric", "condition", "group"]].drop_duplicates().to_numpy().tolist()
        measured = {metric for metric, _, _ in places}
        rules = {name: rule for name, rule in self.tolerances.items() if name in measured or self._other}
        return (
            rules if self._other else restrict_to_measured(rules, places)
        )  # what a caller names must be there

    @property
    def _is_battery_complete(self) -> bool:
        tested = {label for key, label in self._cells if key.method == DENSE}
        return tested >= set(self.plan.by_label)

    def tested(self, method: str) -> tuple[float, ...]:
        """Returns the target ratios of a producer that the run tests: all, unless it is a search."""
        return self.plan.tested_ratios(method)

    def _paired(self, table: pd.DataFrame) -> pd.DataFrame:
        """Those of some measurements on a curve that have a parent's number to compare with.

        A finished model that is as dense as its parent, or denser, is measured but lies on no curve of pruning;
        nor do those of a method that prunes nothing, such as ``dense-retrained``, nor what was not tried.
        """
        table = table[self._curved(table) & ~table["reason"].isin([UNTESTED, UNCOMPUTED])]
        dense = table[(table["method"] == DENSE) & (table["status"] == "ok")]
        measured = pd.MultiIndex.from_frame(dense[["seed", "metric", "condition"]])
        return table[pd.MultiIndex.from_frame(table[["seed", "metric", "condition"]]).isin(measured)]

    def _curved(self, table: pd.DataFrame) -> pd.Series[bool]:
        """Which rows lie on a curve of pruning."""
        places = list(zip(table["method"], table["target_ratio"], strict=True))
        on = {place: self._is_on_curve(Key(place[0], 0, place[1])) for place in set(places)}
        return pd.Series([on[place] for place in places], table.index, dtype=bool)

    def _is_on_curve(self, key: Key) -> bool:
        """Whether a candidate, of whatever seed, lies on a curve of pruning; the parent is where they start."""
        pruned = key.target_ratio > 0 or bool(self.axis)  # a finished model may save what is not its target
        place = (key.method, key.target_ratio)
        return key.method == DENSE or (
            pruned and key.method not in self._unpruned and place not in self._off_curve
        )

    @cached_property
    def _off_curve(self) -> dict[tuple[str, float], str]:
        """Places on no curve over the axis that was asked for; on a method's own axis targets are places as well."""
        produced = self._resolved.candidates
        keys = [key for key in self.plan.by_key if key in produced or not self._is_own(key.method)]
        wanted = [key for key in keys if key.method not in self._unpruned and self._is_tested(key)]
        return places_off_curve(wanted, self.candidates, self.axis) if self.axis else {}

    def _is_tested(self, key: Key) -> bool:
        planned = self.plan.by_key.get(key)
        return planned is None or planned.tested

    def _is_own(self, method: str) -> bool:
        """Whether the axis is the one that target ratios of a method are meant on."""
        return self.axis in ("", self._own_axes.get(method, DEFAULT_AXIS))

    def _check_saved(self) -> None:
        """Refuses an axis on which no candidate saves anything."""
        produced = [key for key in self._resolved.candidates if key.method != DENSE]
        if self.axis and produced and not any(map(self._is_on_curve, produced)):
            raise UserError(
                f"no candidate in {self.path} saves {AXES[self.axis].noun}: there are no thresholds over the axis "
                f"{self.axis!r}; choose another one of {', '.join(AXES)}"
            )

    @property
    def controls(self) -> tuple[str, ...]:
        """Methods that are trained as candidates are, without pruning, in the order of the suite."""
        return tuple(choice["label"] for choice in self._suite["producers"] if choice.get("dense"))

    @property
    def _unpruned(self) -> set[str]:
        return set(self.controls)

    @cached_property
    def _own_axes(self) -> dict[str, str]:
        return axes_of_methods(self._suite)

    @property
    def _suite(self) -> Mapping[str, Any]:
        suite: Mapping[str, Any] = self.record["suite"]
        return suite

    @cached_property
    def candidates(self) -> dict[Key, Candidate]:
        """Every candidate, made here or elsewhere, each parent before its children, with its ratio on the axis."""
        produced = self._resolved.candidates
        return candidates_on_axis(produced, self.axis) if self.axis else produced

    @cached_property
    def _cells(self) -> dict[tuple[Key, str], Cell]:
        cells = {
            (key, test.label): current_cell(cell)
            for key in self.candidates
            for test in self.plan.tests
            if (cell := self._resolved.cell(key, test.label)) is not None
        }
        cells = with_longest_parents(cells)
        return dict(zip(cells, disambiguate_conditions(cells), strict=True))

    @cached_property
    def comparison(self) -> Comparison:
        """Every score with its evidence, and what it says against the parent's."""
        return Comparison(self._cells, self.metrics, self.tolerances, seed=self._suite["seeds"][0])

    def _seed_rows(self, seed: int) -> Iterator[dict[str, Any]]:
        for key in self.plan.by_key:
            if key.seed == seed:
                for choice in self._suite["evaluators"]:
                    yield from self._rows(key, choice["label"])

    def _rows(self, key: Key, evaluator: str) -> Iterator[dict[str, Any]]:
        """Rows of one evaluator on one candidate; without scores, one row for each number that is missing."""
        cell = self._cells.get((key, evaluator))
        shared = {
            **self._identity(key),
            "evaluator": evaluator,
        }
        if cell is not None and cell.status == "ok":
            for score in cell.scores:
                status = "skipped" if score.reason else "ok"
                notes = {"status": status, "reason": score.reason, "flags": " ".join(score.flags)}
                yield {**shared, **self._measured(key, score), **notes}
            return
        status, reason = self._missing(key, cell)
        for score in self.comparison.parent_scores(key.seed, evaluator):
            place = {"metric": score.metric, "condition": score.condition, "group": score.group}
            yield {
                **shared,
                **place,
                **self._direction(score.metric),
                "status": status,
                "reason": reason,
                "flags": "",
            }

    def _missing(self, key: Key, cell: Cell | None) -> tuple[str, str]:
        if cell is not None:
            return cell.status, cell.reason
        if key in self._resolved.candidates and key not in self.candidates:
            return "skipped", NOT_COUNTED.format(noun=AXES[self.axis].noun)
        production = self._resolved.production(key)
        if key not in self.candidates and production is not None:
            return production.status, production.reason
        if not self._is_tested(key):
            return "skipped", UNTESTED
        return "skipped", UNCOMPUTED

    def _identity(self, key: Key) -> dict[str, Any]:
        planned = key.target_ratio if self._is_own(key.method) else math.nan
        return candidate_columns(key, self.candidates.get(key), self.counted_in(key.method), planned=planned)

    def _direction(self, metric: str) -> dict[str, Any]:
        definition = self.metrics.get(metric)
        if definition is None:
            return {}
        return {"unit": definition.unit, "higher_is_better": definition.higher_is_better}

    def _measured(self, key: Key, score: Score) -> dict[str, Any]:
        place = {"metric": score.metric, "condition": score.condition, "group": score.group}
        change = self.comparison.statistics(key, score)
        return {**place, **self._direction(score.metric), "value": score.value, "n": score.n, **change}
