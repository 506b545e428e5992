"""The first screen: sentences, bars and profiles of methods say what the tables of verdicts say."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from evalsuite.report.labels import THIN
from evalsuite.report.verdict_bar import VerdictBar
from evalsuite.report.verdict_cards import MethodVerdict, Verdicts
from evalsuite.results.verdict_tables import GROUP_COLUMNS, NETWORK, VERDICT_COLUMNS, count_table
from evalsuite.thresholds.verdicts import INFERIOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.data import ReportData


def words(verdict: MethodVerdict) -> str:
    return " ".join(map(str, verdict.sentences)).replace(THIN, " ")


def verdict_of(data: ReportData, method: str) -> MethodVerdict:
    return next(found for found in Verdicts(data).methods() if found.method == method)


def everything(data: ReportData, holds: float | None, fails: float | None, never: int = 0) -> ReportData:
    """The data with another interval of everything, of the method magnitude alone."""
    row = {"method": "magnitude", "scope": NETWORK, "seed": 0, "group": "everything", "checks": 50}
    interval = {"never_decided": never, "noninferior_up_to": holds, "inferior_from": fails}
    return dataclasses.replace(data, groups=pd.DataFrame([row | interval], columns=list(GROUP_COLUMNS)))


@pytest.mark.parametrize(
    ("holds", "fails", "never", "sentence"),
    [
        (0.7, 0.9, 0, "Holds up to 70 % in every check; fails from 90 %."),
        (0.7, 0.9, 3, "Holds up to 70 % in all 47 checks that images can decide; fails from 90 %."),
        (0.0, 0.9, 0, "Not shown to hold in every check; fails from 90 %."),
        (0.0, 0.4997, 0, "Fails from 50 %, the smallest ratio tested."),
        (
            0.7,
            None,
            0,
            "Holds up to 70 % in every check; nothing is shown to fail up to 95 %, the largest ratio tested.",
        ),
        (0.9497, None, 0, "Holds up to 95 %, the largest ratio tested, in every check."),
        (None, None, 50, "None of its checks can be decided by images."),
    ],
)
def test_the_first_sentence_is_the_interval_of_everything(
    holds: float | None, fails: float | None, never: int, sentence: str, findings: ReportData
) -> None:
    verdict = verdict_of(everything(findings, holds, fails, never), "magnitude")
    assert str(verdict.sentences[0]).replace(THIN, " ") == sentence


def test_a_failure_is_named_with_its_size(findings: ReportData) -> None:
    verdict = verdict_of(findings, "magnitude")
    rows = findings.verdicts.query("method == 'magnitude' and verdict == 'inferior'")
    first = rows["target_ratio"].min()
    rows = rows[rows["target_ratio"] == first]
    worst = rows.loc[(rows["drop"] / rows["drop_tolerance"]).idxmax()]
    assert f"Of what fails at {100 * first:.0f} %, it loses most in" in words(verdict)
    table = findings.measurements
    same = table[(table["metric"] == worst["metric"]) & (table["condition"] == worst["condition"])]
    parent = same.loc[same["method"] == "dense", "value"].iloc[0]
    candidate = same.query("method == 'magnitude' and target_ratio == @first")["value"].iloc[0]
    times = worst["drop"] / worst["drop_tolerance"]
    assert f": {parent:.3f} to {candidate:.3f}, {times:.1f} times the tolerance." in words(verdict)


def test_the_largest_failure_is_said_to_be_that_of_those_beyond_the_control(findings: ReportData) -> None:
    """It was called the largest of all: "loses most in impulse noise", .013, where zoom blur lost .022."""
    rows = findings.verdicts.query("method == 'magnitude' and verdict == 'inferior'")
    first = rows["target_ratio"].min()
    failures = rows[rows["target_ratio"] == first]
    beyond = pd.Series("", index=findings.verdicts.index)
    beyond[(failures["drop"] / failures["drop_tolerance"]).idxmin()] = INFERIOR
    checks = findings.verdicts.assign(beyond_control=0.0, beyond_control_verdict=beyond)
    text = words(verdict_of(dataclasses.replace(findings, verdicts=checks), "magnitude"))
    assert f"Of what fails at {100 * first:.0f} % beyond the control, it loses most in" in text


def test_counts_add_up_and_are_those_of_the_table(findings: ReportData) -> None:
    for verdict in Verdicts(findings).methods():
        rows = findings.counts[findings.counts["method"] == verdict.method].to_dict("records")
        counts = {float(row["target_ratio"]): row for row in rows}
        assert [step.target for step in verdict.profile] == sorted(counts)
        for step in verdict.profile:
            assert step.inferior == counts[step.target][INFERIOR]
            assert step.checks == counts[step.target]["checks"] > 40
            assert step.control is None
            assert step.harmless == (2, 5)
            assert step.measured == counts[step.target]["measured_failures"]
        assert "chance alone puts 2 there, seldom more than 5." in words(verdict)


def test_bars_end_where_their_groups_are_shown_to_fail(findings: ReportData) -> None:
    verdict = verdict_of(findings, "random")
    groups = findings.groups[findings.groups["method"] == "random"].set_index("group")
    bars = {bar.label: bar for bar in verdict.bars}
    assert list(bars)[-1] == "Everything"
    assert bars["Random noise"].fails == pytest.approx(groups.loc["noise", "inferior_from"])
    assert bars["White-box attacks"].holds == groups.loc["attack", "noninferior_up_to"]
    for bar in verdict.bars:
        assert bar.holds is None or 0 <= bar.holds <= bar.open_until <= bar.last


def test_sentences_have_measured_ratios_alone(findings: ReportData) -> None:
    """They mixed the measured ratio of the interval with the target of the counts: "Fails from 45 % ... At 50 %"."""
    ends = ["noninferior_up_to", "inferior_from"]
    data = dataclasses.replace(
        findings,
        measurements=findings.measurements.assign(ratio=0.9 * findings.measurements["ratio"]),
        thresholds=findings.thresholds.assign(tested="0.45 0.54 0.63 0.72 0.81 0.855"),
        groups=findings.groups.assign(**{name: 0.9 * findings.groups[name] for name in ends}),
    )
    for verdict in Verdicts(data).methods():
        ratios = set(re.findall(r"[\d.]+(?= %)", words(verdict)))
        assert ratios
        assert ratios <= {"45", "54", "63", "72", "81", "85.5"}
        assert [step.ratio for step in verdict.profile] == pytest.approx(
            [0.9 * (step.target - 0.0003) for step in verdict.profile]
        )


def test_the_mean_of_several_networks_is_the_scope(synthesis: Callable[..., ReportData]) -> None:
    one, three = Verdicts(synthesis()), Verdicts(synthesis(seeds=(0, 1, 2)))
    assert "one network of each method and ratio" in one.scope()
    assert "899 of them behind each check), outliers among them." in one.scope()
    table = one.data.thresholds
    rest = table[~table["group"].fillna("").str.startswith("ood")]
    alone = Verdicts(dataclasses.replace(one.data, thresholds=rest))
    assert "899 of them behind each check)." in alone.scope()
    assert "mean of 3 networks of each method" in three.scope()
    assert {row["seed"] for row in three.checks} == {"all"}


@pytest.fixture(name="controlled")
def _controlled(findings: ReportData) -> ReportData:
    """The same data with random as a control that loses as much as magnitude, and in fog half of it."""
    mine = findings.verdicts["method"] == "magnitude"
    fog = findings.verdicts["condition"].str.startswith("fog")
    checks = findings.verdicts.assign(
        beyond_control=np.where(mine, np.where(fog, findings.verdicts["drop"] / 2, 0.0), np.nan),
        beyond_control_verdict=np.where(mine & fog, findings.verdicts["verdict"], ""),
    )
    assert tuple(checks.columns) == VERDICT_COLUMNS
    return dataclasses.replace(findings, verdicts=checks, controls=("random",))


def test_what_the_control_loses_too_is_said(controlled: ReportData) -> None:
    verdicts = Verdicts(controlled)
    assert [found.method for found in verdicts.methods()] == ["magnitude", "filter-l1"]
    assert verdicts.control().startswith(
        "The control is random, trained again in the same way but not pruned"
    )
    verdict = verdict_of(controlled, "magnitude")
    first = controlled.verdicts.query("beyond_control_verdict == 'inferior'")["target_ratio"].min()
    assert f"Beyond the control, 1 check fails from {100 * first:.0f} %." in words(verdict)
    fog = controlled.verdicts.query("beyond_control_verdict == 'inferior' and target_ratio == @first")
    mean = controlled.verdicts.assign(aggregate="of-mean", condition="noise").loc[fog.index]
    more = dataclasses.replace(controlled, verdicts=pd.concat([controlled.verdicts, mean], ignore_index=True))
    assert f"Beyond the control, 1 check fails from {100 * first:.0f} %." in words(
        verdict_of(more, "magnitude")
    )  # as the counts: means over groups are no single checks
    counts = controlled.counts.query("method == 'random'").set_index("target_ratio")["non-inferior"]
    assert {step.target: step.control for step in verdict.profile} == counts.to_dict()
    without = Verdicts(dataclasses.replace(controlled, controls=())).control()
    assert without.startswith("There is no control")


def test_runs_side_by_side_have_their_own_verdicts_and_controls(controlled: ReportData) -> None:
    """As `compare` joins them: seeds and methods are named after their runs."""

    def called(table: pd.DataFrame, run: str) -> pd.DataFrame:
        seeds = [seed if seed == "all" else f"{seed} in {run}" for seed in table["seed"]]
        return table.assign(method=table["method"] + f" ({run})", seed=seeds)

    runs = ("a", "b")
    joined: dict[str, Any] = {
        name: pd.concat([called(getattr(controlled, name), run) for run in runs], ignore_index=True)
        for name in ("verdicts", "groups", "counts", "thresholds")
    }
    lower = (joined["counts"]["method"] == "random (b)").to_numpy()
    joined["counts"].loc[lower, "non-inferior"] = 0
    names = ("magnitude", "filter-l1", "random")
    data = dataclasses.replace(
        controlled,
        **joined,
        controls=("random (a)", "random (b)"),
        runs={f"{name} ({run})": run for run in runs for name in names},
    )
    verdicts = {name: Verdicts(data)._of(name) for name in (f"magnitude ({run})" for run in runs)}
    alone = verdict_of(controlled, "magnitude")
    for verdict in verdicts.values():
        assert [bar.holds for bar in verdict.bars] == [bar.holds for bar in alone.bars]
    assert [step.control for step in verdicts["magnitude (a)"].profile] == [s.control for s in alone.profile]
    assert {step.control for step in verdicts["magnitude (b)"].profile} == {0}


def test_runs_of_several_seeds_and_of_one_have_their_own_scopes(
    synthesis: Callable[..., ReportData],
) -> None:
    """The page said of all methods that they are means of three networks."""
    three, one = synthesis(seeds=(0, 1, 2)), synthesis()
    tables: dict[str, Any] = {}
    for name in ("verdicts", "groups", "counts", "thresholds", "measurements"):
        mine, other = getattr(three, name), getattr(one, name)
        tables[name] = pd.concat([mine[mine["method"] != "random"], other[other["method"] == "random"]])
    scope = Verdicts(dataclasses.replace(three, **tables)).scope()
    assert "The verdicts on magnitude, filter-l1 are on the mean of 3 networks" in scope
    assert "The verdicts on random are on one network of each method and ratio" in scope


def test_nothing_beyond_the_control_is_said_as_well(controlled: ReportData) -> None:
    checks = controlled.verdicts.assign(beyond_control_verdict="")
    verdict = verdict_of(dataclasses.replace(controlled, verdicts=checks), "magnitude")
    assert "Beyond the control, nothing is shown to fail." in words(verdict)


@pytest.mark.parametrize(
    ("bar", "tip"),
    [
        (
            ("x", 3, 1, 0.5, 0.9, 0.95),
            "3 checks, 1 of them never decided: shown to hold up to 50 %, shown to fail from 90 %",
        ),
        (("x", 1, 0, 0.0, None, 0.95), "1 check: not shown to hold at any tested ratio, not shown to fail"),
        (("x", 2, 2, None, None, 0.95), "2 checks, which images cannot decide"),
    ],
)
def test_a_bar_in_words(bar: tuple[Any, ...], tip: str) -> None:
    assert VerdictBar(*bar).tip.replace(THIN, " ") == tip


def test_labels_of_ratios_do_not_run_into_each_other(findings: ReportData) -> None:
    verdict = dataclasses.replace(verdict_of(findings, "magnitude"), ratios=(0.5, 0.9, 0.93, 0.95))
    assert [label for _, label in verdict.ticks] == ["50", "95"]
    verdict = dataclasses.replace(verdict, ratios=(0.5, 0.8, 0.9, 0.95))
    assert [label for _, label in verdict.ticks] == ["50", "95"]


def test_without_failures_by_chance_the_sentence_says_none(findings: ReportData) -> None:
    counts = findings.counts.assign(harmless_median=0, harmless_upper_95=0)
    verdict = verdict_of(dataclasses.replace(findings, counts=counts), "magnitude")
    assert "measured above the tolerance; chance alone puts none there." in words(verdict)


def test_tables_without_verdicts_have_no_cards(findings: ReportData) -> None:
    empty = pd.DataFrame()
    assert Verdicts(dataclasses.replace(findings, verdicts=empty, groups=empty, counts=empty)).methods() == []


def test_synthetic_frost_is_in_no_count_as_it_is_in_no_group(findings: ReportData) -> None:
    frost = findings.verdicts[findings.verdicts["condition"] == "fog/3"].assign(condition="frost-synthetic/3")
    harmless = pd.DataFrame(
        columns=["method", "seed", "target_ratio", "harmless_median", "harmless_upper_95"]
    )
    both = count_table(pd.concat([findings.verdicts, frost], ignore_index=True), harmless)
    assert both["checks"].tolist() == count_table(findings.verdicts, harmless)["checks"].tolist()
    assert len(frost) > 0


def test_what_is_not_measured_yet_is_not_called_undecidable(findings: ReportData) -> None:
    verdict = verdict_of(everything(findings, None, None), "magnitude")
    assert "some are not measured at every ratio" in words(verdict)
    assert "cannot decide" not in words(verdict)
    assert verdict.bars[-1].tip == "50 checks, not measured at every ratio"


def test_a_mean_over_a_group_is_named_as_one(findings: ReportData) -> None:
    worst = int(str(findings.verdicts["drop"].idxmax()))
    changed = findings.verdicts.copy()
    row: dict[str, Any] = {"metric": "msp_auroc", "condition": "ood-far", "aggregate": "of-mean", "drop": 3.0}
    for name, value in row.items():
        changed.loc[worst, name] = value
    method = str(changed.loc[worst, "method"])
    first = changed.loc[worst, "target_ratio"]
    keep = (changed["verdict"] != INFERIOR) | (changed["target_ratio"] >= first)
    verdict = verdict_of(dataclasses.replace(findings, verdicts=changed[keep]), method)
    assert "it loses most in mean MSP AUROC on far OOD sets: a drop of 3.000, " in words(verdict)
