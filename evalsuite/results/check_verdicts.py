"""Verdicts on finished models: a row for each check, and for each candidate whether it may ship."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from evalsuite.runs.store import Key
from evalsuite.thresholds.curves import ULPS
from evalsuite.thresholds.verdicts import INFERIOR, NONINFERIOR, UNDECIDED
from evalsuite.tolerances import Limit, limit_for, parse_limits
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from collections.abc import Collection

    from evalsuite.results.run import Run

UndecidedRule = Literal["measured", "pass", "fail"]
"""What becomes of a check that the images leave undecided: its measured drop decides, it passes, or it fails."""
UNDECIDED_RULES: tuple[UndecidedRule, ...] = get_args(UndecidedRule)
Outcome = Literal["SHIP", "DO NOT SHIP", "UNDECIDED"]
COLUMNS = (
    *("candidate", "seed", "ratio", "parameters", "macs", "packed", "metric", "condition"),
    *("value", "parent", "drop", "drop_low", "drop_high", "tolerance", "verdict", "verdict_level"),
    *("decidable", "shown", "passed", "controls", "controls_inferior", "controls_failed"),
    *("reason", "flags", "sample", "evaluator"),
    *("images", "images_available", "stopping"),
)
DECIDED_EARLY, GIVEN_UP = "decided early", "given up"
"""How a check stopped before the last image: its verdict was decided, or could hardly be decided any more."""
YES, NO, OPEN = "commensurate", "not commensurate", "open"
"""What the verdicts were called in the column ``shown`` up to evalsuite 0.2, which stays for one release."""
EARLIER = {NONINFERIOR: YES, INFERIOR: NO, UNDECIDED: OPEN}


def verdict_table(
    run: Run, *, undecided: UndecidedRule = "measured", controls: Collection[str] = ()
) -> pd.DataFrame:
    """Returns one row per candidate, metric and condition: value, parent's value, drop, interval, verdict.

    ``verdict`` is ``non-inferior``, ``inferior`` or ``undecided``, at the level in ``verdict_level``
    (`evalsuite.thresholds.verdicts`); for all rows of a candidate at once *non-inferior* needs no correction (an
    intersection-union test), and of the rows that are *inferior* any is wrong in at most 2.5 % of samples. Metrics that
    have no bounds are always undecided. ``shown`` has the same in the words of earlier versions.

    ``controls`` is the number of dense networks that were measured in the same way, ``controls_inferior`` and
    ``controls_failed`` how many of them are inferior there, and how many are measured to lose more than the tolerance.

    A condition that is not defined for the data (a corruption of colours on images of two channels) has a reason for
    the parent and the same for the candidate: there is nothing to compare, and no candidate fails by it, as long as the
    metric is measured elsewhere.

    ``flags`` are warnings about the candidate's number: a masked gradient makes an attack look withstood. ``sample``
    says which part of the test images was looked at; it is empty for all.

    ``images`` is the number of images behind a row, ``images_available`` how many there were, and ``stopping`` why a
    sequential check stopped before the last of them: ``decided early`` or ``given up``; empty for the others. The
    parent's value is that on the same images.

    Args:
        run: The measurements.
        undecided: What becomes of checks that the images leave undecided. Checks that no images decide (binned
            calibration errors have no sound bounds) pass where their measured drop is within the tolerance.
        controls: Methods of the run that are dense networks, which have no rows of their own.
    """
    table = run.measurements
    rules = {name: parse_limits(tolerance) for name, tolerance in run.tolerances.items()}
    judged = table[table["metric"].isin(list(rules))]
    keys = ["seed", "metric", "condition"]
    parents = judged[judged["method"] == DENSE].set_index(keys)[["value", "reason"]]
    rows = judged[judged["method"] != DENSE].join(
        parents.set_axis(["parent", "parent_reason"], axis=1), on=keys
    )
    rows = _with_stages(run, rows)
    rows["tolerance"] = [_tolerated(rules[row["metric"]], row) for _, row in rows.iterrows()]
    rows = rows[rows["tolerance"].notna()]
    within = _is_within(rows)
    rows["verdict"] = rows["verdict"].where(rows["verdict"] != "", UNDECIDED)
    rows["shown"] = rows["verdict"].map(EARLIER)
    rows["decidable"] = rows["noninferiority_p"].notna()
    open_passes = {"measured": within, "pass": rows["value"].notna(), "fail": within & ~rows["decidable"]}[
        undecided
    ]
    rows["passed"] = (
        (rows["verdict"] == NONINFERIOR)
        | ((rows["verdict"] == UNDECIDED) & open_passes)
        | _incomparable(rows)
    )
    early = (rows["images"] < rows["images_available"]).fillna(False).astype(bool)
    rows["stopping"] = np.where(~early, "", np.where(rows["verdict"] == UNDECIDED, GIVEN_UP, DECIDED_EARLY))
    rows["sample"] = str((run.record.get("sample") or {}).get("text", ""))
    is_control = rows["method"].isin(list(controls))
    rows = _with_controls(rows[~is_control], rows[is_control].assign(failed=~within[is_control]))
    return rows.rename(columns={"method": "candidate"})[list(COLUMNS)].reset_index(drop=True)


def _with_stages(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with their numbers of images; the parent's value of those in stages is that on the same images."""
    stages = run.record.get("stages") or ()
    names = ("method", "seed", "target_ratio", "metric", "condition")
    places = rows[list(names)].itertuples(index=False, name=None)
    staged = np.array(
        [
            bool(stages) and run.comparison.is_staged(Key(method, seed, ratio), metric, condition)
            for method, seed, ratio, metric, condition in places
        ],
        dtype=bool,
    )
    total = rows["n"].where(~staged, stages[-1] if stages else 0)
    sign = np.where(rows["higher_is_better"].astype(bool), 1.0, -1.0)
    parent = rows["parent"].where(~staged | rows["drop"].isna(), rows["value"] + sign * rows["drop"])
    return rows.assign(images=rows["n"], images_available=total, parent=parent)


def stages_phrase(row: Mapping[str, Any]) -> str:
    """Returns where a check stopped before the last image, as the end of a sentence; nothing where it saw all.

    >>> stages_phrase({"stopping": "decided early", "images": 625, "images_available": 10000})
    '; decided early, after 625 of 10,000 images'
    """
    if row.get("stopping") not in (DECIDED_EARLY, GIVEN_UP):
        return ""
    return f"; {row['stopping']}, after {int(row['images']):,} of {int(row['images_available']):,} images"


def stages_sentence(verdicts: pd.DataFrame) -> str:
    """Returns how many checks of a sequential check stopped before the last image; empty where all saw all.

    Args:
        verdicts: See `verdict_table`.
    """
    counts = verdicts["stopping"].value_counts()
    decided, given_up = (int(counts.get(name, 0)) for name in (DECIDED_EARLY, GIVEN_UP))
    if not decided + given_up:
        return ""
    share = float(verdicts["images"].sum() / verdicts["images_available"].sum())
    early = verdicts.loc[verdicts["stopping"] == DECIDED_EARLY, "images"]
    took = f" (after {int(early.min()):,} to {int(early.max()):,} images)" if decided else ""
    hopeless = f", {given_up} {'was' if given_up == 1 else 'were'} given up as undecided" if given_up else ""
    return (
        f"Sequential: {decided} of {len(verdicts)} checks were decided before the last image{took}{hopeless}; all "
        f"together took {share:.0%} of their images. Numbers that stopped early are biased, as a rule away from "
        "their tolerance."
    )


@dataclass(frozen=True, slots=True)
class CandidateVerdict:
    """The verdict on one candidate over all its checks.

    Attributes:
        candidate: Its name.
        seed: Seed of its parent.
        checks: Number of checks, those left out that are not defined for the data.
        noninferior: Checks that are shown to hold.
        inferior: Checks that are shown to fail.
        missing: Checks without a number.
        undecidable: Checks that no images decide.
        measured_failures: Checks whose measured drop is above the tolerance, shown or not.
        passed: Whether every check passes, by the rule for undecided ones.
    """

    candidate: str
    seed: int
    checks: int
    noninferior: int
    inferior: int
    missing: int
    undecidable: int
    measured_failures: int
    passed: bool

    @property
    def undecided(self) -> int:
        """Checks that these images leave open."""
        return self.checks - self.noninferior - self.inferior - self.missing

    @property
    def outcome(self) -> Outcome:
        """Whether it may ship: not if a check is inferior or has no number; only if all others are non-inferior.

        Checks that no images decide stand in the way where their measured drop is above the tolerance.
        """
        if self.inferior or self.missing:
            return "DO NOT SHIP"
        decided = self.noninferior == self.checks - self.undecidable
        return "SHIP" if decided and not self.measured_failures else "UNDECIDED"

    @property
    def reason(self) -> str:
        """The counts behind the outcome, in words.

        >>> CandidateVerdict("light", 0, 40, 30, 2, 0, 0, 5, False).reason
        '2 of 40 checks are shown to fail, 30 to hold; 8 are undecided, 3 of them measured above their tolerance'
        """
        verb = "is" if self.inferior == 1 else "are"
        text = f"{self.inferior} of {self.checks} checks {verb} shown to fail, {self.noninferior} to hold"
        text += f"; {self.missing} could not be measured" if self.missing else ""
        if not self.undecided:
            return text
        above = max(0, self.measured_failures - self.inferior)
        if self.undecided == 1:
            text += "; 1 is undecided" + (", measured above its tolerance" if above else "")
        else:
            text += f"; {self.undecided} are undecided"
            text += f", {above} of them measured above their tolerance" if above else ""
        which = "it" if self.undecided == 1 else f"{self.undecidable} of the {self.undecided}"
        return text + (f" (no number of images decides {which})" if self.undecidable else "")

    def _repr_html_(self) -> str:
        """The outcome and its reason, as notebooks show them."""
        return f"<p><b>{escape(self.candidate)}: {self.outcome}</b>. {escape(self.reason)}.</p>"


def failing_counts(rows: pd.DataFrame) -> str:
    """Returns how many of some failing checks are shown to fail, undecided, and without a number: '2 shown'.

    Args:
        rows: Those rows of `verdict_table` that do not pass.
    """
    missing, inferior = rows["value"].isna(), rows["verdict"] == INFERIOR
    counts = {
        "shown": inferior & ~missing,
        "undecided": ~inferior & ~missing,
        "not measured": missing,
    }
    return ", ".join(f"{int(which.sum())} {name}" for name, which in counts.items() if which.any())


def candidate_verdicts(verdicts: pd.DataFrame) -> list[CandidateVerdict]:
    """Returns the verdict on each candidate, in the order of the table."""
    return [
        _candidate_verdict(str(candidate), int(str(seed)), rows)
        for (candidate, seed), rows in verdicts.groupby(["candidate", "seed"], sort=False)
    ]


def _candidate_verdict(candidate: str, seed: int, rows: pd.DataFrame) -> CandidateVerdict:
    missing = rows["value"].isna()
    rows = rows[~(missing & rows["passed"])]  # what is not defined for the data is no check
    missing = rows["value"].isna()
    within = _is_within(rows)
    return CandidateVerdict(
        candidate,
        seed,
        checks=len(rows),
        noninferior=int((rows["verdict"] == NONINFERIOR).sum()),
        inferior=int((rows["verdict"] == INFERIOR).sum()),
        missing=int(missing.sum()),
        undecidable=int((~rows["decidable"] & ~missing).sum()),
        measured_failures=int((~within & ~missing & (rows["verdict"] != NONINFERIOR)).sum()),
        passed=bool(rows["passed"].all()),
    )


def overall_outcome(verdicts: Iterable[CandidateVerdict]) -> Outcome:
    """Returns the outcome of several candidates: the worst of theirs."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return next((outcome for outcome in ("DO NOT SHIP", "UNDECIDED") if outcome in outcomes), "SHIP")


def exit_reason(verdicts: Iterable[CandidateVerdict], undecided: UndecidedRule) -> tuple[int, str]:
    """Returns the exit code of a check, and why it is that, in one sentence."""
    verdicts = list(verdicts)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        still_open = [verdict.candidate for verdict in verdicts if verdict.outcome == "UNDECIDED"]
        rule = (
            f"; {', '.join(still_open)} UNDECIDED, which passes by --undecided {undecided}"
            if still_open
            else ""
        )
        return 0, f"no candidate fails{rule}"
    named = [
        f"{verdict.candidate} {verdict.outcome}"
        + (f", which fails by --undecided {undecided}" if verdict.outcome == "UNDECIDED" else "")
        for verdict in failed
    ]
    return 1, "; ".join(named)


def check_document(run: Run, verdicts: pd.DataFrame, undecided: UndecidedRule) -> dict[str, Any]:
    """Returns a check as plain JSON: outcome, exit code and its reason, candidates, and every check.

    Args:
        run: The measurements.
        verdicts: See `verdict_table`.
        undecided: The rule for undecided checks.
    """
    candidates = candidate_verdicts(verdicts)
    code, reason = exit_reason(candidates, undecided)
    return {
        "evalsuite": run.record["versions"]["evalsuite"],
        "outcome": overall_outcome(candidates),
        "exit_code": code,
        "reason": reason,
        "undecided": undecided,
        "n": int(run.measurements["n"].max()) if run.measurements["n"].notna().any() else 0,
        "sample": sample_of(verdicts),
        "report": str(run.path / "index.html"),
        "candidates": [
            {
                **asdict(verdict),
                "undecided": verdict.undecided,
                "outcome": verdict.outcome,
                "reason": verdict.reason,
            }
            for verdict in candidates
        ],
        "checks": [
            {str(name): _plain(value) for name, value in row.items()} for row in verdicts.to_dict("records")
        ],
    }


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it: no NumPy type, ``None`` for what is missing."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if not isinstance(value, str | bool) and pd.isna(value) else value


def _with_controls(rows: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """The rows of candidates with how many controls of their seed were measured, are inferior, and failed."""
    measured = controls[controls["status"] == "ok"].assign(inferior=controls["verdict"] == INFERIOR)
    counts = measured.groupby(["seed", "metric", "condition"])[["inferior", "failed"]].agg("sum")
    counts["controls"] = measured.groupby(["seed", "metric", "condition"]).size()
    names = {"inferior": "controls_inferior", "failed": "controls_failed"}
    joined = rows.join(counts.rename(columns=names), on=["seed", "metric", "condition"])
    columns = ["controls", *names.values()]
    return joined.assign(**joined[columns].fillna(0).astype(int))


def _is_within(rows: pd.DataFrame) -> pd.Series[Any]:
    """Whether each measured drop is within its tolerance; equality passes, as in thresholds."""
    slack = ULPS * np.finfo(np.float64).eps * rows["tolerance"].clip(lower=1.0)
    return rows["drop"] <= rows["tolerance"] + slack


def _tolerated(rules: Mapping[str, Limit], row: pd.Series[Any]) -> float:
    """Largest drop that is commensurate in one row; NaN where there is no tolerance."""
    limit = limit_for(rules, row["condition"], row["group"])
    return np.nan if limit is None else limit.at(float(row["parent"]))


def sentence(row: Mapping[str, Any]) -> str:
    """Returns one verdict in words."""
    if row["reason"]:
        return f"{row['metric']} on {row['condition']} could not be measured: {row['reason']}"
    within = row["drop"] <= row["tolerance"] and not row["passed"]
    return (
        f"{row['metric']} on {row['condition']} is {row['value']:.4f}, the parent's {row['parent']:.4f}: "
        f"a drop of {row['drop']:.4f}, tolerated are {row['tolerance']:g}"
        + (", which the images leave undecided" if within else "")
        + controls_phrase(row)
    )


def case_text(row: Mapping[str, Any]) -> str:
    """Returns the numbers of one verdict, one fact per line."""
    if pd.isna(row["value"]):
        return str(row["reason"])
    low, high = row.get("drop_low", np.nan), row.get("drop_high", np.nan)
    interval = "" if pd.isna(low) or pd.isna(high) else f" (95 % interval {low:.4f} to {high:.4f})"
    level = f", at {row['verdict_level']}" if row.get("verdict_level") else ""
    lines = [
        f"{row['metric']} on {row['condition']}: {row['value']:.4f}, the parent's {row['parent']:.4f}",
        f"drop {row['drop']:.4f}{interval}, tolerance {row['tolerance']:g}",
        f"verdict: {row.get('verdict', '')}{level}{stages_phrase(row)}",
    ]
    return "\n".join([*lines, *filter(None, [controls_phrase(row).removeprefix("; ")])])


def controls_phrase(row: Mapping[str, Any]) -> str:
    """Returns what the controls of a row show, as the end of a sentence; nothing without controls.

    >>> controls_phrase({"controls": 2, "controls_failed": 1, "controls_inferior": 0})
    '; of 2 dense controls 1 loses more than that as well, 0 inferior'
    """
    count, failed = row.get("controls", 0), row.get("controls_failed", 0)
    if not count > 0:
        return ""
    verb = "loses" if failed == 1 else "lose"
    return (
        f"; of {count} dense control{'s' * (count > 1)} {failed} {verb} more than that as well, "
        f"{row['controls_inferior']} inferior"
    )


def _incomparable(rows: pd.DataFrame) -> pd.Series[Any]:
    """Whether neither parent nor candidate has a number, for the same reason, and the metric has others."""
    without = rows["value"].isna() & rows["parent"].isna() & (rows["reason"] != "")
    measured = rows["value"].notna().groupby([rows["method"], rows["metric"]]).transform("any")
    return without & (rows["reason"] == rows["parent_reason"]) & measured


def sample_of(verdicts: pd.DataFrame) -> str:
    """Returns which part of the test images verdicts are about; empty for all."""
    return next((text for text in verdicts["sample"] if isinstance(text, str) and text), "")
