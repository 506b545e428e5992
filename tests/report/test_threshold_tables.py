"""The matrix of methods by kinds of conditions, and the table of all thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.report.data import ReportData
from evalsuite.report.labels import THIN, condition_label
from evalsuite.report.threshold_list import threshold_blocks
from evalsuite.report.threshold_tables import (
    COLUMNS,
    EVERYTHING,
    FLAGS,
    column_result,
    column_results,
    flag_notes,
    threshold_matrix,
    tip,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.data import ReportData


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


ROW = {
    "method": "m", "metric": "accuracy", "condition": "clean", "group": "", "aggregate": "single", "unit": "",
    "tolerance": 0.01, "reference": 0.9, "potential": 0.8, "potential_any": 0.8, "first_failure": 0.9, "n": 100,
    "tested": "0.8 0.9", "censored": False, "infeasible": False, "axis": "packed",
}  # fmt: skip


def test_the_matrix_has_the_thresholds_of_the_frame(findings: ReportData) -> None:
    matrix = threshold_matrix(findings.headline, findings.methods)
    assert [(column.title, column.note) for column in matrix.columns] == [
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
    for method in findings.methods:
        mine = table[table["method"] == method]
        single = mine[mine["aggregate"] == "single"]
        accuracy, mean, worst, noise, attack, near, far, ece, alike, everything = (
            cell.row["potential"] for cell in matrix.cells[method] if cell is not None
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
    matrix = threshold_matrix(rows, ["magnitude"])
    assert [column.title for column in matrix.columns] == ["Test accuracy", "Attack", "Everything"]
    attack = matrix.cells["magnitude"][1]
    assert attack is not None
    assert (attack.text, attack.shown["condition"]) == ("50", "fgsm/2:255")


def test_a_group_of_a_plug_in_gets_a_column() -> None:
    rows = [ACCURACY, row("cka", "clean", 0.5, group="similarity")]
    assert [column.title for column in threshold_matrix(rows, ["magnitude"]).columns] == [
        "Test accuracy",
        "Similarity",
        "Everything",
    ]


def test_a_metric_of_a_plug_in_gets_a_column_of_its_own() -> None:
    rows = [
        ACCURACY,
        row("knn_auroc", "letters", 0.5, group="ood-near"),
        row("margin_width", "clean", 0.4),
        row("effort", "walk/1", 0.3),
        row("effort", "walk/2", 0.2),
    ]
    matrix = threshold_matrix(rows, ["magnitude"])
    assert [(column.title, column.note) for column in matrix.columns] == [
        ("Test accuracy", ""),
        ("OOD, near", "worst"),
        ("Margin width", ""),
        ("Effort", "worst of 2"),
        ("Everything", "weakest"),
    ]
    assert [cell.text for cell in matrix.cells["magnitude"] if cell is not None][2:4] == ["40", "20"]


def test_flags_are_in_words_and_leave_the_numbers() -> None:
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
    matrix = threshold_matrix(rows, ["magnitude"])
    accuracy, ece, _ = matrix.cells["magnitude"]
    assert accuracy is not None
    assert ece is not None
    assert (accuracy.text, ece.text) == ("90", "0")
    assert (flag_notes(accuracy.row), flag_notes(ece.row)) == (
        (),
        tuple(FLAGS[flag][0] for flag in ("infeasible", "non_monotone", "underpowered", "incomplete")),
    )
    assert all(
        meaning in accuracy.tip + ece.tip for flag, (_, meaning) in FLAGS.items() if flag != "at_chance"
    )
    assert f"Largest ratio that passed (smaller ones failed): 90{THIN}%" in ece.tip


def test_colours_are_the_states_whatever_test_accuracy_is() -> None:
    """A method that fails everywhere looked clean, because shades counted from its own accuracy."""
    rows = [
        row("accuracy", "clean", 0.0, noninferior_up_to=0.0, inferior_from=0.5),
        row("msp_auroc", "letters", 0.0, group="ood-near", noninferior_up_to=0.0, inferior_from=0.5),
        row("robust_accuracy", "fgsm/2:255", 0.8, group="attack", noninferior_up_to=0.8, inferior_from=None),
        row("robust_accuracy", "fgsm/4:255", 0.5, group="attack", noninferior_up_to=0.5, inferior_from=0.9),
    ]
    cells = [cell for cell in threshold_matrix(rows, ["magnitude"]).cells["magnitude"] if cell is not None]
    accuracy, attack, ood, everything = [(cell.bar.holds, cell.bar.fails) for cell in cells]
    assert accuracy == ood == everything == (0.0, 0.5)
    assert attack == (0.5, 0.9)


def test_a_method_without_a_threshold_has_an_empty_cell() -> None:
    rows = [
        ACCURACY,
        row("accuracy", "clean", 0.5, method="random"),
        row("nll", "clean", 0.5, method="random"),
    ]
    assert threshold_matrix(rows, ["magnitude", "random"]).cells["magnitude"][1] is None


def test_a_worst_case_names_its_condition(findings: ReportData) -> None:
    matrix = threshold_matrix(findings.headline, findings.methods)
    worst = matrix.cells["magnitude"][2]
    assert worst is not None
    assert worst.row["aggregate"] == "minimum"
    table = findings.thresholds
    mine = table[
        (table["seed"] == "all") & (table["method"] == "magnitude") & (table["metric"] == "accuracy")
    ]
    corrupted = mine[(mine["group"] == "corruptions") & (mine["aggregate"] == "single")]
    weakest = corrupted.loc[corrupted["potential"] == corrupted["potential"].min(), "condition"]
    assert worst.shown["condition"] == weakest.iloc[0]
    assert f"First failure: {condition_label(weakest.iloc[0])}" in worst.tip.split("\n")


def test_flags_of_all_cells_are_explained_once() -> None:
    wide = {"underpowered": True}
    rows = [
        row("accuracy", "clean", 0.8, **wide),
        row("ece_equal_width", "clean", 0.8, **wide, non_monotone=True),
    ]
    matrix = threshold_matrix(rows, ["magnitude"])
    assert matrix.everywhere == (FLAGS["underpowered"][1],)
    assert all(
        "wider than the tolerance" in cell.tip for cell in matrix.cells["magnitude"] if cell is not None
    )


def test_a_tip_names_the_cost_that_the_ratio_is_a_share_of() -> None:
    assert "Passes up to 80\u202f% of the packed bytes gone; first failure at 90\u202f%" in tip(ROW)
    assert "gone" not in tip({**ROW, "axis": "nonzero"})


def certified_row(condition: str, certified: float | None, jointly: float | None) -> dict[str, Any]:
    return {
        "method": "m", "metric": "accuracy", "condition": condition, "group": "", "aggregate": "single",
        "unit": "fraction", "potential": 0.9, "potential_any": 0.9, "first_failure": None, "censored": True,
        "infeasible": False, "certified": certified, "certified_jointly": jointly, "tolerance": 0.01,
        "reference": 0.9, "n": 100, "tested": "0.5 0.9",
    }  # fmt: skip


def test_a_tip_has_the_ratio_with_familywise_error_control() -> None:
    assert "With familywise error control over all checks of the method (Holm): up to 50\u202f%" in tip(
        certified_row("clean", 0.9, 0.5)
    )
    assert "Holm" not in tip(certified_row("clean", 0.9, None))


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
    found = column_result(column, rows, "m")
    assert found is not None
    assert (found.row["potential"], found.row["certified"], found.count) == (0.3, 0.1, 2)
    assert found.shown is rows[1]
    assert [one.title for one in column_results(rows, ["m"])[0]] == [
        "Attack",
        "Black-box attack",
        "Everything",
    ]
    assert column_results(rows, ["m"])[0][0].note == "worst of 2"


def test_the_mean_of_a_group_is_the_one_that_was_measured() -> None:
    rows = [
        threshold("accuracy", "corruptions", 0.6, potential_low=0.5, potential_high=0.7),
        threshold("accuracy", "corruptions", 0.5, group="corruptions", aggregate="mean"),
        threshold("accuracy", "fog/1", 0.4, group="corruptions"),
    ]
    column = next(one for one in COLUMNS if (one.title, one.note) == ("Corruptions, generated", "mean"))
    found = column_result(column, rows, "m")
    assert found is not None
    assert found.row is rows[0]
    found = column_result(column, rows[1:], "m")
    assert found is not None
    assert found.row is rows[1]


def test_every_threshold_has_its_place(synthesis: Callable[..., ReportData]) -> None:
    data = synthesis(seeds=(0, 1))
    rows = data.thresholds[data.thresholds["seed"] == "all"]
    entries = [e for block in threshold_blocks(data) for line in block.lines for e in line.entries]
    assert len(entries) == len(rows)
    keys = ("method", "metric", "condition", "aggregate", "potential")
    shown = {tuple(entry.row[key] for key in keys) for entry in entries if entry is not None}
    assert shown == set(rows[list(keys)].itertuples(index=False, name=None))


def test_summaries_lead_their_group(findings: ReportData) -> None:
    accuracy = next(b for b in threshold_blocks(findings) if b.metric == "accuracy")
    noise = [line for line in accuracy.lines if line.row["group"] == "noise"]
    assert [line.is_summary for line in noise] == [True, True, False, False, False, False]


def test_methods_with_other_numbers_of_checks_are_labelled_by_their_own(findings: ReportData) -> None:
    """Runs that stand side by side may have tested other corruptions."""
    methods = findings.methods[:2]
    of_noise = [row for row in findings.headline if row["group"] == "noise" and row["aggregate"] == "single"]
    left_out = next(row["condition"] for row in of_noise if row["method"] == methods[1])
    rows = [row for row in findings.headline if (row["method"], row["condition"]) != (methods[1], left_out)]
    columns, results = column_results(rows, methods)
    place = next(index for index, column in enumerate(columns) if column.title == "Noise")
    counts = [result.count for line in results.values() if (result := line[place]) is not None]
    assert counts == [4, 3]
    assert columns[place].note == "worst of 3 or 4"
