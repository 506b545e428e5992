"""The charts of a report as files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from evalsuite.errors import StoreError, UserError
from evalsuite.report.data import ReportData
from evalsuite.report.figures import figures, rendered, specifications

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("form", "start"), [("svg", b"<svg"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_figures_are_files_of_their_form(full: ReportData, form: Any, start: bytes) -> None:
    found = dict(specifications(full))
    assert "curve accuracy fog-3" in found
    assert rendered(found["curve accuracy fog-3"], form).startswith(start)


def test_figures_have_a_legend_and_no_colour_of_the_page(full: ReportData) -> None:
    found = dict(specifications(full))
    kinds = {name.partition(" ")[0] for name in found}
    assert kinds == {"curve", "reliability", "excess", "radius"}
    for name in ("curve accuracy clean", "radius FGSM-Linf"):
        svg = rendered(found[name], "svg").decode()
        assert "var(" not in svg
        assert ">magnitude<" in svg
    curve = found["curve accuracy clean"]["datasets"]
    table = full.measurements
    mine = table[
        (table["metric"] == "accuracy") & (table["condition"] == "clean") & (table["method"] == "random")
    ]
    drawn_points = {row["x"]: row["y"] for row in curve["line"] if row["method"] == "random" and row["order"]}
    assert drawn_points == dict(zip(mine["ratio"], mine["value"], strict=True))


def test_figures_are_written_one_by_one(full: ReportData, tmp_path: Path) -> None:
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
    with pytest.raises(StoreError, match=r"\.svg cannot be written: .*; free space or name another folder"):
        figures(few, tmp_path / "file", "svg")
