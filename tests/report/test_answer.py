"""The sentences and the matrix: what is said about thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from evalsuite.report.findings import headline, methods
from evalsuite.report.matrix import EVERYTHING, matrix
from evalsuite.report.verdicts import sentences, verdict
from evalsuite.report.wording import THIN, condition_label

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.findings import Findings

FLAGS = ("censored", "infeasible", "non_monotone", "incomplete", "underpowered")


def row(metric: str, condition: str, potential: float, **given: Any) -> dict[str, Any]:
    shared = {"method": "magnitude", "group": "", "aggregate": "single", "tolerance": 0.01, "reference": 0.9}
    shared |= {"potential_any": potential, "n": 100, "unit": "fraction", "tested": "0.5 0.8 0.9"}
    shared |= {"first_failure": 0.9 if potential else 0.5, "infeasible": not potential}
    return {
        **dict.fromkeys(FLAGS, False),
        **shared,
        "metric": metric,
        "condition": condition,
        "potential": potential,
    } | given


ACCURACY = row("accuracy", "clean", 0.8)
CENSORED = {"censored": True, "first_failure": None}
FOG = {"group": "corruptions"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [ACCURACY, row("accuracy", "fog/3", 0.5, **FOG)],
            "Test accuracy holds to 80 %. But accuracy under fog (severity 3) holds only to 50 %.",
        ),
        (
            [ACCURACY, row("accuracy", "fog/3", 0.5, **FOG), row("nll", "clean", 0.5)],
            "Test accuracy holds to 80 %. "
            "But accuracy under fog (severity 3) and one other check hold only to 50 %.",
        ),
        (
            [ACCURACY, row("msp_auroc", "letters", 0.0)],
            "Test accuracy holds to 80 %. But MSP AUROC on letters fails already at 50 %.",
        ),
        (
            [ACCURACY, row("nll", "clean", 0.9, **CENSORED)],
            "Test accuracy holds to 80 %. So does everything else with a tolerance: 1 check.",
        ),
        (
            [row("accuracy", "clean", 0.9, **CENSORED), row("brier", "clean", 0.783)],
            "Test accuracy holds to at least 90 %, the largest ratio tested. "
            "But brier on clean images holds only to 78.3 %.",
        ),
        ([ACCURACY], "Test accuracy holds to 80 %. Nothing else has a tolerance."),
        (
            [row("accuracy", "clean", 0.0), row("nll", "clean", 0.8)],
            "Test accuracy fails at 50 %, the smallest ratio tested.",
        ),
        (
            [row("nll", "clean", 0.8)],
            "Everything measured holds to 80 %. The first to give way: NLL on clean images.",
        ),
        ([], "No threshold can be stated: nothing that has a tolerance was measured at a ratio above 0."),
    ],
)
def test_the_answer_is_one_plain_sentence(rows: list[dict[str, Any]], words: str) -> None:
    said = " ".join(map(str, sentences(verdict(rows, "magnitude"))))
    assert said.replace(THIN, " ") == words


def test_of_equal_thresholds_the_better_known_metric_is_named() -> None:
    rows = [row("agreement", "clean", 0.5), row("accuracy", "fog/3", 0.5), ACCURACY]
    found = verdict(rows, "magnitude")
    assert found.weakest is rows[1]
    assert (found.ties, found.checks) == (1, 3)


def test_the_matrix_says_what_the_frame_says(findings: Findings) -> None:
    found = matrix(headline(findings.thresholds), methods(findings))
    assert [(column.title, column.note) for column in found.columns] == [
        ("Test accuracy", ""),
        ("Corruptions, generated", "mean"),
        ("Corruptions, generated", "worst of 15"),
        ("Noise", "worst of 4"),
        ("Attack", "worst of 6"),
        ("OOD, near", "worst"),
        ("OOD, far", "worst of 2"),
        ("Calibration", ""),
        ("Similarity", ""),
        (EVERYTHING.title, EVERYTHING.note),
    ]
    table = findings.thresholds[findings.thresholds["seed"] == "all"]
    for method in methods(findings):
        mine = table[table["method"] == method]
        single = mine[mine["aggregate"] == "single"]
        accuracy, mean, worst, noise, attack, near, far, ece, alike, everything = (
            cell.row["potential"] for cell in found.cells[method] if cell is not None
        )
        assert (
            accuracy
            == single[(single["metric"] == "accuracy") & (single["condition"] == "clean")]["potential"].item()
        )
        corrupted = single[(single["group"] == "corruptions") & (single["metric"] == "accuracy")]["potential"]
        of_mean = mine[(mine["aggregate"] == "of-mean") & (mine["metric"] == "accuracy")]
        assert mean == of_mean["potential"].item()
        assert worst == corrupted.min()
        assert noise == single[single["group"] == "noise"]["potential"].min()
        assert attack == single[single["group"] == "attack"]["potential"].min()
        auroc = single[single["metric"] == "msp_auroc"]
        assert near == auroc[auroc["group"] == "ood-near"]["potential"].min()
        assert far == auroc[auroc["group"] == "ood-far"]["potential"].min()
        assert ece == single[single["metric"] == "ece_equal_width"]["potential"].item()
        agreement = single[(single["metric"] == "agreement") & (single["condition"] == "clean")]
        assert alike == agreement["potential"].item()
        assert everything == single["potential"].min()


def test_a_group_of_one_condition_needs_no_summary() -> None:
    rows = [ACCURACY, row("robust_accuracy", "fgsm/2:255", 0.5, group="attack")]
    found = matrix(rows, ["magnitude"])
    assert [column.title for column in found.columns] == ["Test accuracy", "Attack", "Everything"]
    attack = found.cells["magnitude"][1]
    assert attack is not None
    assert (attack.text, attack.shown["condition"]) == ("50", "fgsm/2:255")


def test_a_group_of_a_plug_in_gets_a_column() -> None:
    rows = [ACCURACY, row("cka", "clean", 0.5, group="similarity")]
    assert [column.title for column in matrix(rows, ["magnitude"]).columns] == [
        "Test accuracy",
        "Similarity",
        "Everything",
    ]


def test_flags_are_marked_and_explained() -> None:
    rows = [
        row("accuracy", "clean", 0.9, **CENSORED),
        row(
            "ece_equal_width",
            "clean",
            0.0,
            non_monotone=True,
            underpowered=True,
            incomplete=True,
            potential_any=0.9,
        ),
    ]
    found = matrix(rows, ["magnitude"])
    accuracy, ece, _ = found.cells["magnitude"]
    assert accuracy is not None
    assert ece is not None
    assert (accuracy.text, accuracy.marks) == ("≥90", "")
    assert (ece.text, ece.marks) == ("0", "\u2217†‡§")
    assert [mark for mark, _ in found.legend] == ["≥", *ece.marks]
    assert all(meaning in accuracy.tip + ece.tip for _, meaning in found.legend)
    assert f"whatever lies between: 90{THIN}%" in ece.tip


def test_shades_deepen_with_the_distance_from_test_accuracy() -> None:
    rows = [
        row("accuracy", "clean", 0.8),
        row("robust_accuracy", "fgsm/2:255", 0.7, group="attack"),
        row("ece_equal_width", "clean", 0.9),
        row("msp_auroc", "letters", 0.0, group="ood-near"),
    ]
    cells = matrix(rows, ["magnitude"]).cells["magnitude"]
    assert [cell.shortfall for cell in cells if cell is not None] == [0, 2, 10, 0, 10]


def test_a_method_without_an_answer_has_an_empty_cell() -> None:
    rows = [
        ACCURACY,
        row("accuracy", "clean", 0.5, method="random"),
        row("nll", "clean", 0.5, method="random"),
    ]
    assert matrix(rows, ["magnitude", "random"]).cells["magnitude"][1] is None


def test_missing_values_of_every_kind_are_none() -> None:
    frame = pd.DataFrame(
        [row("accuracy", "clean", 0.8) | {"seed": 3, "first_failure": np.nan, "underpowered": None}]
    )
    frame["n"] = pd.array([pd.NA], dtype="Int64")
    (found,) = headline(frame)
    assert (found["first_failure"], found["n"], found["underpowered"]) == (None, None, None)
    assert type(found["potential"]) is float


def test_the_rows_over_all_seeds_are_the_headline(synthesis: Callable[..., Findings]) -> None:
    table = synthesis(seeds=(0, 1)).thresholds
    assert {found["seed"] for found in headline(table)} == {"all"}


def test_names_read_well() -> None:
    assert condition_label("clean") == "clean"
    assert condition_label("uniform-noise") == "uniform noise"
    assert condition_label("jpeg_compression/1") == "JPEG compression, severity 1"
    assert condition_label("uniform/0.5:255") == "uniform, ε = 0.5/255"
    assert condition_label("rotation/ten degrees") == "rotation, ten degrees"


def test_a_worst_case_names_its_condition(findings: Findings) -> None:
    found = matrix(headline(findings.thresholds), methods(findings))
    worst = found.cells["magnitude"][2]
    assert worst is not None
    assert worst.row["aggregate"] == "minimum"
    table = findings.thresholds
    mine = table[
        (table["seed"] == "all") & (table["method"] == "magnitude") & (table["metric"] == "accuracy")
    ]
    corrupted = mine[(mine["group"] == "corruptions") & (mine["aggregate"] == "single")]
    weakest = corrupted.loc[corrupted["potential"] == corrupted["potential"].min(), "condition"]
    assert worst.shown["condition"] == weakest.iloc[0]
    assert worst.tip.endswith(f"Gives way first: {condition_label(weakest.iloc[0])}")


def test_what_is_true_of_every_cell_is_said_once() -> None:
    wide = {"underpowered": True}
    rows = [
        row("accuracy", "clean", 0.8, **wide),
        row("ece_equal_width", "clean", 0.8, **wide, non_monotone=True),
    ]
    found = matrix(rows, ["magnitude"])
    assert [cell.marks for cell in found.cells["magnitude"] if cell is not None] == ["", "†", "†"]
    assert [mark for mark, _ in found.legend] == ["†", "everywhere"]
    assert all(
        "wider than the tolerance" in cell.tip for cell in found.cells["magnitude"] if cell is not None
    )


def test_without_test_accuracy_shades_count_from_the_largest_ratio() -> None:
    rows = [row("robust_accuracy", "fgsm/2:255", 0.8, group="attack"), row("ece_equal_width", "clean", 0.9)]
    cells = matrix(rows, ["magnitude"]).cells["magnitude"]
    assert [cell.shortfall for cell in cells if cell is not None] == [2, 0, 2]
