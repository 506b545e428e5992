"""The key ``control`` of a suite: a dense network is retrained beside the methods, in each way in which they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalsuite.config.suite_file import load_suite, parse_suite, shipped_suites
from evalsuite.errors import SuiteError
from evalsuite.runs.provenance import described

SUITE = """
name = "s"
ratios = [0.5]
data = {{ name = "digits" }}
model = {{ name = "small-cnn" }}
evaluators = [{{ name = "accuracy" }}]
{0}
[recipe]
epochs = 1
"""
MAGNITUDE = '{ name = "magnitude" }'


def read(producers: str, top: str = "") -> list[tuple[str, dict[str, object], int]]:
    """Label, settings and epochs of the controls of a suite."""
    suite = parse_suite(SUITE.format(f"{top}\nproducers = [{producers}]"), source=Path("s.toml"))
    return [
        (config.label, dict(config.settings), suite.retraining_of(config.label).epochs)
        for config in suite.producers
        if config.plugin.dense
    ]


def test_a_suite_that_retrains_has_a_control() -> None:
    assert read(MAGNITUDE) == [("dense-retrained", {"schedule": "iterative"}, 1)]
    assert read(MAGNITUDE, "control = true") == read(MAGNITUDE)


def test_a_control_that_is_there_is_not_added_again() -> None:
    own = '{ name = "dense-retrained", label = "mine" }'
    assert [label for label, *_ in read(f"{own}, {MAGNITUDE}")] == ["mine"]


def test_each_way_of_retraining_has_its_own() -> None:
    one_shot = '{ name = "magnitude", label = "once", schedule = "one-shot" }'
    longer = '{ name = "magnitude", label = "longer", retraining = { epochs = 3 } }'
    assert read(f"{MAGNITUDE}, {one_shot}, {longer}") == [
        ("dense-retrained", {"schedule": "iterative"}, 1),
        ("dense-retrained, as once", {"schedule": "one-shot"}, 1),
        ("dense-retrained, as longer", {"schedule": "iterative"}, 3),
    ]


def test_methods_that_are_not_retrained_have_none() -> None:
    assert read('{ name = "snip" }, { name = "scratch-e" }') == []


def test_the_control_can_be_left_out_and_the_record_says_so() -> None:
    assert read(MAGNITUDE, "control = false") == []
    suites = [
        parse_suite(SUITE.format(f"{top}\nproducers = [{MAGNITUDE}]"), source=Path("s.toml"))
        for top in ("", "control = false")
    ]
    assert ["control" in described(suite) for suite in suites] == [False, True]


@pytest.mark.parametrize("value", ["true", "false"])
@pytest.mark.parametrize("producers", ['{ name = "snip" }', f'{MAGNITUDE}, {{ name = "dense-retrained" }}'])
def test_a_key_without_effect_is_refused(producers: str, value: str) -> None:
    with pytest.raises(
        SuiteError, match=rf"s\.toml: found control = {value}, which has no effect: no method"
    ):
        read(producers, f"control = {value}")


def test_every_shipped_suite_has_a_control() -> None:
    for name in shipped_suites():
        assert any(config.plugin.dense for config in load_suite(name).producers), name
