"""The charts that a reader steers, as Vega-Lite specifications; the page fills in the numbers that are chosen.

They are plain dictionaries: a library that writes them takes longer to import than all of them to draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.report.palette import FONT, PAGE, SHAPES, Palette

if TYPE_CHECKING:
    from collections.abc import Sequence

Spec = dict[str, Any]
Ends = tuple[float, float]
_SHARE = "axis == 'ratio' || axis == 'prunable_ratio'"
_PLAIN = (
    "abs(datum.value) < 10 ? format(datum.value, '.3~g') : format(datum.value, '.3~s')"  # 0.05 ms is no 50m
)
_PERCENT = "format(datum.value, '.0~%')"
_DASH = [4, 3]
_RING = {"type": "point", "clip": True, "size": 260, "strokeWidth": 1.8, "filled": False, "shape": "circle"}


def curve_chart(methods: Sequence[str], palette: Palette = PAGE, ends: Ends | None = None) -> Spec:
    """Returns the chart of one metric on one condition over the ratio or a cost.

    Draws the named data sets ``limit`` (reference, low, high), ``parent`` (x, y and the texts at, value), ``line``
    (method, control, order, x, y, low, high and the texts at, value, interval), ``seed`` (method, seed, order, x, y)
    and ``mark`` (method, x, y).

    Args:
        methods: Their names in order.
        palette: Colours and type.
        ends: Ends of y; the chart is then over the prune ratio. Without them the parameter ``axis`` is the quantity of
            x, and ``bottom`` and ``top`` are the ends of y.
    """
    x, y = _steered_axes() if ends is None else _fixed_axes(ends)
    place = {"x": x, "y": y, "color": _colour(methods, palette)}
    parent = _layer(
        "parent",
        {**_points(palette, 80, 1.6), "fill": palette.paper, "stroke": palette.ink},
        x=x,
        y=y,
        tooltip=_tooltip("at", "value"),
    )
    layers = [*_limit_layers(palette), *_line_layers(methods, palette, place), parent]
    names = {"axis": "ratio", "bottom": None, "top": None} if ends is None else {}
    params = [{"name": name, "value": value} for name, value in names.items()]
    return _finished({"layer": layers, **({"params": params} if params else {}), "height": 380}, palette)


def _limit_layers(palette: Palette) -> list[Spec]:
    """The band of commensurate values, with the parent's value in it."""
    return [
        _layer(
            "limit",
            {"type": "rect", "color": palette.allowed, "clip": True},
            y={**_quantity("low"), "title": None},
            y2={"field": "high"},
        ),
        _layer("limit", {"type": "rule", "color": palette.ink, "strokeWidth": 1}, y=_quantity("reference")),
    ]


def _line_layers(methods: Sequence[str], palette: Palette, place: Spec) -> list[Spec]:
    """Each method over its seeds: thin lines of the seeds, its mean, intervals, rings at thresholds, and points."""
    dash = {
        "field": "control",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": [False, True], "range": [[1, 0], _DASH]},
    }
    return [
        _layer(
            "seed",
            {"type": "line", "clip": True, "strokeWidth": 0.8, "opacity": 0.45},
            **place,
            detail=_name("seed"),
            order=_quantity("order"),
        ),
        _layer(
            "line",
            {"type": "line", "clip": True, "strokeWidth": 2.2},
            **place,
            strokeDash=dash,
            order=_quantity("order"),
        ),
        _layer(
            "line",
            {"type": "rule", "clip": True, "strokeWidth": 1.4},
            **{**place, "y": _quantity("low")},
            y2={"field": "high"},
        ),
        _layer("mark", _RING, **place),
        _layer(
            "line",
            _points(palette, 80, 1.2),
            **place,
            shape=_shape(methods),
            tooltip=_tooltip("method", "at", "value", "interval"),
        ),
    ]


def robustness_chart(methods: Sequence[str], palette: Palette = PAGE) -> Spec:
    """Returns the chart of robust accuracy over the radius: the parent thin, the candidates bold.

    Draws the named data set ``robust`` (method, line, epsilon, value and the texts at, radius, accuracy); several
    parents are several lines.
    """
    x = {**_quantity("epsilon"), "axis": {"grid": False, "tickCount": 6, "domain": True}}
    y = {**_quantity("value"), "scale": {"domain": [0, 1]}, "axis": {"format": ".0~%", "tickCount": 5}}
    names, colours = ["parent", *methods], [palette.muted, *palette.cycle(len(methods))]
    place = {"x": x, "y": y, "color": _nominal("method", names, colours)}
    shapes = _nominal("method", names, [SHAPES[0], *_shapes(methods)])
    points = {**_points(palette, 70, 1), "clip": False}  # marks at the ends of the axis are whole
    layers = [
        _layer(
            "robust",
            {"type": "line", "strokeWidth": 2},
            **place,
            detail=_name("line"),
            order=_quantity("epsilon"),
        ),
        _layer(
            "robust", points, **place, shape=shapes, tooltip=_tooltip("method", "at", "radius", "accuracy")
        ),
    ]
    return _finished({"layer": layers, "height": 240}, palette)


def score_chart(colour: int, palette: Palette = PAGE) -> Spec:
    """Returns the histogram of a detector's scores, of the parent in grey, of a candidate in its colour.

    It draws the named data set ``scores`` (model, sample, score, share); outliers are dashed.
    """
    encoding = {
        "x": {
            **_quantity("score"),
            "axis": {"grid": False, "tickCount": 3, "domain": True, "format": ".3~g"},
        },
        # Most test images lie in one bin: without a root, nothing else would be seen beside it.
        "y": {**_quantity("share"), "scale": {"type": "sqrt"}, "axis": {"format": ".0~%", "tickCount": 4}},
        "color": _nominal("model", ["parent", "candidate"], [palette.muted, palette.of_method(colour)]),
        "strokeDash": _nominal("sample", ["known", "outliers"], [[1, 0], _DASH]),
        "detail": _name("sample"),
        "order": _quantity("score"),
    }
    mark = {"type": "line", "interpolate": "step-after", "strokeWidth": 1.7}
    return _finished({**_layer("scores", mark, **encoding), "height": 160}, palette)


def _layer(data: str, mark: Spec, **encoding: Any) -> Spec:
    return {"data": {"name": data}, "mark": mark, "encoding": encoding}


def _quantity(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "title": None}


def _name(field: str) -> Spec:
    return {"field": field, "type": "nominal"}


def _nominal(field: str, names: Sequence[str], values: Sequence[Any]) -> Spec:
    return {**_name(field), "legend": None, "scale": {"domain": list(names), "range": list(values)}}


def _colour(methods: Sequence[str], palette: Palette) -> Spec:
    return _nominal("method", methods, palette.cycle(len(methods)))


def _shape(methods: Sequence[str]) -> Spec:
    return _nominal("method", methods, _shapes(methods))


def _shapes(methods: Sequence[str]) -> list[str]:
    return [SHAPES[index % len(SHAPES)] for index in range(len(methods))]


def _points(palette: Palette, size: int, edge: float) -> Spec:
    look = {"filled": True, "size": size, "opacity": 1, "stroke": palette.paper, "strokeWidth": edge}
    return {"type": "point", "clip": True, **look}


def _steered_axes() -> tuple[Spec, Spec]:
    scale = {"reverse": {"expr": f"!({_SHARE})"}}
    axis = {
        "labelExpr": f"{_SHARE} ? {_PERCENT} : {_PLAIN}",
        "tickCount": {"expr": "ceil(width / 90)"},
    }
    return _axes(scale, axis, {"domainMin": {"expr": "bottom"}, "domainMax": {"expr": "top"}})


def _fixed_axes(ends: Ends) -> tuple[Spec, Spec]:
    axis = {"labelExpr": _PERCENT, "tickCount": 5}
    return _axes({}, axis, {"domainMin": ends[0], "domainMax": ends[1]})


def _axes(scale: Spec, axis: Spec, ends: Spec) -> tuple[Spec, Spec]:
    return (
        {
            **_quantity("x"),
            "scale": {"zero": False, "nice": False, "padding": 14, **scale},
            "axis": {"grid": False, "domain": True, **axis},
        },
        {
            **_quantity("y"),
            "scale": {"zero": False, **ends},
            "axis": {"format": ".4~g", "tickCount": 6},
        },
    )


def _tooltip(*fields: str) -> list[Spec]:
    return [{**_name(field), "title": field} for field in fields]


def _finished(chart: Spec, palette: Palette) -> Spec:
    words = {"labelColor": palette.muted, "titleColor": palette.muted, "labelFont": FONT, "titleFont": FONT}
    lines = {"domainColor": palette.rule, "gridColor": palette.rule, "tickColor": palette.rule}
    sizes = {"labelFontSize": 12, "labelPadding": 6, "tickSize": 4, "labelFlush": False}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "background": "transparent",
        "padding": {"left": 4, "top": 5, "right": 18, "bottom": 5},  # half of a label at the end of an axis
        **chart,
        "config": {
            "view": {"stroke": None},
            "axis": {**words, **lines, **sizes},
            "axisY": {"domain": False, "ticks": False},
        },
        # Numbers and labels are set after the first layout: without a new layout labels would lie outside the chart.
        "autosize": {"type": "fit-x", "contains": "padding", "resize": True},
    }
