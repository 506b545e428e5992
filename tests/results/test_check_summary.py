"""The summary of a check in Markdown: what it says, what it lists first, and names that are other people's."""

from __future__ import annotations

from typing import Any

import pandas as pd

from evalsuite.results.check_summary import SHOWN, markdown_summary
from evalsuite.results.check_verdicts import COLUMNS

ABOUT: dict[str, Any] = {
    "candidate": "light",
    "seed": 0,
    "metric": "accuracy",
    "condition": "clean",
    "reason": "",
    "value": 0.9,
    "parent": 0.9,
    "drop": 0.0,
    "drop_low": -0.01,
    "drop_high": 0.01,
    "tolerance": 0.1,
    "verdict": "non-inferior",
    "passed": True,
    "decidable": True,
}
FAILS: dict[str, Any] = {"verdict": "inferior", "value": 0.5, "drop": 0.4, "passed": False}
ABOVE: dict[str, Any] = {"verdict": "undecided", "value": 0.3, "drop": 0.6, "passed": False}


def table_of(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([ABOUT | row for row in rows], columns=list(COLUMNS))


def test_a_sequential_check_says_how_many_images_it_took() -> None:
    early = {"images": 625, "images_available": 10_000, "stopping": "decided early"}
    rows = table_of(early, early | {"images": 1250}, early | {"images": 5000, "stopping": "given up"})
    text = markdown_summary(rows, "measured")
    assert (
        "2 of 3 checks were decided before the last image (after 625 to 1,250 images), 1 was given up" in text
    )
    assert "all together took 23% of their images" in text
    assert "Sequential" not in markdown_summary(table_of({}), "measured")


def test_each_candidate_has_its_verdict_and_its_counts() -> None:
    text = markdown_summary(table_of({}, FAILS, {"candidate": "sound"}), "measured")
    assert "| light | **DO NOT SHIP** | 1 of 2 | 1 | 0 |" in text
    assert "| sound | **SHIP** | 1 of 1 | 0 | 0 |" in text
    assert "Exit code 1: light DO NOT SHIP." in text
    assert "sound: " not in text  # loses nothing that is to be listed


def test_what_is_shown_to_fail_stands_before_larger_measured_drops() -> None:
    text = markdown_summary(table_of({**ABOVE, "condition": "fog/3"}, FAILS), "measured")
    shown, above = (
        "0.4000 (-0.0100 to 0.0100) | 0.1 | inferior |",
        "0.6000 (-0.0100 to 0.0100) | 0.1 | undecided |",
    )
    assert text.index(shown) < text.index(above)


def test_the_checks_that_fail_are_counted_as_above_them() -> None:
    """What fails by its measured drop alone is not shown to fail: both counts stand beside the sum."""
    within = {"verdict": "undecided", "passed": True}
    text = markdown_summary(table_of(FAILS, {**ABOVE, "condition": "fog/3"}, within), "measured")
    assert "| light | **DO NOT SHIP** | 0 of 3 | 1 | 2 |" in text
    assert "light: 2 checks fail (1 shown, 1 undecided)" in text
    missing = {**ABOVE, "value": float("nan"), "drop": float("nan"), "reason": "x"}
    assert "light: 1 check fails (1 not measured)" in markdown_summary(table_of(missing), "measured")


def test_long_lists_are_cut_and_say_so() -> None:
    rows = [{**FAILS, "condition": f"fog/{level}"} for level in range(SHOWN + 3)]
    text = markdown_summary(table_of(*rows), "measured")
    assert text.count("| inferior |") == SHOWN
    assert "and 3 more: see the report." in text


def test_a_check_without_a_number_has_its_reason() -> None:
    missing = {"value": float("nan"), "drop": float("nan"), "passed": False, "reason": "out of memory"}
    assert "| accuracy on clean | | | | 0.1 | out of memory |" in markdown_summary(
        table_of(missing), "measured"
    )


def test_names_of_files_are_text_and_no_markup() -> None:
    text = markdown_summary(table_of({**FAILS, "candidate": "a|b <img src=x>\n# [c](d)"}), "measured")
    (line,) = (line for line in text.splitlines() if "DO NOT SHIP**" in line)
    assert line.startswith(r"| a\|b \<img src=x\> \# \[c\](d) | **DO NOT SHIP** |")
    assert "<img" not in text.replace(r"\<img", "")
