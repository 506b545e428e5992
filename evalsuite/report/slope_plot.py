"""The slopes of the excess error as a drawing: a line per condition and method, with the intervals of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.report.data import unique
from evalsuite.report.plot import Pen, Scale, document, nice_ticks, text_width, tick_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WIDTH = 460.0
_STEP = 1.5
"""Height of a line, in sizes of type."""


def slope_plot(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """Returns the slopes with their intervals as an SVG document in the colours of the page.

    Args:
        rows: See `evalsuite.report.chart_data.slopes`.
        methods: In order.
    """
    pen = Pen()
    parts, height = slope_parts(rows, methods, pen, _WIDTH)
    label = "Slopes of the excess error; the numbers are in the table below"
    return document(parts, _WIDTH, height, pen, label=label)


def slope_parts(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], pen: Pen, width: float
) -> tuple[list[str], float]:
    """Returns the elements of the drawing, a block of lines per condition, and its height."""
    height = (_STEP * len(rows) + 0.8 * len(unique(row["condition"] for row in rows)) + 2.4) * pen.size
    return list(_parts(rows, methods, pen, width, height)), height


def _parts(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], pen: Pen, width: float, height: float
) -> Iterator[str]:
    conditions = unique(row["condition"] for row in rows)
    left = max(text_width(name, pen.size) for name in conditions) + pen.size
    ends = [row[name] for row in rows for name in ("wide_low", "wide_high", "low", "high")]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    margin = 0.04 * (high - low) or 1.0
    x = Scale((low - margin, high + margin), (left, width - pen.size))
    bottom = height - 1.8 * pen.size
    ticks = nice_ticks(*x.domain, 7)
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        yield pen.line(x(tick), 0, x(tick), bottom, pen.palette.rule, 0.7)
        yield pen.text(x(tick), bottom + 1.4 * pen.size, text, anchor="middle")
    yield pen.line(x(0.0), 0, x(0.0), bottom, pen.palette.ink, 1.0)
    y = 0.0
    for condition in conditions:
        inside = [row for row in rows if row["condition"] == condition]
        y += 0.8 * pen.size
        yield pen.text(
            left - 0.8 * pen.size, y + 0.6 * _STEP * pen.size * len(inside), condition, anchor="end"
        )
        for row in inside:
            yield from _line(row, methods.index(row["method"]), x, y + 0.5 * _STEP * pen.size, pen)
            y += _STEP * pen.size


def _line(row: Mapping[str, Any], index: int, x: Scale, y: float, pen: Pen) -> Iterator[str]:
    colour = pen.palette.of_method(index)
    yield pen.line(x(row["wide_low"]), y, x(row["wide_high"]), y, colour, 1.0)
    yield pen.line(x(row["low"]), y, x(row["high"]), y, colour, 3.0)
    words = [
        row["method"],
        row["condition"],
        row["value"],
        row["images"] and f"these networks {row['images']}",
    ]
    yield pen.mark(x(row["slope"]), y, index, scale=0.9, title=", ".join(filter(None, words)))
