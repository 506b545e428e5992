"""The answer in one sentence per method: what test accuracy promises, and what gives out before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalsuite.cost_axes import share
from evalsuite.report.wording import percent, subject

Row = Mapping[str, Any]
_PREFERRED = ("accuracy", "robust_accuracy", "msp_auroc", "energy_auroc", "ece_equal_width")
"""Among conditions that give out at the same ratio, name the best-known metric."""


NOTHING = "No threshold can be stated: nothing that has a tolerance was measured at a ratio above 0."


@dataclass(frozen=True, slots=True)
class Verdict:
    """Is what a method may be pruned to, by test accuracy and by everything.

    Attributes:
        method: Its label.
        accuracy: Row of test accuracy; ``None`` if it has no tolerance.
        weakest: Row of the condition that gives out first; ``None`` without thresholds.
        ties: How many others give out at the same ratio.
        checks: How many conditions were checked.
        proven: Ratio up to which everything is shown to hold at 95 %, conditions without a proof left out: the
            minimum of what each shows needs no correction (intersection-union test, Berger 1982). ``None``
            without any proof.
        unproven: How many conditions have none.
        jointly: The same if all of them are read at once, each for itself (Holm's steps,
            `evalsuite.thresholds.family`).
    """

    method: str
    accuracy: Row | None
    weakest: Row | None
    ties: int
    checks: int
    proven: float | None = None
    unproven: int = 0
    jointly: float | None = None

    @property
    def gap(self) -> float:
        """How much further test accuracy holds than everything, as a ratio."""
        if self.accuracy is None or self.weakest is None:
            return 0.0
        return float(self.accuracy["potential"] - self.weakest["potential"])


@dataclass(frozen=True, slots=True)
class Sentence:
    """Is a sentence with its one figure in the middle, so that a page can set the figure in bold."""

    before: str
    figure: str
    after: str

    def __str__(self) -> str:
        return f"{self.before}{self.figure}{self.after}"


def singles(rows: Sequence[Row], method: str) -> list[Row]:
    """Returns a method's thresholds of single conditions; painted frost (``*``) is none of the published ones."""
    mine = (row for row in rows if row["method"] == method and row["aggregate"] == "single")
    return [row for row in mine if "*" not in row["condition"]]


def weakest(rows: Sequence[Row]) -> Row | None:
    """Returns the row that gives out first."""
    return min(rows, key=_strength, default=None)


def verdict(rows: Sequence[Row], method: str) -> Verdict:
    """Returns the verdict on a method from the thresholds over all seeds."""
    checked = singles(rows, method)
    first = weakest(checked)
    accuracy = next((r for r in checked if (r["metric"], r["condition"]) == ("accuracy", "clean")), None)
    tied = [row for row in checked if first is not None and row["potential"] == first["potential"]]
    shown = known(checked, "certified")
    return Verdict(
        method,
        accuracy,
        first,
        max(0, len(tied) - 1),
        len(checked),
        proven=min(shown, default=None),
        unproven=len(checked) - len(shown),
        jointly=min(known(checked, "certified_jointly"), default=None),
    )


def known(rows: Sequence[Row], name: str) -> list[float]:
    """Returns the numbers of a column, without what is missing."""
    return [float(row[name]) for row in rows if row.get(name) is not None]


def sentences(verdict: Verdict) -> list[Sentence]:
    """Returns the one or two sentences of a verdict."""
    accuracy, first = verdict.accuracy, verdict.weakest
    if first is None:
        return [Sentence(NOTHING, "", "")]
    if accuracy is None:
        return [_holding("Everything measured", first), *_first(first)]
    if verdict.gap > 0:
        return [_holding("Test accuracy", accuracy), *_breaking(verdict, first)]
    return [_holding("Test accuracy", accuracy), *_together(verdict, accuracy)]


def _together(verdict: Verdict, accuracy: Row) -> list[Sentence]:
    if accuracy["infeasible"]:
        return []
    others = verdict.checks - 1
    if not others:
        return [Sentence("Nothing else has a tolerance.", "", "")]
    counted = "1 check" if others == 1 else f"{others} checks"
    return [Sentence(f"So does everything else with a tolerance: {counted}.", "", "")]


def _first(row: Row) -> list[Sentence]:
    return [] if row["censored"] else [Sentence(f"The first to give way: {subject(row)}.", "", "")]


def _holding(what: str, row: Row) -> Sentence:
    gone = share(row.get("axis"))
    if row["infeasible"]:
        return Sentence(f"{what} fails at ", _failure(row), f"{gone}, the smallest ratio tested.")
    if row["censored"]:
        return Sentence(
            f"{what} holds to at least ", percent(row["potential"]), f"{gone}, the largest ratio tested."
        )
    return Sentence(f"{what} holds to ", percent(row["potential"]), f"{gone}.")


def _breaking(verdict: Verdict, row: Row) -> list[Sentence]:
    if row["censored"]:
        return []
    others = {0: "", 1: " and one other check"}.get(verdict.ties, f" and {verdict.ties} other checks")
    if row["infeasible"]:
        verb = "fails" if not verdict.ties else "fail"
        return [Sentence(f"But {subject(row)}{others} {verb} already at ", _failure(row), ".")]
    verb = "holds" if not verdict.ties else "hold"
    return [Sentence(f"But {subject(row)}{others} {verb} only to ", percent(row["potential"]), ".")]


def _failure(row: Row) -> str:
    return percent(row["first_failure"]) if row["first_failure"] is not None else "every ratio"


def _strength(row: Row) -> tuple[float, float, int]:
    failure = row["first_failure"] if row["first_failure"] is not None else float("inf")
    metric = row["metric"]
    return row["potential"], failure, _PREFERRED.index(metric) if metric in _PREFERRED else len(_PREFERRED)
