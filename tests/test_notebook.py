"""Runs in notebooks: verdicts as HTML, and the figures of the page as charts of Altair."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalsuite import Run, Threshold
from evalsuite.errors import UserError
from evalsuite.notebook import Plots
from evalsuite.report.build import report_data
from evalsuite.report.verdict_cards import Verdicts
from evalsuite.results.check_verdicts import CandidateVerdict

if TYPE_CHECKING:
    from evalsuite.report.data import ReportData


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder of version 0.1.0."""
    import tarfile

    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(Path(__file__).parent / "golden" / "run-of-0.1.0.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return Run(next(path.parent for path in folder.rglob("run.json")))


@pytest.fixture(name="data", scope="module")
def _data(run: Run) -> ReportData:
    return report_data(run)


def drawn(chart: Any) -> str:
    """The chart as SVG, as notebooks show it."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart.to_dict()))


def test_a_run_shows_the_sentences_and_the_picture_of_its_page(run: Run, data: ReportData) -> None:
    html = run._repr_html_()
    for verdict in Verdicts(data).methods():
        assert f"<b>{verdict.method}</b>" in html
        plain = re.sub("<[^>]+>", "", html)
        assert all(str(sentence).replace("'", "&#x27;") in plain for sentence in verdict.sentences)
    assert html.count("<svg") == 1
    assert "var(--" not in html


def test_a_run_without_a_finished_cell_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((run.path / "run.json").read_bytes())
    assert "<h3>" in Run(tmp_path)._repr_html_()
    assert "<svg" not in Run(tmp_path)._repr_html_()


def test_charts_have_the_numbers_of_the_run_and_can_be_changed(run: Run) -> None:
    pytest.importorskip("altair", reason="the extra notebook is not installed")
    chart = run.plot.curves("accuracy", "clean").properties(width=321)
    spec = chart.to_dict()
    assert spec["width"] == 321
    layers = [layer["data"]["values"] for layer in spec["layer"]]
    rows = next(values for values in layers if "interval" in values[0])
    table = run.measurements.query("metric == 'accuracy' and condition == 'clean' and method != 'dense'")
    means = table.groupby(["method", "target_ratio"])["value"].mean()
    assert sorted(row["y"] for row in rows) == pytest.approx(sorted(means))
    svg = drawn(chart)
    assert {method in svg for method in table["method"].unique()} == {True}
    assert "Prune ratio" in svg


def test_the_verdict_has_a_bar_for_each_group_of_checks(run: Run, data: ReportData) -> None:
    pytest.importorskip("altair", reason="the extra notebook is not installed")
    chart = run.plot.verdict()
    (rows,) = chart.to_dict()["datasets"].values()
    for verdict in Verdicts(data).methods():
        mine = [row for row in rows if row["method"] == verdict.method]
        assert {row["group"] for row in mine} == {bar.label for bar in verdict.bars}
        failing = {row["group"]: row["from"] for row in mine if row["state"] == "shown to fail"}
        assert failing == {bar.label: bar.fails for bar in verdict.bars if bar.fails is not None}
    assert "shown to hold" in drawn(chart)


def test_families_are_the_panels_of_the_page(run: Run) -> None:
    pytest.importorskip("altair", reason="the extra notebook is not installed")
    titles = [view["title"]["text"] for view in run.plot.families().to_dict()["concat"]]
    assert titles[0] == "Test accuracy"
    assert len(titles) > 2
    svg = drawn(run.plot.families())
    assert all(title in svg for title in titles)


def test_a_wrong_name_is_answered_with_the_right_one(run: Run) -> None:
    with pytest.raises(UserError, match="unknown metric of this run 'acuracy': did you mean 'accuracy'"):
        run.plot.curves("acuracy")
    with pytest.raises(
        UserError, match="unknown condition of accuracy in this run 'claen': did you mean 'clean'"
    ):
        run.plot.curves("accuracy", "claen")


def test_without_altair_a_sentence_says_what_to_install(
    data: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"needs altair.*pip install 'evalsuite\[notebook\]'"):
        Plots(data).verdict()


def test_thresholds_and_verdicts_of_finished_models_show_themselves() -> None:
    threshold = Threshold(0.8, 0.8, 0.9, False, False, False, False, None, (0.5, 0.8, 0.9), 0.5, (0.5, 0.8))
    assert threshold._repr_html_() == (
        "<p>Threshold: commensurate up to 80.0%; 95 % interval 50.0% to 80.0%; first failure at 90.0%; "
        "tested at 50.0%, 80.0%, 90.0%.</p>"
    )
    html = CandidateVerdict("<b>light", 0, 40, 30, 2, 0, 1, 5, False)._repr_html_()
    assert html.startswith("<p><b>&lt;b&gt;light: DO NOT SHIP</b>. 2 of 40 checks are shown to fail")
