"""Robust accuracy over the radius of an attack as a drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.report.curve_panel import DASH
from evalsuite.report.plot import Pen, Scale, nice_ticks, tick_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalsuite.report.curve_panel import Box


def radius_parts(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    methods: Sequence[str],
    controls: Sequence[str],
    box: Box,
    pen: Pen,
) -> Iterator[str]:
    """Yields the elements of the drawing, the parents first.

    Args:
        lines: Radius and robust accuracy of each model, the name of a method or of a parent.
        methods: In order.
        controls: Those of them that are trained again without pruning.
        box: Where it is drawn.
        pen: Colours and type.
    """
    left, bottom = box.left + 3 * pen.size, box.top + box.height
    radii = sorted({radius for line in lines.values() for radius, _ in line})
    x = Scale((0.0, max(radii, default=1.0)), (left + pen.size, box.left + box.width - pen.size))
    y = Scale((0.0, 1.0), (bottom, box.top))
    for tick, label in zip(
        (0.0, 0.25, 0.5, 0.75, 1.0), tick_labels((0.0, 0.25, 0.5, 0.75, 1.0)), strict=True
    ):
        yield pen.line(left, y(tick), box.left + box.width, y(tick), pen.palette.rule, 0.6)
        yield pen.text(left - 0.4 * pen.size, y(tick) + 0.35 * pen.size, label, anchor="end")
    ticks = nice_ticks(*x.domain, 7)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        yield pen.text(x(tick), bottom + 1.35 * pen.size, label, anchor="middle")
    for name, line in sorted(lines.items(), key=lambda item: item[0] in methods):
        places = [(x(radius), y(value)) for radius, value in sorted(line)]
        index = methods.index(name) if name in methods else None
        colour = pen.palette.ink if index is None else pen.palette.of_method(index)
        yield pen.polyline(places, colour, 1.2, dash=DASH if name in controls else "")
        for place in places:
            yield pen.ring(*place, 2.4) if index is None else pen.mark(*place, index, scale=0.6)
