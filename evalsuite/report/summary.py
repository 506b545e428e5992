"""The summary of a method in one or two sentences: how far test accuracy holds, and the first failure before that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalsuite.cost_axes import share_phrase
from evalsuite.report.data import Row, present
from evalsuite.report.labels import metric_on_condition, percent
from evalsuite.types import SYNTHETIC_FROST

_PREFERRED = ("accuracy", "robust_accuracy", "msp_auroc", "energy_auroc", "ece_equal_width")
"""Metrics that are named first among conditions with the same threshold: the best known ones."""

NO_THRESHOLD = "No threshold can be stated: no metric with a tolerance was measured at a ratio above 0."


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """The prune ratios up to which a method holds, by test accuracy and by all checks.

    A check is a metric on a condition with a tolerance.

    Attributes:
        method: Its label.
        accuracy: Row of test accuracy; ``None`` if it has no tolerance.
        weakest: Row of the check with the smallest threshold; ``None`` without thresholds.
        ties: Number of other checks with the same threshold.
        checks: Number of checks.
        certified: Ratio up to which all checks together are non-inferior at 95 % confidence, undecided ones left out:
            the minimum of the certified ratios needs no correction (intersection-union test, Berger 1982). ``None``
            if all are undecided.
        undecided: Number of checks without sound bounds.
        jointly: The same if each check is a statement by itself (Holm, `evalsuite.thresholds.familywise`).
    """

    method: str
    accuracy: Row | None
    weakest: Row | None
    ties: int
    checks: int
    certified: float | None = None
    undecided: int = 0
    jointly: float | None = None

    @property
    def gap(self) -> float:
        """How much larger the threshold of test accuracy is than the smallest one."""
        if self.accuracy is None or self.weakest is None:
            return 0.0
        return float(self.accuracy["potential"] - self.weakest["potential"])


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with its one figure in the middle, so that a page can set the figure in bold."""

    before: str
    figure: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.figure}{self.after}"


def single_rows(rows: Sequence[Row], method: str) -> list[Row]:
    """Returns a method's thresholds of single conditions, without synthetic frost, which is not a published one."""
    single = (row for row in rows if row["method"] == method and row["aggregate"] == "single")
    return [row for row in single if SYNTHETIC_FROST not in row["condition"]]


def weakest_row(rows: Sequence[Row]) -> Row | None:
    """Returns the row with the smallest threshold."""
    return min(rows, key=_order, default=None)


def method_summary(rows: Sequence[Row], method: str) -> MethodSummary:
    """Returns the summary of a method.

    Args:
        rows: Thresholds over all seeds, see `evalsuite.report.data.ReportData.headline`.
        method: One of the methods.
    """
    checks = single_rows(rows, method)
    weakest = weakest_row(checks)
    accuracy = next((r for r in checks if (r["metric"], r["condition"]) == ("accuracy", "clean")), None)
    tied = [row for row in checks if weakest is not None and row["potential"] == weakest["potential"]]
    certified = present(checks, "certified")
    return MethodSummary(
        method,
        accuracy,
        weakest,
        max(0, len(tied) - 1),
        len(checks),
        certified=min(certified, default=None),
        undecided=len(checks) - len(certified),
        jointly=min(present(checks, "certified_jointly"), default=None),
    )


def sentences(summary: MethodSummary) -> list[Sentence]:
    """Returns the one or two sentences of a summary."""
    accuracy, weakest = summary.accuracy, summary.weakest
    if weakest is None:
        return [Sentence(NO_THRESHOLD)]
    if accuracy is None:
        return [_holding("Everything measured", weakest), *_first_failure(weakest)]
    if summary.gap > 0:
        return [_holding("Test accuracy", accuracy), *_weaker_check(summary, weakest)]
    return [_holding("Test accuracy", accuracy), *_other_checks(summary, accuracy)]


def _other_checks(summary: MethodSummary, accuracy: Row) -> list[Sentence]:
    if accuracy["infeasible"]:
        return []
    others = summary.checks - 1
    if not others:
        return [Sentence("No other metric has a tolerance.")]
    count = "1 check" if others == 1 else f"{others} checks"
    return [Sentence(f"So does everything else with a tolerance: {count}.")]


def _first_failure(row: Row) -> list[Sentence]:
    return [] if row["censored"] else [Sentence(f"First failure: {metric_on_condition(row)}.")]


def _holding(subject: str, row: Row) -> Sentence:
    of_cost = share_phrase(row.get("axis"))
    if row["infeasible"]:
        return Sentence(f"{subject} fails at ", _failing_ratio(row), f"{of_cost}, the smallest ratio tested.")
    ratio = percent(row["potential"])
    if row["censored"]:
        return Sentence(f"{subject} holds up to at least ", ratio, f"{of_cost}, the largest ratio tested.")
    return Sentence(f"{subject} holds up to ", ratio, f"{of_cost}.")


def _weaker_check(summary: MethodSummary, row: Row) -> list[Sentence]:
    if row["censored"]:
        return []
    others = {0: "", 1: " and one other check"}.get(summary.ties, f" and {summary.ties} other checks")
    subject = f"But {metric_on_condition(row)}{others}"
    if row["infeasible"]:
        verb = "fails" if not summary.ties else "fail"
        return [Sentence(f"{subject} {verb} already at ", _failing_ratio(row), ".")]
    verb = "holds" if not summary.ties else "hold"
    return [Sentence(f"{subject} {verb} only up to ", percent(row["potential"]), ".")]


def _failing_ratio(row: Row) -> str:
    return percent(row["first_failure"]) if row["first_failure"] is not None else "every ratio"


def _order(row: Row) -> tuple[float, float, int]:
    failure = row["first_failure"] if row["first_failure"] is not None else float("inf")
    metric = row["metric"]
    return row["potential"], failure, _PREFERRED.index(metric) if metric in _PREFERRED else len(_PREFERRED)
