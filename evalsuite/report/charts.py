"""The charts as Vega-Lite specifications; the page fills in the numbers of the curve that a reader chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a chart.

    The default names the custom properties of the page's style sheet, so that one chart serves for
    light, dark and paper.
    """

    ink: str = "var(--ink)"
    muted: str = "var(--muted)"
    rule: str = "var(--rule)"
    paper: str = "var(--paper)"
    allowed: str = "var(--allowed)"
    methods: tuple[str, ...] = tuple(f"var(--m{i})" for i in range(len(SHAPES)))

    def cycle(self, count: int) -> list[str]:
        """Returns a colour for each of `count` methods."""
        return [self.methods[i % len(self.methods)] for i in range(count)]


PAGE = Palette()


def curve_chart(methods: Sequence[str], palette: Palette = PAGE) -> dict[str, Any]:
    """Returns the chart of one metric on one condition over the ratio or a cost.

    Draws the named data sets ``limit`` (reference, low, high), ``line`` (method, order, x, y, low,
    high and the texts at, value, interval), ``seed`` (method, seed, order, x, y) and ``mark`` (method, x, y);
    the parameter ``axis`` is the quantity of x, ``bottom`` and ``top`` are the ends of y.
    """
    import altair as alt

    colour = _colour(methods, palette)
    shape = _shape(methods)
    x, y = _axes()
    limit, line = alt.Chart(alt.NamedData("limit")), alt.Chart(alt.NamedData("line"))
    layers = [
        limit.mark_rect(color=palette.allowed, clip=True).encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        limit.mark_rule(color=palette.ink, strokeWidth=1).encode(y="reference:Q"),
        line.mark_area(opacity=0.13, clip=True).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
        alt.Chart(alt.NamedData("seed"))
        .mark_line(clip=True, strokeWidth=0.8, opacity=0.45)
        .encode(x=x, y=y, color=colour, detail="seed:N", order="order:Q"),
        line.mark_line(clip=True, strokeWidth=2.2).encode(x=x, y=y, color=colour, order="order:Q"),
        alt.Chart(alt.NamedData("mark"))
        .mark_point(clip=True, size=260, strokeWidth=1.8, filled=False, shape="circle")
        .encode(x=x, y=y, color=colour),
        line.mark_point(
            clip=True, filled=True, size=80, opacity=1, stroke=palette.paper, strokeWidth=1.2
        ).encode(x=x, y=y, color=colour, shape=shape, tooltip=_tooltip("method", "at", "value", "interval")),
    ]
    chart = alt.layer(*layers).add_params(
        alt.param(name="axis", value="ratio"),
        alt.param(name="bottom", value=None),
        alt.param(name="top", value=None),
    )
    return _finished(chart.properties(width="container", height=380, background="transparent"), palette)


def reliability_chart(
    bins: Sequence[Mapping[str, Any]], colour: int, palette: Palette = PAGE
) -> dict[str, Any]:
    """Returns a reliability diagram: accuracy over confidence, the parent's thin, the candidate's bold.

    Args:
        bins: Rows with ``model`` (``parent`` or ``candidate``), ``confidence``, ``accuracy``, ``count``.
        colour: Index of the candidate's colour.
        palette: Colours.
    """
    import altair as alt

    ticks = alt.Axis(values=[0, 0.5, 1], format=".0~%")
    unit = alt.Scale(domain=[0, 1])
    x = alt.X("confidence:Q", title=None, scale=unit, axis=ticks)
    y = alt.Y("accuracy:Q", title=None, scale=unit, axis=ticks)
    shade = alt.Color("model:N", legend=None).scale(
        domain=["parent", "candidate"], range=[palette.muted, palette.cycle(colour + 1)[colour]]
    )
    ends = alt.InlineData(values=[{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}])
    drawn = alt.Chart(alt.InlineData(values=[dict(row) for row in bins]))
    layers = [
        alt.Chart(ends).mark_line(color=palette.muted, strokeWidth=1, strokeDash=[2, 3]).encode(x=x, y=y),
        drawn.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=shade, order="confidence:Q"),
        drawn.mark_point(filled=True, opacity=0.9, stroke=palette.paper, strokeWidth=0.6).encode(
            x=x,
            y=y,
            color=shade,
            size=alt.Size("count:Q", legend=None, scale=alt.Scale(type="sqrt", range=[10, 160])),
            tooltip=_tooltip("model", "bin", "shows"),
        ),
    ]
    chart = alt.layer(*layers).properties(width="container", height=125, background="transparent")
    return _finished(chart, palette)


def robustness_chart(methods: Sequence[str], palette: Palette = PAGE) -> dict[str, Any]:
    """Returns the chart of robust accuracy over the radius: the parent thin, the candidates bold.

    Draws the named data set ``robust`` (method, line, epsilon, value and the texts at, radius, accuracy); several
    parents are several lines.
    """
    import altair as alt

    names = ["parent", *methods]
    colour = alt.Color("method:N", legend=None).scale(
        domain=names, range=[palette.muted, *palette.cycle(len(methods))]
    )
    shape = _shape(methods, parent=True)
    x = alt.X("epsilon:Q", title=None).axis(grid=False, tickCount=6, domain=True)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1])).axis(format=".0~%", tickCount=5)
    drawn = alt.Chart(alt.NamedData("robust"))
    layers = [
        drawn.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, detail="line:N", order="epsilon:Q"),
        drawn.mark_point(filled=True, size=70, opacity=1, stroke=palette.paper, strokeWidth=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=_tooltip("method", "at", "radius", "accuracy")
        ),
    ]
    chart = alt.layer(*layers).properties(width="container", height=240, background="transparent")
    return _finished(chart, palette)


def score_chart(colour: int, palette: Palette = PAGE) -> dict[str, Any]:
    """Returns the histogram of a detector's scores, of the parent in grey, of a candidate in its colour.

    It draws the named data set ``scores`` (model, sample, score, share); outliers are dashed.
    """
    import altair as alt

    shade = alt.Color("model:N", legend=None).scale(
        domain=["parent", "candidate"], range=[palette.muted, palette.cycle(colour + 1)[colour]]
    )
    dash = alt.StrokeDash("sample:N", legend=None).scale(domain=["known", "outliers"], range=[[1, 0], [4, 3]])
    x = alt.X("score:Q", title=None).axis(grid=False, tickCount=3, domain=True, format=".3~g")
    root = alt.Scale(type="sqrt")  # most test images lie in one bin: beside it, nothing else would be seen
    y = alt.Y("share:Q", title=None, scale=root).axis(format=".0~%", tickCount=4)
    chart = (
        alt.Chart(alt.NamedData("scores"))
        .mark_line(interpolate="step-after", strokeWidth=1.7)
        .encode(x=x, y=y, color=shade, strokeDash=dash, detail="sample:N", order="score:Q")
    )
    return _finished(chart.properties(width="container", height=160, background="transparent"), palette)


def slope_chart(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], palette: Palette = PAGE
) -> dict[str, Any]:
    """Returns the slopes of the excess error with their intervals, a line of dots per condition.

    Args:
        rows: With ``method``, ``condition``, ``slope``, ``low``, ``high``, ``wide_low``, ``wide_high`` and the
            texts ``value``, ``images`` and ``seeds``.
        methods: In order.
        palette: Colours.
    """
    import altair as alt

    x = alt.X("slope:Q", title=None).axis(tickCount=6, domain=True, grid=True)
    y = alt.Y("condition:N", title=None, sort=None).axis(labelLimit=220, domain=False, ticks=False)
    place = alt.YOffset("method:N", sort=list(methods))
    colour, shape = _colour(methods, palette), _shape(methods)
    drawn = alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))
    zero = alt.Chart(alt.InlineData(values=[{"slope": 0}])).mark_rule(color=palette.ink, strokeWidth=1)
    layers = [
        zero.encode(x=x),
        drawn.mark_rule(strokeWidth=1).encode(
            x=alt.X("wide_low:Q"), x2="wide_high:Q", y=y, yOffset=place, color=colour
        ),
        drawn.mark_rule(strokeWidth=3.5).encode(
            x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=place, color=colour
        ),
        drawn.mark_point(filled=True, size=80, opacity=1, stroke=palette.paper, strokeWidth=1).encode(
            x=x, y=y, yOffset=place, color=colour, shape=shape,
            tooltip=_tooltip("method", "condition", "value", "images", "seeds"),
        ),
    ]  # fmt: skip
    lines = {row["condition"] for row in rows}
    height = 16 * max(1, len(lines)) * max(1, len(methods))
    chart = alt.layer(*layers).properties(width="container", height=height, background="transparent")
    return _finished(chart, palette)


def _colour(methods: Sequence[str], palette: Palette) -> Any:
    import altair as alt

    return alt.Color("method:N", legend=None).scale(domain=list(methods), range=palette.cycle(len(methods)))


def _shape(methods: Sequence[str], *, parent: bool = False) -> Any:
    import altair as alt

    names = ["parent", *methods] if parent else list(methods)
    shapes = [SHAPES[index % len(SHAPES)] for index in range(len(methods))]
    return alt.Shape("method:N", legend=None).scale(
        domain=names, range=[SHAPES[0], *shapes] if parent else shapes
    )


def _axes() -> tuple[Any, Any]:
    import altair as alt

    share = "axis == 'ratio' || axis == 'prunable_ratio'"
    plain = "abs(datum.value) < 10 ? format(datum.value, '.3~g') : format(datum.value, '.3~s')"  # 0.05 ms is no 50m
    label = f"{share} ? format(datum.value, '.0~%') : {plain}"
    rising = alt.ExprRef(expr=f"!({share})")
    x = alt.X("x:Q", title=None, scale=alt.Scale(zero=False, nice=False, reverse=rising, padding=14))
    scale = alt.Scale(zero=False, domainMin=alt.ExprRef(expr="bottom"), domainMax=alt.ExprRef(expr="top"))
    x = x.axis(labelExpr=label, grid=False, tickCount=alt.ExprRef(expr="ceil(width / 90)"), domain=True)
    return x, alt.Y("y:Q", title=None, scale=scale).axis(format=".4~g", tickCount=6)


def _tooltip(*fields: str) -> list[Any]:
    import altair as alt

    return [alt.Tooltip(f"{field}:N", title=field) for field in fields]


def _finished(chart: Any, palette: Palette) -> dict[str, Any]:
    words = {"labelColor": palette.muted, "titleColor": palette.muted, "labelFont": FONT, "titleFont": FONT}
    lines = {"domainColor": palette.rule, "gridColor": palette.rule, "tickColor": palette.rule}
    drawn = chart.configure_view(stroke=None).configure_axis(
        **words, **lines, labelFontSize=12, labelPadding=6, tickSize=4, labelFlush=False
    )
    spec: dict[str, Any] = drawn.configure_axisY(domain=False, ticks=False).to_dict(validate=False)
    # Numbers and labels are set after the first layout: without a new layout labels would lie outside the chart.
    spec["autosize"] = {"type": "fit-x", "contains": "padding", "resize": True}
    return spec
