"""The verdicts as one picture: for each method a bar per group of checks, in three states over the prune ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.report.curve_panel import ratio_tick
from evalsuite.report.data import unique
from evalsuite.report.plot import Pen, Scale, document, text_width

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalsuite.report.verdict_bar import VerdictBar
    from evalsuite.report.verdict_cards import MethodVerdict

_STEP, _BAR = 1.55, 0.85
"""Height of a line and of its bar, in sizes of type."""
_NUMBER = 2.5
"""Width of a number in %, in sizes of type."""
_HATCH = "undecided"
STATES = ("shown to hold", "undecided", "shown to fail")


class VerdictPicture:
    """The drawing of the verdicts of several methods side by side.

    Args:
        verdicts: Those of the methods that have bars.
        methods: All methods in order, which decides the marks.
        width: Of the drawing.
        pen: Colours and type.
    """

    def __init__(
        self, verdicts: Sequence[MethodVerdict], methods: Sequence[str], width: float, pen: Pen
    ) -> None:
        self.verdicts = [verdict for verdict in verdicts if verdict.bars]
        self.methods, self.width, self.pen = methods, width, pen
        self.labels = unique(bar.label for verdict in self.verdicts for bar in verdict.bars)
        self.names = max((text_width(label, pen.size) for label in self.labels), default=0.0) + pen.size
        fitting = int((width - self.names) // (18 * pen.size))
        self.across = max(1, min(fitting, len(self.verdicts)))

    def svg(self, **attributes: str) -> str:
        """Returns the picture as an SVG document, as high as it needs to be."""
        parts, height = self._blocks()
        ground = self.pen.rect(0, 0, self.width, height, self.pen.palette.paper)
        label = f"Verdicts of {', '.join(verdict.method for verdict in self.verdicts)} by group of checks"
        return document([ground, *parts], self.width, height, self.pen, label=label, attributes=attributes)

    @property
    def height(self) -> float:
        """The height of the picture."""
        return self._blocks()[1]

    def _blocks(self) -> tuple[list[str], float]:
        pen, size = self.pen, self.pen.size
        block = (_STEP * (len(self.labels) + 2) + 1.2) * size
        wide = (self.width - self.names) / self.across
        parts = [self._hatch()]
        rows = range(0, len(self.verdicts), self.across)
        for row, start in enumerate(rows):
            top = row * block
            for place, label in enumerate(self.labels):
                bold = label == self.labels[-1]
                parts.append(
                    pen.text(
                        0, self._line(top, place) + 0.35 * size, label, colour=pen.palette.ink, bold=bold
                    )
                )
            for place, verdict in enumerate(self.verdicts[start : start + self.across]):
                parts += self._method(verdict, self.names + place * wide, top, wide - size)
        end = len(rows) * block
        parts += self._legend(end + size)
        return parts, end + 1.6 * size

    def _line(self, top: float, place: int) -> float:
        """The middle of the line of a group."""
        return top + (_STEP * (place + 2) + 0.75) * self.pen.size

    def _method(self, verdict: MethodVerdict, left: float, top: float, width: float) -> Iterator[str]:
        pen, size = self.pen, self.pen.size
        end = left + width - 2 * _NUMBER * size - 0.5 * size
        x = Scale((0.0, verdict.ratios[-1] if verdict.ratios else 1.0), (left, end))
        yield pen.mark(
            left + 0.4 * size, top + 0.65 * size, self.methods.index(verdict.method), scale=0.09 * size
        )
        yield pen.text(left + 1.2 * size, top + size, verdict.method, colour=pen.palette.ink, bold=True)
        heads = self._line(top, 0) - 0.95 * size
        for ratio in self._ticks(verdict.ratios, x):
            anchor = "end" if ratio == verdict.ratios[-1] else "middle"
            yield pen.text(x(ratio), heads, ratio_tick(ratio), anchor=anchor)
        yield pen.text(end + (_NUMBER + 0.5) * size, heads, "holds", anchor="end")
        yield pen.text(end + (2 * _NUMBER + 0.5) * size, heads, "fails", anchor="end")
        for bar in verdict.bars:
            yield from self._bar(bar, x, self._line(top, self.labels.index(bar.label)), verdict.ratios)

    def _ticks(self, ratios: Sequence[float], x: Scale) -> list[float]:
        shown: list[float] = []
        for ratio in reversed(ratios):
            if not shown or x(shown[-1]) - x(ratio) > 2.3 * self.pen.size:
                shown.append(ratio)
        return shown

    def _bar(self, bar: VerdictBar, x: Scale, y: float, ratios: Sequence[float]) -> Iterator[str]:
        pen, size = self.pen, self.pen.size
        top, height = y - _BAR * size / 2, _BAR * size
        start, end = x.range
        held, open_until = x(bar.holds or 0.0), end if bar.holds is None else x(bar.open_until)
        yield pen.rect(held, top, open_until - held, height, f"url(#{_HATCH})")
        yield pen.rect(start, top, held - start, height, pen.palette.holding)
        for ratio in ratios[:-1]:
            yield pen.line(x(ratio), top, x(ratio), top + height, pen.palette.paper, 0.6)
        yield pen.line(
            start,
            y + _STEP * size / 2,
            end + (2 * _NUMBER + 0.5) * size,
            y + _STEP * size / 2,
            pen.palette.rule,
            0.3,
        )
        if bar.fails is not None:
            yield pen.rect(
                x(bar.fails) - 0.09 * size,
                top - 0.1 * size,
                0.22 * size,
                height + 0.2 * size,
                pen.palette.failing,
            )
        for value, place, colour in (
            (bar.holds, 1, pen.palette.ink),
            (bar.fails, 2, pen.palette.failing),
        ):
            text = "\u2013" if value is None else f"{100 * value:.0f}"
            colour = pen.palette.muted if value is None else colour
            yield pen.text(
                end + (place * _NUMBER + 0.5) * size, y + 0.35 * size, text, anchor="end", colour=colour
            )

    def _hatch(self) -> str:
        line = f'<rect width="1.4" height="4" fill="{self.pen.palette.undecided}"/>'
        size = 'width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"'
        return f'<defs><pattern id="{_HATCH}" {size}>{line}</pattern></defs>'

    def _legend(self, y: float) -> Iterator[str]:
        pen, size, x = self.pen, self.pen.size, 0.0
        fills = (pen.palette.holding, f"url(#{_HATCH})", pen.palette.failing)
        for state, fill in zip(STATES, fills, strict=True):
            yield pen.rect(x, y - 0.7 * size, 1.6 * size, 0.75 * size, fill)
            yield pen.text(x + 2.1 * size, y, state, colour=pen.palette.ink)
            x += 2.1 * size + text_width(state, size) + 1.5 * size
        yield pen.text(x, y, "up to which prune ratio, %")
