"""Charts as Vega-Lite specifications."""

from __future__ import annotations

import pytest

from evalsuite.report import charts
from evalsuite.report.palette import PAPER


def test_charts_can_be_drawn_for_paper() -> None:
    import vl_convert

    spec = charts.curve_chart(["a", "b", "c"], PAPER)
    assert "var(" not in str(spec)
    point = {"method": "a", "control": False, "order": 0.5, "x": 0.5, "y": 0.9, "low": 0.8, "high": 1.0}
    limit = {"reference": 0.95, "low": 0.94, "high": 0.95}
    spec["datasets"] = {
        "line": [point, point | {"x": 0.9, "y": 0.7}],
        "seed": [],
        "mark": [point],
        "limit": [limit],
        "parent": [{"x": 0.0, "y": 0.95}],
    }
    spec |= {"width": 300, "autosize": "pad"}
    drawn = vl_convert.vegalite_to_svg(spec)
    assert drawn.count("#0072b2") >= 4
    assert "40%" in drawn


@pytest.mark.parametrize("count", [1, 9])
def test_every_method_has_a_colour_and_a_shape(count: int) -> None:
    names = [f"method {index}" for index in range(count)]
    spec = charts.curve_chart(names)
    scales = [
        layer["encoding"][kind]["scale"]
        for layer in spec["layer"]
        for kind in ("color", "shape")
        if kind in layer["encoding"]
    ]
    assert len(scales) == 6
    assert all(len(scale["range"]) == len(scale["domain"]) == count for scale in scales)
