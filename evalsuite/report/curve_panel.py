"""A curve over the prune ratio as a drawing: the parent, what is tolerated, and a line with intervals per method."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from evalsuite.report.labels import percent, rounded
from evalsuite.report.plot import Pen, Scale, nice_ticks, text_width, tick_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalsuite.report.curve_lines import Curve, CurveLine, CurvePoint

_FAR = 0.25
"""Smallest tested ratio, as a share of the largest, from which the axis is broken between the parent and it."""
_APART = 2.4
"""Distance between the intervals of two methods at one ratio, in units of the drawing."""
_SHARE = 0.6
"""Share of the distance between two ratios over which the methods at one of them are spread at most."""
_ROOM = 16.0
"""Distance between ratios below which marks become smaller."""
DASH = "4 2.5"


@dataclass(frozen=True, slots=True)
class Box:
    """Place and size of a panel with its axes.

    Attributes:
        left: Left edge, where labels of ticks begin.
        top: Upper edge of the drawn area.
        width: With the labels of ticks.
        height: Of the drawn area, without the labels of ratios below it.
    """

    left: float
    top: float
    width: float
    height: float


class CurvePanel:
    """The drawing of one curve.

    Args:
        curve: The curve.
        box: Where it is drawn.
        pen: Colours and type.
        weight: Width of lines and size of marks, as a factor.
    """

    def __init__(self, curve: Curve, box: Box, pen: Pen, weight: float = 1.0) -> None:
        self.curve, self.box, self.pen, self.weight = curve, box, pen, weight
        ratios = sorted({point.x for line in curve.lines for point in line.points})
        self.ratios = ratios or [0.0, 1.0]
        low, high = curve.ends
        ticks = nice_ticks(low, high, max(4, int(box.height / (2.6 * pen.size))))
        self.ticks = list(zip(ticks, tick_labels(ticks), strict=True))
        self.left = box.left + max(text_width(label, pen.size) for _, label in self.ticks) + 0.6 * pen.size
        self.right = box.left + box.width - 0.8 * pen.size
        self.y = Scale((low, high), (box.top + box.height, box.top))
        self.broken = self.ratios[0] > _FAR * self.ratios[-1]
        self._ratio = self._ratio_scale()

    def x(self, ratio: float) -> float:
        """Returns the place of a ratio; the parent at 0 stands in front of the break of the axis."""
        return self._ratio(ratio) if ratio > 0 or not self.broken else self.left + self.pen.size

    def parts(self) -> Iterator[str]:
        """Yields the elements of the drawing, from the back to the front."""
        yield from self._axes()
        yield from self._parent()
        lines = self.curve.lines
        for line in lines:
            yield from self._seeds(line)
        apart = min(_APART, _SHARE * self._spacing() / max(1, len(lines)))
        for place, line in enumerate(lines):
            yield from self._line(line, apart * (place - (len(lines) - 1) / 2))

    def words(self) -> str:
        """Returns the drawing in one sentence."""
        curve = self.curve
        parts = [] if curve.reference is None else [f"parent {rounded(curve.reference, curve.n)}"]
        parts += [
            f"{line.method} {rounded(line.points[-1].y, curve.n)} at {percent(line.points[-1].x)}"
            for line in curve.lines
        ]
        return f"{curve.label} over the prune ratio: {', '.join(parts)}"

    def _spacing(self) -> float:
        """The median distance between neighbouring ratios; methods that miss a target by a little do not count."""
        targets = sorted({round(ratio, 2) for ratio in self.ratios})
        steps = sorted(self.x(after) - self.x(before) for before, after in pairwise(targets))
        return steps[len(steps) // 2] if steps else self.box.width

    def _ratio_scale(self) -> Scale:
        first, last = self.ratios[0], self.ratios[-1]
        if not self.broken:
            return Scale((0.0, last), (self.left + self.pen.size, self.right - self.pen.size))
        start = self.left + 3.6 * self.pen.size
        return Scale((first, last), (start, self.right - self.pen.size))

    def _axes(self) -> Iterator[str]:
        pen, bottom = self.pen, self.box.top + self.box.height
        for value, label in self.ticks:
            y = self.y(value)
            yield pen.line(self.left, y, self.right, y, pen.palette.rule, 0.6)
            yield pen.text(self.left - 0.45 * pen.size, y + 0.35 * pen.size, label, anchor="end")
        if self.curve.reference is not None:  # nothing is drawn at 0 but the parent
            yield pen.text(self.x(0.0), bottom + 1.35 * pen.size, "0", anchor="middle")
        for ratio in self._shown_ratios():
            yield pen.text(self.x(ratio), bottom + 1.35 * pen.size, ratio_tick(ratio), anchor="middle")
        if self.broken and self.curve.reference is not None:
            middle = (self.x(0.0) + self.x(self.ratios[0])) / 2 - 0.3 * pen.size
            for x in (middle, middle + 0.35 * pen.size):
                yield pen.line(
                    x,
                    bottom + 0.9 * pen.size,
                    x + 0.3 * pen.size,
                    bottom + 0.3 * pen.size,
                    pen.palette.muted,
                    0.8,
                )

    def _shown_ratios(self) -> list[float]:
        """The ratios that have room for a label, the largest first in case of doubt."""
        shown: list[float] = []
        for ratio in reversed(self.ratios):
            if not shown or self.x(shown[-1]) - self.x(ratio) > 2.1 * self.pen.size:
                shown.append(ratio)
        return [ratio for ratio in shown if self.x(ratio) - self.x(0.0) > 1.4 * self.pen.size]

    def _parent(self) -> Iterator[str]:
        curve, pen = self.curve, self.pen
        if curve.reference is None:
            return
        if curve.allowed is not None:
            low, high = curve.allowed
            top = self.y(high)
            yield pen.rect(self.left, top, self.right - self.left, self.y(low) - top, pen.palette.allowed)
        y = self.y(curve.reference)
        yield pen.line(self.left, y, self.right, y, pen.palette.ink, 0.8)
        yield pen.ring(self.x(0.0), y, 3.2 * self.weight)

    def _seeds(self, line: CurveLine) -> Iterator[str]:
        colour = self.pen.palette.of_method(line.index)
        for seed in line.seeds:
            places = [(self.x(x), self.y(y)) for x, y in seed]
            yield self.pen.polyline(places, colour, 0.6 * self.weight, opacity=0.4)

    def _line(self, line: CurveLine, shift: float) -> Iterator[str]:
        pen, colour = self.pen, self.pen.palette.of_method(line.index)
        places = [(self.x(point.x) + shift, self.y(point.y)) for point in line.points]
        dash = DASH if line.is_control else ""
        size = 0.72 * self.weight * max(0.5, min(1.0, self._spacing() / _ROOM))
        yield pen.polyline(places, colour, 1.5 * self.weight, dash=dash)
        for (x, y), point in zip(places, line.points, strict=True):
            if point.low < point.high:
                yield pen.line(x, self.y(point.low), x, self.y(point.high), colour, 1.1 * self.weight)
            yield pen.mark(x, y, line.index, scale=size, title=self._title(line, point))

    def _title(self, line: CurveLine, point: CurvePoint) -> str:
        low, high = (rounded(end, self.curve.n) for end in (point.low, point.high))
        interval = f" ({low} to {high})" if point.low < point.high else ""
        return f"{line.method} at {percent(point.x)}: {rounded(point.y, self.curve.n)}{interval}"


def ratio_tick(ratio: float) -> str:
    """Returns the label of a measured ratio on an axis in %: a whole number below 99 %.

    >>> ratio_tick(0.801), ratio_tick(0.9953)
    ('80', '99.5')
    """
    return f"{100 * ratio:.1f}".removesuffix(".0") if ratio > 0.985 else f"{100 * ratio:.0f}"


def legend(
    lines: Sequence[CurveLine], pen: Pen, left: float, top: float, width: float, *, parent: bool = True
) -> tuple[list[str], float]:
    """Returns a legend of lines and marks, and its height.

    Args:
        lines: Lines of the methods in order.
        pen: Colours and type.
        left: Left edge.
        top: Upper edge.
        width: Entries that do not fit go to the next line.
        parent: Whether it begins with the parent.
    """
    parts: list[str] = []
    size, x, y = pen.size, left, top + pen.size
    for line in (*([None] if parent else []), *lines):
        name = "parent" if line is None else line.method + (" (control)" if line.is_control else "")
        space = 3.8 * size + text_width(name, size)
        if x > left and x + space > left + width:
            x, y = left, y + 1.5 * size
        parts += _key(line, pen, x, y - 0.35 * size)
        parts.append(pen.text(x + 2.6 * size, y, name, colour=pen.palette.ink))
        x += space
    return parts, y - top + 0.5 * size


def _key(line: CurveLine | None, pen: Pen, x: float, y: float) -> list[str]:
    """The line and the mark of a method, or of the parent."""
    ends, centre = [(x, y), (x + 2.2 * pen.size, y)], x + 1.1 * pen.size
    if line is None:
        return [pen.polyline(ends, pen.palette.ink, 1.3), pen.ring(centre, y, 2.6)]
    dash = DASH if line.is_control else ""
    return [
        pen.polyline(ends, pen.palette.of_method(line.index), 1.3, dash=dash),
        pen.mark(centre, y, line.index, scale=0.6),
    ]
