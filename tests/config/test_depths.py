"""The ready depths: every table of theirs makes an evaluator, and a suite changes what it wants to."""

from __future__ import annotations

from typing import Any

import pytest

from evalsuite.config.depths import DEPTHS, OUTLIERS, depth_tables
from evalsuite.config.suite import Suite
from evalsuite.config.suite_file import suite_from_tables
from evalsuite.errors import SuiteError


def suite(**changes: Any) -> Suite:
    from pathlib import Path

    raw = {
        "name": "x",
        "ratios": [0.5],
        "data": {"name": "digits"},
        "model": {"name": "small-cnn"},
        "producers": [{"name": "magnitude"}],
        "depth": "standard",
    }
    return suite_from_tables({**raw, **changes}, source=Path("x.toml"))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("data", [*OUTLIERS, "svhn"])
def test_every_depth_can_be_run_on_every_data_set(depth: str, data: str) -> None:
    found = suite(depth=depth, data={"name": data})
    assert ("ood" in [choice.label for choice in found.evaluators]) == (data in OUTLIERS)


def test_deeper_is_more() -> None:
    quick, standard, full = (suite(depth=depth) for depth in ("quick", "standard", "full"))
    assert set(quick.metrics) < set(standard.metrics) < set(full.metrics)
    views = [sum(len(one.plugin.needs) for one in found.evaluators) for found in (quick, standard, full)]
    assert views == sorted(views)


def test_a_suite_changes_the_keys_that_it_has_and_adds_the_rest() -> None:
    found = suite(
        evaluators=[
            {"name": "attack", "images": 7},
            {"name": "corruptions", "label": "hard", "severities": [5]},
        ]
    )
    by_label = {choice.label: choice.plugin for choice in found.evaluators}
    assert by_label["attack"].images == 7  # type: ignore[attr-defined]  # an attack's
    assert by_label["attack"].probe == 64  # type: ignore[attr-defined]  # as the depth says
    assert by_label["hard"].severities == (5,)  # type: ignore[attr-defined]  # a corruption's
    assert "corruptions" in by_label


def test_a_network_of_somebody_else_has_seen_the_validation_images() -> None:
    held = {one.label: one.plugin for one in suite(checkpoint="x.pt").evaluators}["calibration"]
    assert held.held_out == "cross-fit"  # type: ignore[attr-defined]  # a calibration's


def test_no_depth_is_the_suites_own_tests_and_a_wrong_one_is_named() -> None:
    assert depth_tables("", [{"name": "noise"}], data="digits", trained=True) == [{"name": "noise"}]
    with pytest.raises(SuiteError, match=r"x\.toml: unknown depth 'quik'.*did you mean 'quick'"):
        suite(depth="quik")
