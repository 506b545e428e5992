"""A curve over the prune ratio as a drawing."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest

from evalsuite.report.curve_lines import Curve, curve_lines
from evalsuite.report.curve_panel import Box, CurvePanel
from evalsuite.report.palette import PAPER
from evalsuite.report.plot import Pen

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.data import ReportData


@pytest.fixture(name="curve")
def _curve(synthesis: Callable[..., ReportData]) -> Curve:
    curves = curve_lines(synthesis(seeds=(0, 1)))
    return next(curve for curve in curves if (curve.metric, curve.condition) == ("accuracy", "clean"))


def drawing(curve: Curve) -> tuple[CurvePanel, str]:
    panel = CurvePanel(curve, Box(0.0, 8.0, 300.0, 150.0), Pen(PAPER))
    return panel, "".join(panel.parts())


def test_nothing_is_drawn_below_the_smallest_ratio_but_the_parent(curve: Curve) -> None:
    panel, svg = drawing(curve)
    first = panel.x(min(point.x for line in curve.lines for point in line.points)) - 3.0  # side by side
    for line in curve.lines:
        colour = PAPER.of_method(line.index)
        paths = re.findall(rf'<path d="M([\d.L -]+)" [^>]*stroke="{colour}"', svg)
        places = [float(place.split()[0]) for path in paths for place in path.split("L")]
        places += [float(x) for x in re.findall(rf'translate\(([\d.]+) [\d.]+\)[^>]*fill="{colour}"', svg)]
        assert len(places) > 10
        assert min(places) >= first
    (ring,) = re.findall(r'<circle cx="([\d.]+)"', svg)
    assert float(ring) < first - 10
    assert ">0</text>" in svg


def test_without_one_parent_nothing_is_drawn_at_0(curve: Curve) -> None:
    _, svg = drawing(dataclasses.replace(curve, reference=None, allowed=None))
    assert "<circle" not in svg
    assert ">0</text>" not in svg
