"""The first screen: for each method what is shown to hold, what is shown to fail, and what the images leave open.

Ratios in sentences, bars and profiles are those that were measured; target ratios stand in the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

from evalsuite.cost_axes import share_phrase
from evalsuite.report.data import Row, headline_verdicts
from evalsuite.report.labels import (
    group_label,
    metric_label,
    metric_on_condition,
    percent,
    rounded,
    tested_ratios,
)
from evalsuite.report.threshold_tables import metrics_without_column
from evalsuite.report.verdict_bar import VerdictBar
from evalsuite.results.verdict_tables import EVERYTHING, is_counted
from evalsuite.statistics import BIASED
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.thresholds.verdicts import INFERIOR, NONINFERIOR, UNDECIDED
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from evalsuite.report.data import ReportData

CORRUPTIONS = "corruptions"
OUTLIERS = "ood"
"""Beginning of the names of groups of tests on outliers."""
NO_VERDICT = "No verdict can be stated: nothing with a tolerance was measured at a ratio above 0."
INCOMPLETE = "Nothing can be stated of all checks together: some are not measured at every ratio."
FREE = 0.17
"""Share of the axis that the label of a ratio takes: the last one ends where the axis does."""
_FAMILY = " corruptions"
_ROUNDED = 1e-5
"""Ratios in tables have six digits."""
_NOT_SHOWN = (EVERYTHING, "classes")
_LABELS = {"noise": "Random noise", EVERYTHING: "Everything", "classes": "Single classes"}
_SINGLE_BARS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Calibration", ("ece_l2_squared_debiased", "brier", "nll", "ece_equal_width")),
    ("Similarity", ("agreement", "negative_flip_rate", "softmax_distance")),
)
"""Bars of a single check on clean images: the first of these metrics that images can decide."""
_ON_CLEAN = ("accuracy", *(metric for _, metrics in _SINGLE_BARS for metric in metrics))


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with its one figure in the middle, so that a page can set the figure in bold."""

    before: str
    figure: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.figure}{self.after}"


@dataclass(frozen=True, slots=True)
class ProfileStep:
    """How many checks are in which state at one ratio.

    Attributes:
        target: Target ratio, as tables have it.
        ratio: Ratio as it was measured.
        noninferior: Checks that are shown to hold.
        undecided: Checks that the images leave open.
        inferior: Checks that are shown to fail.
        measured: Checks whose measured drop is above its tolerance, shown or not.
        harmless: Median and 95 % quantile of these for a candidate that differs as much but is no worse; ``None`` where
            they are not known.
        control: How many checks of the control are shown to hold; ``None`` without a control.
    """

    target: float
    ratio: float
    noninferior: int
    undecided: int
    inferior: int
    measured: int = 0
    harmless: tuple[int, int] | None = None
    control: int | None = None

    @property
    def checks(self) -> int:
        """Number of checks."""
        return self.noninferior + self.undecided + self.inferior

    @property
    def tip(self) -> str:
        """The step in words."""
        control = "" if self.control is None else f"; of the control {self.control} hold"
        return (
            f"At {percent(self.ratio)}: {self.noninferior} of {self.checks} checks shown to hold, "
            f"{self.undecided} undecided, {self.inferior} shown to fail{control}"
        )


@dataclass(frozen=True, slots=True)
class MethodVerdict:
    """What the first screen says of a method."""

    method: str
    sentences: tuple[Sentence, ...]
    bars: tuple[VerdictBar, ...]
    profile: tuple[ProfileStep, ...]
    ratios: tuple[float, ...]

    def _repr_html_(self) -> str:
        """The sentences, as notebooks show them."""
        words = "".join(
            f" {escape(part.before)}<b>{escape(part.figure)}</b>{escape(part.after)}"
            for part in self.sentences
        )
        return f"<p><b>{escape(self.method)}</b>:{words}</p>"

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Ratios and their labels in percent, those left out that would run into the next one."""
        shown: list[float] = []
        for ratio in reversed(self.ratios):
            if not shown or shown[-1] - ratio >= FREE * self.ratios[-1]:
                shown.append(ratio)
        return [(ratio, f"{100 * ratio:.0f}") for ratio in reversed(shown)]


class Verdicts:
    """The verdicts of a report in one scope: the mean over the seeds where there are several, else the one network.

    Args:
        data: Its tables.
    """

    def __init__(self, data: ReportData) -> None:
        self.data = data
        self.checks = headline_verdicts(data.verdicts)
        self.groups = headline_verdicts(data.groups)
        self.counts = headline_verdicts(data.counts)
        self.thresholds = [row for row in data.headline if row["aggregate"] == "single"]

    @cached_property
    def networks(self) -> dict[str, int]:
        """Number of networks of each method at each ratio that the verdicts are on."""
        return {row["method"]: int(row["networks"]) for row in self.checks}

    def scope(self) -> str:
        """Returns what the sentences speak of, in one sentence."""
        counts = [row["n"] for row in self.thresholds]
        if not self.data.checked.empty:  # a sequential check has numbers of its own for each
            counts = self.data.checked["images"].dropna().tolist()
        images = _range_of([int(count) for count in counts if count is not None])
        outliers = any(str(row["group"] or row["condition"]).startswith(OUTLIERS) for row in self.thresholds)
        among = ", outliers among them" if outliers else ""
        sample = (
            f"The images are a sample ({images} of them behind each check){among}"
            if images
            else "The images are a sample"
        )
        if not self.data.checked.empty:
            return f"The verdicts are on these networks. {sample}."
        pruning = [
            name for name in self.data.methods if name in self.networks and name not in self.data.controls
        ]
        several = [name for name in pruning if self.networks[name] > 1]
        single = [name for name in pruning if self.networks[name] == 1]
        mixed = bool(several and single)  # runs side by side
        parts: list[str] = []
        if several:
            size = _range_of([self.networks[name] for name in several])
            on = f" on {', '.join(several)}" if mixed else ""
            parts.append(
                f"The verdicts{on} are on the mean of {size} networks of each method, trained with different seeds."
            )
        if single or not several:
            on = f" on {', '.join(single)}" if mixed else ""
            parts.append(
                f"The verdicts{on} are on one network of each method and ratio, not on the method: another training "
                "may end otherwise."
            )
        return " ".join([*parts, f"{sample}."])

    def control(self) -> str:
        """Returns what stands beside every method, in one sentence."""
        if not self.data.controls:
            return (
                "There is no control: the verdicts include what training again changes without any pruning."
            )
        names = " and ".join(self.data.controls)
        explained = "trained again in the same way but not pruned: what it loses too is not pruning"
        return f"The control is {names}, {explained}."

    def methods(self) -> list[MethodVerdict]:
        """Returns the verdict of each method that prunes, in the order of the report; none without any verdict."""
        names = [name for name in self.data.methods if name not in self.data.controls] if self.groups else []
        unmeasured = (Sentence(NO_VERDICT),)
        return [
            self._of(name) if self._rows(name) else MethodVerdict(name, unmeasured, (), (), ())
            for name in names
        ]

    @cached_property
    def _measured_ratios(self) -> dict[tuple[str, float], float]:
        """The measured ratio of each method at each target ratio: the mean over the networks of the verdicts."""
        networks = self.data.measurements.drop_duplicates(["method", "seed", "target_ratio"])
        scopes = {row["method"]: row["seed"] for row in self.checks}
        of_verdicts = [
            scopes.get(method) in (seed, ALL_SEEDS)
            for method, seed in zip(networks["method"], networks["seed"], strict=True)
        ]
        means = (
            networks[of_verdicts].groupby(["method", "target_ratio"])["ratio"].mean().dropna().reset_index()
        )
        rows = zip(means["method"], means["target_ratio"], means["ratio"], strict=True)
        return {(method, float(target)): float(ratio) for method, target, ratio in rows}

    def _ratio(self, method: str, target: float) -> float:
        """The measured ratio, as thresholds have it; the target where no network was made."""
        return self._measured_ratios.get((method, target), target)

    def _rows(self, method: str) -> list[Row]:
        return [row for row in self.groups if row["method"] == method]

    def _of(self, method: str) -> MethodVerdict:
        rows = self._rows(method)
        tested = self._tested(method)
        last = max(tested, default=1.0)
        everything = next(_bar(row, last) for row in rows if row["group"] == EVERYTHING)
        bars = (*self._group_bars(method, rows, last), everything)
        profile = self._profile(method)
        return MethodVerdict(
            method, tuple(self._sentences(method, everything, tested, profile)), bars, profile, tested
        )

    def _axis(self, method: str) -> str | None:
        """What the ratios of a method are shares of; ``None`` where tables are of an old version."""
        return next((row.get("axis") for row in self.thresholds if row["method"] == method), None)

    def _tested(self, method: str) -> tuple[float, ...]:
        ratios = {
            ratio
            for row in self.thresholds
            if row["method"] == method
            for ratio in tested_ratios(row["tested"])
        }
        return tuple(sorted(ratios))

    def _group_bars(self, method: str, rows: Sequence[Row], last: float) -> list[VerdictBar]:
        clean = [self._single_bar("Test accuracy", method, ("accuracy",), last)]
        by_family = any(row["group"].endswith(_FAMILY) for row in rows)
        hidden = (*_NOT_SHOWN, *((CORRUPTIONS,) if by_family else ()))
        families = [row for row in rows if row["group"].endswith(_FAMILY)]
        others = [row for row in rows if row["group"] not in hidden and row not in families]
        groups = [_bar(row, last) for row in (*families, *others)]
        single = [self._single_bar(label, method, metrics, last) for label, metrics in _SINGLE_BARS]
        of_plugins = [
            self._single_bar(name, method, metrics, last) for name, metrics in self._own_bars(method)
        ]
        return [bar for bar in (*clean, *groups, *single, *of_plugins) if bar is not None]

    def _own_bars(self, method: str) -> list[tuple[str, tuple[str, ...]]]:
        """Name and metric of the bars of metrics that are of no other kind, such as those of plug-ins."""
        rows = [row for row in self.thresholds if row["method"] == method]
        metrics = metrics_without_column((row["metric"], row["group"] or "") for row in rows)
        return [(_sentence_case(metric_label(metric)), (metric,)) for metric in metrics]

    def _single_bar(self, label: str, method: str, metrics: Sequence[str], last: float) -> VerdictBar | None:
        rows = {
            row["metric"]: row
            for row in self.thresholds
            if row["method"] == method and row["metric"] in metrics and _is_of_single_bar(row)
        }
        ordered = [rows[metric] for metric in metrics if metric in rows]
        decided = [row for row in ordered if row.get("noninferior_up_to") is not None]
        row = next(iter(decided or ordered), None)
        if row is None:
            return None
        metric = self.data.metrics.get(row["metric"])
        has_no_bounds = metric is not None and metric.functional in BIASED
        return _bar({**row, "checks": 1, "never_decided": int(not decided and has_no_bounds)}, last, label)

    def _profile(self, method: str) -> tuple[ProfileStep, ...]:
        controls = {
            row["target_ratio"]: row[NONINFERIOR]
            for row in self.counts
            if row["method"] in self.data.controls and self._is_beside(row["method"], method)
        }
        return tuple(
            ProfileStep(
                row["target_ratio"],
                self._ratio(method, row["target_ratio"]),
                row[NONINFERIOR],
                row[UNDECIDED],
                row[INFERIOR],
                row["measured_failures"],
                _harmless(row),
                controls.get(row["target_ratio"]),
            )
            for row in sorted(self.counts, key=lambda row: float(row["target_ratio"]))
            if row["method"] == method
        )

    def _is_beside(self, control: str, method: str) -> bool:
        """Whether two methods are of one run, where several stand side by side."""
        return self.data.runs.get(control) == self.data.runs.get(method)

    def _sentences(
        self, method: str, bar: VerdictBar, tested: Sequence[float], profile: Sequence[ProfileStep]
    ) -> list[Sentence]:
        sentences = [_interval_sentence(bar, tested, share_phrase(self._axis(method)))]
        failures = [row for row in self.checks if row["method"] == method and row["verdict"] == INFERIOR]
        if failures:
            first = min(row["target_ratio"] for row in failures)
            sentences.append(self._worst_sentence([row for row in failures if row["target_ratio"] == first]))
        else:
            first = profile[0].target if profile else None
        step = next((step for step in profile if step.target == first), None)
        counts = [] if step is None else _count_sentences(step)
        return [*sentences, *self._beyond_sentences(method), *counts]

    def _beyond_sentences(self, method: str) -> list[Sentence]:
        """From which ratio on it fails more than the control does, where there is a control."""
        rows = [
            row
            for row in self.checks
            if row["method"] == method
            and row["beyond_control"] is not None
            and is_counted(row["aggregate"], row["condition"])
        ]
        if not rows:
            return []
        failing = [row["target_ratio"] for row in rows if row["beyond_control_verdict"] == INFERIOR]
        if not failing:
            return [Sentence("Beyond the control, nothing is shown to fail.")]
        count = sum(ratio == min(failing) for ratio in failing)
        checks = "1 check" if count == 1 else f"{count} checks"
        return [
            Sentence(
                f"Beyond the control, {checks} {'fails' if count == 1 else 'fail'} from ",
                percent(self._ratio(method, min(failing))),
                ".",
            )
        ]

    def _worst_sentence(self, failures: Sequence[Row]) -> Sentence:
        """The failure that is largest in tolerances, of those beyond the control where there are any."""
        beyond = [row for row in failures if row["beyond_control_verdict"] == INFERIOR]
        worst = max(beyond or failures, key=lambda row: row["drop"] / max(row["drop_tolerance"], 1e-9))
        ratio = percent(self._ratio(worst["method"], worst["target_ratio"]))
        values = self._values(worst)
        images = worst["n"]
        change = (
            ": " + " to ".join(rounded(value, images) for value in values)
            if values
            else f": a drop of {rounded(worst['drop'], images)}"
        )
        where = " beyond the control" if beyond else ""
        what = metric_on_condition({**worst, "group": self._group(worst)})
        return Sentence(
            f"Of what fails at {ratio}{where}, it loses most in {what}",
            "",
            f"{change}{self._of_control(worst, _in_tolerances(worst))}.",
        )

    def _group(self, row: Row) -> str:
        """The group of a check; a mean over a group is called like it."""
        if row["aggregate"] != "single":
            return str(row["condition"])
        same = (
            r for r in self.thresholds if (r["metric"], r["condition"]) == (row["metric"], row["condition"])
        )
        return next((r["group"] or "" for r in same), "")

    def _of_control(self, row: Row, size: str) -> str:
        if row["beyond_control"] is None:
            return size
        drop, control = row["drop"], row["drop"] - row["beyond_control"]
        of_control = f"{'gains' if control < 0 else 'loses'} {rounded(abs(control), row['n'])}"
        return f", a drop of {rounded(drop, row['n'])}{size}; the control {of_control}"

    def _values(self, row: Row) -> tuple[float, float] | None:
        """The number of the parent and of the candidate, means over the seeds of the scope."""
        table = self.data.measurements
        same = table[(table["metric"] == row["metric"]) & (table["condition"] == row["condition"])]
        if row["seed"] != ALL_SEEDS:
            same = same[same["seed"] == row["seed"]]
        parent = same.loc[same["method"] == DENSE, "value"].mean()
        of_method = same[(same["method"] == row["method"]) & (same["target_ratio"] == row["target_ratio"])]
        candidate = of_method["value"].mean()
        return None if parent != parent or candidate != candidate else (float(parent), float(candidate))


def _in_tolerances(row: Row) -> str:
    """How many times its tolerance a drop is: what failures of different metrics are compared by."""
    if not row["drop_tolerance"]:
        return ""
    times = row["drop"] / row["drop_tolerance"]
    return f", {times:.{0 if times >= 10 else 1}f} times the tolerance"


def _is_of_single_bar(row: Row) -> bool:
    return bool(row["condition"] == "clean" or row["metric"] not in _ON_CLEAN)


def _bar(row: Row, last: float, label: str = "") -> VerdictBar:
    return VerdictBar(
        label or _LABELS.get(row["group"]) or _sentence_case(group_label(row["group"])),
        int(row["checks"]),
        int(row["never_decided"]),
        row.get("noninferior_up_to"),
        row.get("inferior_from"),
        last,
    )


def _harmless(row: Row) -> tuple[int, int] | None:
    median, upper = row.get("harmless_median"), row.get("harmless_upper_95")
    return None if median is None or upper is None else (int(median), int(upper))


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def _interval_sentence(bar: VerdictBar, tested: Sequence[float], of_cost: str) -> Sentence:
    """How far everything holds, and from where on something fails."""
    subject = (
        f"all {bar.checks - bar.never_decided} checks that images can decide"
        if bar.never_decided
        else "every check"
    )
    first, last = (tested[0], tested[-1]) if tested else (0.0, 0.0)
    if bar.holds is None:
        undecidable = bar.never_decided == bar.checks
        return Sentence("None of its checks can be decided by images." if undecidable else INCOMPLETE)
    if bar.fails is not None and bar.fails <= first + _ROUNDED:
        return Sentence("Fails from ", percent(first), f"{of_cost}, the smallest ratio tested.")
    if bar.holds >= last - _ROUNDED:
        return Sentence("Holds up to ", percent(last), f"{of_cost}, the largest ratio tested, in {subject}.")
    holds = (
        f"Holds up to {percent(bar.holds)}{of_cost} in {subject}"
        if bar.holds
        else "Not shown to hold in " + subject
    )
    if bar.fails is not None:
        return Sentence(f"{holds}; fails from ", percent(bar.fails), ".")
    return Sentence(f"{holds}; nothing is shown to fail up to ", percent(last), ", the largest ratio tested.")


def _count_sentences(step: ProfileStep) -> list[Sentence]:
    """How many checks are in which state at a ratio, and how many chance alone would put above their tolerances."""
    control = "" if step.control is None else f" (of the control {step.control})"
    undecided = "1 is" if step.undecided == 1 else f"{step.undecided} are"
    failing = "1 fails" if step.inferior == 1 else f"{step.inferior} fail"
    holding = "holds" if step.noninferior == 1 else "hold"
    held = f"{step.noninferior} of {step.checks} checks {holding}{control}"
    counts = Sentence(f"At {percent(step.ratio)}, {held}, {undecided} undecided and {failing}.")
    if step.harmless is None:
        return [counts]
    typical, most = step.harmless
    above = "1 is" if step.measured == 1 else f"{step.measured} are"
    chance = f"chance alone puts {typical or 'none'} there" + (f", seldom more than {most}" if most else "")
    return [counts, Sentence(f"{above} measured above the tolerance; {chance}.")]


def _range_of(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
