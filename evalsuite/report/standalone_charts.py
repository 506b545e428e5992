"""The charts of the page with their numbers filled in, as Vega-Lite specifications for notebooks and other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.report.charts import Spec, curve_chart
from evalsuite.report.labels import percent, rounded
from evalsuite.report.palette import PAPER
from evalsuite.report.verdict_picture import STATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalsuite.report.curve_lines import Curve, CurveLine
    from evalsuite.report.panels import Panel
    from evalsuite.report.verdict_bar import VerdictBar
    from evalsuite.report.verdict_cards import MethodVerdict

Rows = list[dict[str, Any]]
_ACROSS = 4
"""Panels side by side."""
_HEIGHT_OF_BAR = 20
_LEGEND = {"title": None, "orient": "bottom", "symbolOpacity": 1}


def curve_spec(curve: Curve, methods: Sequence[str], ratio_label: str) -> Spec:
    """Returns the chart of one curve over the prune ratio, with its numbers.

    Args:
        curve: The curve.
        methods: All methods in order, which decides colours and marks.
        ratio_label: Title of the axis of ratios.
    """
    title = {"text": curve.label[:1].upper() + curve.label[1:], "anchor": "start"}
    return {
        **_curve(curve, methods, ratio_label, curve.metric_label),
        "title": title,
        "width": 440,
        "height": 280,
    }


def panels_spec(panels: Sequence[Panel], methods: Sequence[str], ratio_label: str) -> Spec:
    """Returns one chart for each kind of test in a grid, with one legend.

    Args:
        panels: Title and curve of each kind.
        methods: All methods in order.
        ratio_label: Title of the axis of ratios.
    """
    views = []
    for panel in panels:
        view = _curve(panel.curve, methods, ratio_label, None)  # the words are wider than a panel is high
        title = {"text": panel.title, "subtitle": panel.curve.metric_label, "anchor": "start"}
        views.append({**view, "title": title, "width": 190, "height": 125})
    common = {name: views[0][name] for name in ("$schema", "background", "config")} if views else {}
    inner = [{name: part for name, part in view.items() if name not in common} for view in views]
    return {**common, "concat": inner, "columns": _ACROSS}


def verdict_spec(verdicts: Sequence[MethodVerdict]) -> Spec:
    """Returns the verdicts: for each method a bar per group of checks, in three states over the prune ratio.

    Args:
        verdicts: Those of the methods that have bars.
    """
    shown = [verdict for verdict in verdicts if verdict.bars]
    rows = [row for verdict in shown for bar in verdict.bars for row in _states(verdict.method, bar)]
    labels = list(dict.fromkeys(bar.label for verdict in shown for bar in verdict.bars))
    colours = {"domain": list(STATES), "range": [PAPER.holding, PAPER.rule, PAPER.failing]}
    y = {"field": "group", "type": "nominal", "sort": labels, "title": None}
    x = {
        "type": "quantitative",
        "axis": {"format": ".0%", "grid": False, "tickCount": 5},
        "title": "Prune ratio",
    }
    state = {
        "field": "state",
        "type": "nominal",
        "scale": colours,
        "legend": {"title": None, "orient": "bottom"},
    }
    tooltip = [{"field": name, "type": "nominal"} for name in ("method", "group", "state", "words")]
    common = {"y": y, "x": {**x, "field": "from"}, "color": state, "tooltip": tooltip}
    bars = {
        "transform": [{"filter": f"datum.state != '{STATES[-1]}'"}],
        "mark": {"type": "bar", "height": {"band": 0.62}},
        "encoding": {**common, "x2": {"field": "to"}},
    }
    ends = {
        "transform": [{"filter": f"datum.state == '{STATES[-1]}'"}],
        "mark": {"type": "tick", "thickness": 3, "height": {"band": 0.8}, "opacity": 1},
        "encoding": common,
    }
    column = {"field": "method", "type": "nominal", "sort": [v.method for v in shown], "title": None}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": PAPER.paper,
        "data": {"values": rows},
        "facet": {"column": {**column, "header": {"labelFontWeight": "bold"}}},
        "spec": {"layer": [bars, ends], "width": 150, "height": _HEIGHT_OF_BAR * max(1, len(labels))},
        "config": {"view": {"stroke": None}, "font": PAPER.font},
    }


def _states(method: str, bar: VerdictBar) -> Iterator[dict[str, Any]]:
    """The parts of a bar: up to where it holds, where it is undecided, and the place from which it fails."""
    held = bar.holds or 0.0
    open_until = bar.last if bar.holds is None else bar.open_until
    ends = [(0.0, held), (held, open_until), *([] if bar.fails is None else [(bar.fails, bar.fails)])]
    for state, (start, end) in zip(STATES, ends, strict=False):
        if start < end or state == STATES[-1]:
            about = {"method": method, "group": bar.label, "state": state, "words": bar.tip}
            yield {**about, "from": start, "to": end}


def _curve(curve: Curve, methods: Sequence[str], x_title: str, y_title: str | None) -> Spec:
    chart = curve_chart(methods, PAPER, curve.ends)
    tables = _tables(curve)
    layers = [
        _titled({**layer, "data": {"values": tables[layer["data"]["name"]]}}, x_title, y_title)
        for layer in chart["layer"]
        if tables[layer["data"]["name"]]
    ]
    kept = {name: chart[name] for name in ("$schema", "config")}
    return {**kept, "background": PAPER.paper, "layer": layers}


def _titled(layer: Spec, x_title: str, y_title: str | None) -> Spec:
    """The layer with titles of its axes, and a legend of methods."""
    encoding = dict(layer["encoding"])
    for channel, title in (("x", x_title), ("y", y_title)):
        if channel in encoding:
            encoding[channel] = {**encoding[channel], "title": title}
    for channel in ("color", "shape"):
        if channel in encoding:
            encoding[channel] = {**encoding[channel], "legend": _LEGEND}
    return {**layer, "encoding": encoding}


def _tables(curve: Curve) -> Mapping[str, Rows]:
    """The named data sets of a curve; see `evalsuite.report.charts.curve_chart`."""
    reference, n = curve.reference, curve.n
    low, high = curve.allowed or (reference, reference)
    known = reference is not None
    parent = {"x": 0.0, "y": reference, "at": "parent", "value": rounded(reference, n)}
    return {
        "limit": [{"reference": reference, "low": low, "high": high}] if known else [],
        "parent": [parent] if known else [],
        "line": [row for line in curve.lines for row in _points(line, n)],
        "seed": [row for line in curve.lines for row in _seeds(line)],
        "mark": [],
    }


def _points(line: CurveLine, n: int | None) -> Iterator[dict[str, Any]]:
    for order, point in enumerate(line.points):
        interval = f"{rounded(point.low, n)} to {rounded(point.high, n)}" if point.low < point.high else ""
        place = {"x": point.x, "y": point.y, "low": point.low, "high": point.high}
        texts = {"at": percent(point.x), "value": rounded(point.y, n), "interval": interval}
        yield {"method": line.method, "control": line.is_control, "order": order, **place, **texts}


def _seeds(line: CurveLine) -> Iterator[dict[str, Any]]:
    for seed, points in enumerate(line.seeds):
        for order, (x, y) in enumerate(points):
            yield {"method": line.method, "seed": seed, "order": order, "x": x, "y": y}
