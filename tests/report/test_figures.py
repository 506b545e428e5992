"""The figures of a report as files for a paper, and its tables as LaTeX."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import pytest

from evalsuite.errors import StoreError, UserError
from evalsuite.report.curve_lines import curve_lines
from evalsuite.report.figures import KINDS, TYPE, all_figures, figures, rendered
from evalsuite.report.latex import latex_tables
from evalsuite.report.panels import panels
from evalsuite.report.plot import text_width
from evalsuite.report.verdict_cards import Verdicts
from evalsuite.types import Metric

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evalsuite.report.data import ReportData

POINT = 72 / 25.4


def svg_of(data: ReportData, name: str, millimetres: float = 84.0) -> str:
    figure = next(figure for figure in all_figures(data) if figure.name == name)
    return rendered(figure.draw(millimetres * POINT), "svg").decode()


def texts(svg: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize(("form", "start"), [("svg", b"<svg"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_figures_are_files_of_their_form(full: ReportData, tmp_path: Path, form: Any, start: bytes) -> None:
    (path,) = figures(full, tmp_path, form, only=["curves:accuracy/fog/3"])
    assert path.name == f"curves-accuracy-fog-3.{form}"
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("width", "millimetres"), [("", 84), ("column", 84), ("page", 174), ("60 mm", 60), ("120.5mm", 120.5)]
)
def test_a_width_is_that_of_the_file(
    full: ReportData, tmp_path: Path, width: str, millimetres: float
) -> None:
    for form, pattern in (("svg", rb'width="([\d.]+)mm"'), ("pdf", rb"/MediaBox \[0 0 ([\d.]+) ")):
        (path,) = figures(full, tmp_path, form, only=["curves:accuracy/clean"], width=width)
        found = re.search(pattern, path.read_bytes())
        assert found is not None
        assert float(found[1]) == pytest.approx(millimetres * (POINT if form == "pdf" else 1), abs=0.01)


def test_every_figure_has_its_axes_a_legend_and_no_colour_of_the_page(full: ReportData) -> None:
    names = [figure.name for figure in all_figures(full)]
    assert {name.partition(":")[0] for name in names} == set(KINDS)
    assert not any(re.search(r"[\s,]", name) for name in names if not name.startswith("curves:"))
    for name in ("curves:accuracy/clean", "panels", "radius:FGSM-Linf", "excess", "verdict"):
        svg = svg_of(full, name, 174.0)
        assert "var(" not in svg
        assert "magnitude" in texts(svg)
    curve = texts(svg_of(full, "curves:accuracy/clean"))
    assert {"parent", "Accuracy (fraction)", "Prune ratio (%)", "Clean"} <= set(curve)
    assert {"Radius of the attack (1/255)", "Robust accuracy (fraction)"} <= set(
        texts(svg_of(full, "radius:FGSM-Linf"))
    )


def test_a_curve_has_the_points_of_the_frame_and_nothing_below_the_smallest_ratio(full: ReportData) -> None:
    """The parent's point was joined to the smallest ratio, where nothing had been measured."""
    curve = next(c for c in curve_lines(full) if (c.metric, c.condition) == ("accuracy", "clean"))
    table = full.measurements
    for line in curve.lines:
        mine = table[
            (table["metric"] == "accuracy")
            & (table["condition"] == "clean")
            & (table["method"] == line.method)
        ]
        assert [(point.x, point.y) for point in line.points] == list(
            zip(mine["ratio"], mine["value"], strict=True)
        )
        assert [point.high - point.low for point in line.points] == pytest.approx(
            list(mine["drop_high"] - mine["drop_low"]), abs=1e-5
        )
    svg = svg_of(full, "curves:accuracy/clean")
    (ring,) = re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="2.72"', svg)
    lines = [
        re.findall(r"[ML]([\d.]+) ", path) for path in re.findall(r'<path d="(M[^"]*)" fill="none"', svg)
    ]
    starts = [float(places[0]) for places in lines if len(places) == 3]
    assert len(starts) == 3
    assert min(starts) > float(ring) + 10


def test_with_several_seeds_intervals_are_those_of_the_mean(synthesis: Callable[..., ReportData]) -> None:
    data = synthesis(seeds=(0, 1), ratios=(0.5, 0.9))
    curve = next(c for c in curve_lines(data) if (c.metric, c.condition) == ("nll", "clean"))
    (point, _) = curve.lines[0].points
    rows = data.verdicts[(data.verdicts["seed"] == "all") & (data.verdicts["method"] == "magnitude")]
    row = rows[
        (rows["metric"] == "nll") & (rows["condition"] == "clean") & (rows["target_ratio"] == 0.5)
    ].iloc[0]
    assert point.high - point.y == pytest.approx(row["drop_high"] - row["drop"])
    assert point.y - point.low == pytest.approx(row["drop"] - row["drop_low"])
    assert [len(seed) for seed in curve.lines[0].seeds] == [2, 2]


def test_the_panels_show_every_kind_of_test_once(full: ReportData) -> None:
    shown = [(panel.title, panel.curve.metric, panel.curve.condition) for panel in panels(curve_lines(full))]
    assert shown == [
        ("Test accuracy", "accuracy", "clean"),
        ("Corruptions", "accuracy", "corruptions"),
        ("White-box attack", "robust_accuracy", "fgsm/4:255"),
        ("OOD, near", "msp_auroc", "letters"),
        ("OOD, far", "msp_auroc", "photographs"),
        ("Calibration", "brier", "clean"),
        ("Similarity", "agreement", "clean"),
    ]


def test_the_verdict_picture_has_the_numbers_of_the_cards(full: ReportData) -> None:
    found = texts(svg_of(full, "verdict", 174.0))
    for verdict in Verdicts(full).methods():
        assert verdict.method in found
        for bar in verdict.bars:
            assert bar.label in found
            assert bar.holds is None or f"{100 * bar.holds:.0f}" in found
            assert bar.fails is None or f"{100 * bar.fails:.0f}" in found


def test_the_control_is_dashed_and_named(full: ReportData) -> None:
    svg = svg_of(dataclasses.replace(full, controls=("random",)), "curves:accuracy/clean")
    assert "random (control)" in texts(svg)
    assert svg.count("stroke-dasharray") == 2  # its line and its key


def test_figures_are_written_one_by_one(full: ReportData, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    written = figures(
        full, tmp_path / "a", "svg", only=["verdict", "reliability"], progress=lambda *s: steps.append(s)
    )
    assert steps == [(place, len(written)) for place in range(1, len(written) + 1)]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(p.name for p in written)
    assert not any(" " in path.name for path in written)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"\.svg cannot be written: .*; free space or name another folder"):
        figures(full, tmp_path / "file", "svg", only=["verdict"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "gif"}, "unknown form of figures 'gif'"),
        (
            {"only": ["curves:accuracy/cleen"]},
            "unknown figure 'curves:accuracy/cleen'.*curves:accuracy/clean",
        ),
        ({"width": "wide"}, "found the width 'wide', expected column or page, or 30 to 1000 mm such as 84mm"),
        ({"width": "0mm"}, "found the width '0mm'"),
    ],
)
def test_mistakes_are_named(full: ReportData, tmp_path: Path, settings: Any, message: str) -> None:
    given = {"form": "svg", "only": ["verdict"], **settings}
    with pytest.raises(UserError, match=message):
        figures(full, tmp_path, given.pop("form"), **given)
    assert not list(tmp_path.iterdir())


def test_latex_tables_have_the_verdicts_and_the_accuracies(synthesis: Callable[..., ReportData]) -> None:
    data = synthesis(methods=("magnitude", "filter_l1 & 50 %"), ratios=(0.5, 0.9))
    tables = latex_tables(data)
    assert "97.5 % for each line by itself" in str(tables)  # as bars are tested, not familywise
    assert set(tables) == {"thresholds", "accuracy"}
    for text in tables.values():
        lines = [line for line in text.splitlines() if not line.startswith("%")]
        assert lines[0].startswith("\\begin{tabular}")
        assert lines[-1] == "\\end{tabular}"
        assert [text.count(f"\\{rule}rule\n") for rule in ("top", "bottom")] == [1, 1]
        rows = [re.split(r"(?<!\\)&", line) for line in lines if line.endswith("\\\\")]
        assert {len(cells) for cells in rows[1:]} == {len(rows[-1])}
        assert "filter\\_l1 \\& 50 \\%" in text
    (verdict, _) = Verdicts(data).methods()
    bar = verdict.bars[0]
    assert (
        f"Test accuracy & {100 * (bar.holds or 0):.0f} & {100 * (bar.fails or 0):.0f} & "
        in tables["thresholds"]
    )
    point = next(c for c in curve_lines(data) if c.condition == "clean").lines[0].points[0]
    assert (
        f"magnitude & 50 & {point.y:.3f} {{\\scriptsize ({point.low:.3f}, {point.high:.3f})}}"
        in tables["accuracy"]
    )


def test_words_above_a_panel_do_not_run_into_the_next_one(findings: ReportData) -> None:
    """ "ECE L2 squared debiased (squared fraction)" lay over the words of its neighbour."""
    name = "ece_l2_squared_debiased"
    renamed: dict[str, Any] = {
        table: getattr(findings, table).replace({"metric": {"ece_equal_width": name}})
        for table in ("measurements", "thresholds", "verdicts")
    }
    metrics = {**findings.metrics, name: Metric(name, False, "squared fraction", "")}
    svg = svg_of(dataclasses.replace(findings, metrics=metrics, **renamed), "panels", 174.0)
    places = re.findall(r'<text x="([\d.-]+)"[^>]*>([^<]*)</text>', svg)
    titles = {x for x, text in places if re.match("[a-z] [A-Z]", text)}
    step = sorted(map(float, titles))[1]
    words = [
        text for x, text in places if x in titles and text != "parent" and not re.match("[a-z] [A-Z]", text)
    ]
    assert any("squared" in text for text in words)
    assert all(text_width(text, TYPE) <= step for text in words)
