"""What breaks: maps of drops, attacks over the radius, score histograms, slopes, pictures, and who may be compared."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from PIL import Image

from evalsuite.errors import StoreError, UserError
from evalsuite.report import excess, trust
from evalsuite.report.breaking import Breaking, breaking
from evalsuite.report.figures import drawn, figures, specifications
from evalsuite.report.findings import Findings, headline
from evalsuite.report.matrix import COLUMNS, answer, answered
from evalsuite.report.page import page
from evalsuite.report.verdicts import verdict
from evalsuite.report.wording import THIN, condition_label, group_label, metric_label, subject
from evalsuite.types import Picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def shot(kind: Any, row: str, column: str, note: str = "") -> Picture:
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "PNG")
    return Picture(kind, row, column, note, file.getvalue())


@pytest.fixture(scope="module")
def full(synthesis: Callable[..., Findings]) -> Findings:
    """Findings with everything that a run can bring."""
    found = synthesis(ratios=(0.5, 0.8, 0.9), severities=(1, 3))
    robust = [
        {"method": m, "seed": s, "target_ratio": t, "ratio": t, "norm": "Linf", "attack": a}
        | {"epsilon": e, "value": 0.9 - 0.1 * e - 0.2 * t - 0.02 * s, "n": 200}
        for m, t in (("dense", 0.0), ("magnitude", 0.8), ("random", 0.8))
        for s in (0, 1)
        for a in ("fgsm", "worst")
        for e in (0.0, 1.0, 2.0)
    ]
    scores = [
        {"method": m, "seed": 0, "target_ratio": t, "ratio": t, "detector": "msp", "sample": sample}
        | {"group": "", "low": -1 + 0.5 * i, "high": -0.5 + 0.5 * i, "count": 10 * i + 1}
        for m, t in (("dense", 0.0), ("magnitude", 0.8))
        for sample in ("test", "letters")
        for i in (1, 0)
    ]
    steep = {"method": "magnitude", "seed": "all", "condition": "corruptions", "points": 3, "n": 899}
    steep |= {"slope": 4.5, "images_low": 3.0, "images_high": 6.0, "seeds_low": None, "seeds_high": None}
    steep |= {"published_low": 4.0, "published_high": 5.0}
    fair = {"first": "magnitude", "second": "<q>random", "pairs": 3, "setup": "S2", "fair": False}
    fair |= {"why": "at 50 %: 5 and 7 epochs of retraining", "S1": True, "S2": True, "S3.1": False}
    fair |= {"S3.2": False, "S4.1": None, "S4.2": None, "SX-A": False, "SX-B": False}
    record = {
        **found.record,
        "spent": {"attack": {"cells": 19, "seconds": 8.0}, "ood": {"cells": 1, "seconds": 9.5}},
    }
    return dataclasses.replace(
        found,
        robust=pd.DataFrame(robust),
        histograms=pd.DataFrame(scores),
        excess=pd.DataFrame([steep]),
        fairness=pd.DataFrame([fair]),
        record=record,
        pictures=(
            shot("broken", "", "class <i>3", "magnitude at 50 %"),
            shot("corruption", "", "as it is"),
            shot("corruption", "fog", "severity 3"),
            shot("corruption", "fog", "severity 5"),
            shot("attack", "parent, fgsm", "class 1"),
        ),
        no_pictures={},
    )


def test_a_map_has_the_mean_drop_of_every_corruption(full: Findings) -> None:
    found = breaking(full)
    sheet = next(one for one in found.sheets if one.title == "random: generated corruptions")
    assert sheet.rows[:2] == ("gaussian noise", "shot noise")
    assert sheet.columns == ("1", "3")
    table = full.measurements
    for target in (0.5, 0.9):
        at = dataclasses.replace(found, chosen=target)
        rows = table[(table["method"] == "random") & (table["target_ratio"] == target)]
        for line in sheet.cells:
            for cell in line:
                assert cell is not None
                mine = rows[(rows["metric"] == "accuracy") & (rows["condition"] == cell[1])]
                assert at.drop(cell) == pytest.approx(mine["drop"].mean(), abs=1e-5)


def test_the_ratio_shown_first_is_the_last_that_test_accuracy_allows(full: Findings) -> None:
    kept = [
        row["potential"]
        for row in headline(full.thresholds)
        if (row["metric"], row["condition"]) == ("accuracy", "clean")
    ]
    found = breaking(full)
    assert found.chosen is not None
    assert abs(found.chosen - max(kept)) < 0.01
    assert found.targets == (0.5, 0.8, 0.9)


def test_drops_read_as_points_with_a_true_minus() -> None:
    assert [Breaking.text(drop) for drop in (0.1234, -0.05, -0.0001, None)] == [
        "12.3",
        "\u22125.0",
        "0.0",
        "\u2013",
    ]


def test_official_and_generated_corruptions_have_maps_of_their_own(
    synthesis: Callable[..., Findings],
) -> None:
    found = synthesis(methods=("magnitude",))
    official = found.measurements.copy()
    inside = official["group"] == "corruptions"
    official.loc[inside, "condition"] = official.loc[inside, "condition"].str.replace("/", " official/")
    official.loc[inside, "group"] = "corruptions official"
    both = pd.concat([found.measurements, official[inside]], ignore_index=True)
    titles = [sheet.title for sheet in breaking(dataclasses.replace(found, measurements=both)).sheets]
    assert titles == ["magnitude: generated corruptions", "magnitude: official corruptions"]


def test_classes_are_a_map_of_methods(synthesis: Callable[..., Findings]) -> None:
    found = synthesis(methods=("magnitude", "random"), ratios=(0.5,))
    table = found.measurements
    mine = table[(table["metric"] == "accuracy") & (table["condition"] == "clean")]
    classes = mine.assign(metric="class_accuracy", condition="class/7", group="classes")
    (sheet,) = (
        one
        for one in breaking(
            dataclasses.replace(found, measurements=pd.concat([table, classes], ignore_index=True))
        ).sheets
        if one.method is None
    )
    assert (sheet.title, sheet.rows, sheet.columns) == ("Classes", ("class 7",), ("magnitude", "random"))
    assert sheet.cells == (((0, "class/7"), (1, "class/7")),)


def test_attacks_are_means_over_seeds_and_the_worst_comes_first(full: Findings) -> None:
    robust = breaking(full).data["robust"]
    assert list(robust) == ["worst attack, Linf", "FGSM, Linf"]
    assert robust["FGSM, Linf"][:2] == [["dense", 0.0, 0.0, 0.89], ["dense", 0.0, 1.0, 0.79]]
    assert ["magnitude", 0.8, 2.0, pytest.approx(0.53)] in robust["FGSM, Linf"]


def test_histograms_keep_their_bins_in_order(full: Findings) -> None:
    scores = breaking(full).data["scores"]["msp"]
    assert scores["edges"] == [-1.0, -0.5, 0.0]
    assert scores["sets"] == ["letters"]
    assert scores["counts"]["magnitude@0.8@letters"] == [1, 11]


def test_slopes_say_what_their_intervals_are_of(full: Findings) -> None:
    (row,) = excess.slopes(full)
    assert (row["low"], row["high"], row["wide_low"], row["wide_high"]) == (3.0, 6.0, 3.0, 6.0)
    assert (row["value"], row["images"], row["seeds"]) == ("4.5 points", "3.0 to 6.0", "")
    assert row["condition"] == "all generated corruptions"


def test_the_page_shows_all_of_it_and_escapes_it(full: Findings) -> None:
    text = page(full)
    for words in (
        "What breaks",
        "Who may be compared with whom",
        "below S3.2",
        "5 and 7 epochs",
        "What it cost",
    ):
        assert words in text
    assert "<q>random" not in text
    assert "<i>3" not in text
    assert len(re.findall(r'<img src="data:image/png;base64,', text)) == 5
    assert len(re.findall('<div class="strip">', text)) == 3
    data = json.loads(text.partition('id="breaking-data">')[2].partition("</script>")[0])
    assert data["drops"] == breaking(full).data["drops"]


def test_without_pictures_the_page_says_why(findings: Findings) -> None:
    text = page(dataclasses.replace(findings, no_pictures={"broken": "the images are <lost>"}))
    assert "None to show: the images are &lt;lost&gt;." in text
    assert "Who may be compared" not in text


def test_costs_are_told_dearest_first(full: Findings) -> None:
    assert [fact.name for fact in trust.spent(full)] == ["ood", "attack"]
    assert trust.spent(full)[1].text == f"8.0{THIN}s, 19 times"
    assert "spent" not in {fact.name for fact in trust.facts(full)}
    assert trust.spent(dataclasses.replace(full, record={})) == []


def threshold(metric: str, condition: str, potential: float, **given: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("censored", "infeasible", "non_monotone", "incomplete", "underpowered"), False)
    shared = {"method": "m", "group": "", "aggregate": "single", "first_failure": 0.9, "certified": potential}
    return {**flags, **shared, "metric": metric, "condition": condition, "potential": potential} | given


def test_the_attack_column_counts_the_worst_case_over_attacks() -> None:
    rows = [
        threshold("robust_accuracy", "fgsm/2:255", 0.8, group="attack", certified=0.5),
        threshold("robust_accuracy", "worst/2:255", 0.3, certified=0.1),
        threshold("robust_accuracy", "worst black-box/2:255", 0.2),
    ]
    column = next(one for one in COLUMNS if one.title == "Attack")
    found = answer(column, rows, "m")
    assert found is not None
    assert (found.row["potential"], found.row["certified"], found.count) == (0.3, 0.1, 2)
    assert found.shown is rows[1]
    assert [one.title for one in answered(rows, ["m"])] == ["Attack", "Black-box attack", "Everything"]
    assert answered(rows, ["m"])[0].note == "worst of 2"


def test_the_mean_of_a_group_is_the_one_that_was_measured() -> None:
    rows = [
        threshold("accuracy", "corruptions", 0.6, potential_low=0.5, potential_high=0.7),
        threshold("accuracy", "corruptions", 0.5, group="corruptions", aggregate="mean"),
        threshold("accuracy", "fog/1", 0.4, group="corruptions"),
    ]
    column = next(one for one in COLUMNS if (one.title, one.note) == ("Corruptions, generated", "mean"))
    found = answer(column, rows, "m")
    assert found is not None
    assert found.row is rows[0]
    found = answer(column, rows[1:], "m")
    assert found is not None
    assert found.row is rows[1]


def test_what_is_shown_for_everything_is_the_smallest_and_says_what_has_no_proof() -> None:
    rows = [threshold("accuracy", "clean", 0.8), threshold("nll", "clean", 0.7, certified=0.5)]
    rows.append(threshold("ece_equal_width", "clean", 0.9, certified=None))
    found = verdict(rows, "m")
    assert (found.proven, found.unproven, found.checks) == (0.5, 1, 3)
    assert verdict(rows[2:], "m").proven is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fog official/3", "official fog, severity 3"),
        ("frost*/2", "frost (painted), severity 2"),
        ("corruptions official/3", "all official corruptions, severity 3"),
        ("noise corruptions", "all generated noise corruptions"),
        ("blur corruptions official", "all official blur corruptions"),
        ("ood-far", "all far OOD sets"),
        ("videos", "all videos"),
        ("worst/2:255", "worst attack, ε = 2/255"),
        ("worst l2/0.5", "worst L2 attack, ε = 0.5"),
        ("worst of 3 uniform/8:255", "worst of 3 uniform, ε = 8/255"),
        ("gaussian normalised/0.1", "gaussian normalised, ε = 0.1"),
        ("fgsm/2:255 (strong)", "FGSM, ε = 2/255 (strong)"),
        ("class/3", "class 3"),
    ],
)
def test_conditions_read_well(name: str, words: str) -> None:
    assert condition_label(name) == words


def test_metrics_and_groups_read_well() -> None:
    assert metric_label("mce_parent") == "mCE relative to the parent"
    assert metric_label("mce") == "MCE"
    assert group_label("calibration-shift") == "calibration under generated corruptions"
    row = {"metric": "accuracy", "condition": "corruptions", "group": "", "aggregate": "single"}
    assert subject(row) == "accuracy under all generated corruptions"


@pytest.mark.parametrize(("form", "start"), [("svg", b"<svg"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_figures_are_files_of_their_form(full: Findings, form: Any, start: bytes) -> None:
    found = dict(specifications(full))
    assert "curve accuracy fog-3" in found
    assert drawn(found["curve accuracy fog-3"], form).startswith(start)


def test_figures_have_a_legend_and_no_colour_of_the_page(full: Findings) -> None:
    found = dict(specifications(full))
    kinds = {name.partition(" ")[0] for name in found}
    assert kinds == {"curve", "reliability", "excess", "radius"}
    for name in ("curve accuracy clean", "radius FGSM-Linf"):
        svg = drawn(found[name], "svg").decode()
        assert "var(" not in svg
        assert ">magnitude<" in svg
    curve = found["curve accuracy clean"]["datasets"]
    table = full.measurements
    mine = table[
        (table["metric"] == "accuracy") & (table["condition"] == "clean") & (table["method"] == "random")
    ]
    drawn_points = {row["x"]: row["y"] for row in curve["line"] if row["method"] == "random" and row["order"]}
    assert drawn_points == dict(zip(mine["ratio"], mine["value"], strict=True))


def test_figures_are_written_one_by_one(full: Findings, tmp_path: Path) -> None:
    few = dataclasses.replace(
        full,
        measurements=full.measurements[full.measurements["condition"] == "clean"],
        reliability=full.reliability.head(0),
        robust=pd.DataFrame(),
    )
    steps: list[tuple[int, int]] = []
    written = figures(few, tmp_path / "figures", "svg", progress=lambda *step: steps.append(step))
    assert steps == [(place, len(written)) for place in range(1, len(written) + 1)]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(p.name for p in written)
    assert "excess error.svg" in {path.name for path in written}
    with pytest.raises(UserError, match="unknown form of figures 'gif'"):
        figures(few, tmp_path, "gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give a folder that can be written"):
        figures(few, tmp_path / "file", "svg")
