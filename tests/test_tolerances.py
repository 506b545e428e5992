"""Tolerances: absolute or relative, per metric and per condition, and the same for thresholds and verdicts."""

from __future__ import annotations

import pandas as pd
import pytest

from evalsuite.errors import UserError
from evalsuite.thresholds.threshold import thresholds
from evalsuite.tolerances import Limit, limit_for, parse_limit, parse_limits, parse_tolerances


def table(nll: tuple[float, ...], *, parent: float, seed: int = 0, condition: str = "clean") -> pd.DataFrame:
    rows = [("dense", 0.0, parent), *(("magnitude", 0.5 + 0.1 * i, value) for i, value in enumerate(nll))]
    frame = pd.DataFrame(rows, columns=["method", "ratio", "value"])
    return frame.assign(metric="nll", condition=condition, seed=seed, higher_is_better=False, group="")


def test_a_share_is_of_the_parents_value() -> None:
    frame = table((2.1, 2.2, 2.5), parent=2.0)
    by_share = thresholds(frame, tolerance={"nll": "10%"}).query("seed == 'all'").iloc[0]
    assert (by_share["potential"], by_share["tolerance"]) == (0.6, 0.2)  # 2.2 is 10 % more: equality passes
    by_amount = thresholds(frame, tolerance={"nll": 0.1}).query("seed == 'all'").iloc[0]
    assert (by_amount["potential"], by_amount["tolerance"]) == (0.5, 0.1)


def test_each_seed_has_the_share_of_its_own_parent() -> None:
    frame = pd.concat([table((2.15,), parent=2.0), table((4.15,), parent=4.0, seed=1)])
    rows = thresholds(frame, tolerance={"nll": "5%"}).set_index("seed")
    assert rows["tolerance"].tolist() == pytest.approx([0.1, 0.2, 0.15])
    assert rows["potential"].tolist() == [0.0, 0.5, 0.5]  # the mean drop 0.15 meets the mean limit 0.15


def test_a_condition_has_its_own_rule_and_without_one_it_has_no_verdict() -> None:
    frame = pd.concat([table((0.3,), parent=0.2), table((0.3,), parent=0.2, condition="fog/3")])
    both = thresholds(frame, tolerance={"nll": {"fog/3": 0.2, "*": 0.05}}).query("seed == 'all'")
    assert both["potential"].tolist() == [0.0, 0.5]
    rows = thresholds(frame, tolerance={"nll": {"fog/3": 0.2}})
    assert set(rows["condition"]) == {"fog/3"}


def test_the_limit_on_a_mean_of_conditions_is_the_mean_of_their_limits() -> None:
    frame = pd.concat([table((0.3,), parent=0.2, condition=name) for name in ("fog/3", "snow/3")])
    frame = frame.assign(group="corruptions")
    rows = thresholds(frame, tolerance={"nll": {"fog/3": 0.3, "corruptions": 0.1}})
    mean = rows.query("aggregate == 'of-mean' and seed == 'all'").iloc[0]
    assert mean["tolerance"] == pytest.approx(0.2)


def test_a_rule_for_an_unmeasured_condition_is_refused_with_its_near_miss() -> None:
    with pytest.raises(
        UserError, match=r"tolerance of nll on an unknown condition 'claen'.*did you mean 'clean'"
    ):
        thresholds(table((0.3,), parent=0.2), tolerance={"nll": {"claen": 0.1}})


@pytest.mark.parametrize("rule", [-1, "-1%", "nan%", float("inf"), "five", "", None])
def test_an_invalid_rule_is_refused(rule: object) -> None:
    with pytest.raises(UserError, match="the tolerance of x is"):
        parse_limit(rule, of=" of x")  # type: ignore[arg-type]  # what a user may write


def test_the_nearest_rule_applies() -> None:
    rules = parse_limits({"fog/3": 1, "corruptions": 2, "*": 3})
    limits = [
        limit_for(rules, *place)
        for place in (("fog/3", "corruptions"), ("snow/3", "corruptions"), ("clean",))
    ]
    assert limits == [Limit(1.0), Limit(2.0), Limit(3.0)]
    assert limit_for(parse_limits({"fog/3": 1}), "clean") is None
    with pytest.raises(UserError, match="empty table"):
        parse_limits({})


@pytest.mark.parametrize("text", ["accuracy", "=0.1", "@fog/3=0.1"])
def test_a_command_line_without_a_tolerance_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected metric=number"):
        parse_tolerances([text])
