"""Charts as SVG without a browser: scales, axes, marks and texts, in the colours of the page or of a paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from evalsuite.report.palette import PAGE, SHAPE_PATHS, Palette

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Ends = tuple[float, float]
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_WIDE = 0.56
"""Width of a character on average, in font sizes."""


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Returns at most `most` round numbers in [low, high], evenly spaced.

    >>> nice_ticks(0.0, 1.0, 5), nice_ticks(0.93, 0.99, 4)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.94, 0.96, 0.98])
    """
    if not high > low:
        return [low]
    power = 10 ** math.floor(math.log10((high - low) / most))
    for step in (power * scale for power in (power, 10 * power) for scale in _STEPS):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [float(f"{step * place:.10g}") for place in range(first, last + 1)]
    return [low]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Returns ticks as texts with the same number of decimals.

    >>> tick_labels([0.94, 0.96]), tick_labels([0.0, 2.5, 5.0]), tick_labels([20000.0, 40000.0])
    (['0.94', '0.96'], ['0.0', '2.5', '5.0'], ['20,000', '40,000'])
    """
    texts = [f"{tick:.10f}".rstrip("0").partition(".")[2] for tick in ticks]
    decimals = min(6, max(map(len, texts), default=0))
    return [f"{tick:,.{decimals}f}".replace("-", "\u2212") for tick in ticks]


def text_width(text: str, size: float) -> float:
    """Returns about how wide a text is, which no program knows before it is drawn."""
    return _WIDE * size * len(text)


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from numbers to places on paper."""

    domain: Ends
    range: Ends

    def __call__(self, value: float) -> float:
        """Returns the place of a number; the middle where the domain is a single one."""
        (low, high), (start, end) = self.domain, self.range
        return start + (end - start) * (value - low) / (high - low) if high > low else (start + end) / 2


@dataclass(frozen=True, slots=True)
class Pen:
    """The elements of a drawing, in one palette and one size of type.

    Attributes:
        palette: Colours.
        size: Size of the type, in the units of the drawing.
    """

    palette: Palette = PAGE
    size: float = 10.5

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        colour: str = "",
        bold: bool = False,
        turned: bool = False,
    ) -> str:
        """Returns a text whose baseline is at (x, y)."""
        more = ' font-weight="600"' if bold else ""
        more += f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
        return (
            f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" '
            f'fill="{colour or self.palette.muted}"{more}>{escape(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
        """Returns a straight line."""
        return f'<path d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}" stroke="{colour}" stroke-width="{width:g}"/>'

    def polyline(
        self,
        points: Sequence[Ends],
        colour: str,
        width: float,
        *,
        dash: str = "",
        opacity: float = 1.0,
    ) -> str:
        """Returns a line through points."""
        path = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        more = f' stroke-dasharray="{dash}"' if dash else ""
        more += f' opacity="{opacity:g}"' if opacity < 1 else ""
        return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{more}/>'

    def rect(self, x: float, y: float, width: float, height: float, fill: str) -> str:
        """Returns a filled rectangle."""
        return (
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" height="{_n(max(height, 0))}" '
            f'fill="{fill}"/>'
        )

    def mark(
        self, x: float, y: float, index: int, *, colour: str = "", scale: float = 0.72, title: str = ""
    ) -> str:
        """Returns the mark of the method with that index; a pointer on it shows `title`."""
        path = SHAPE_PATHS[index % len(SHAPE_PATHS)]
        about = f"<title>{escape(title)}</title>" if title else ""
        return (
            f'<path d="{path}" transform="translate({_n(x)} {_n(y)}) scale({scale:g})" '
            f'fill="{colour or self.palette.of_method(index)}" stroke="{self.palette.paper}">{about}</path>'
        )

    def ring(self, x: float, y: float, radius: float) -> str:
        """Returns the mark of the parent, an open circle."""
        return (
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{radius:g}" fill="{self.palette.paper}" '
            f'stroke="{self.palette.ink}" stroke-width="1.3"/>'
        )


def document(
    parts: Iterable[str],
    width: float,
    height: float,
    pen: Pen,
    *,
    label: str = "",
    attributes: Mapping[str, str] | None = None,
) -> str:
    """Returns an SVG document.

    Args:
        parts: Its elements.
        width: In units of the drawing.
        height: In units of the drawing.
        pen: Size and face of the type.
        label: The drawing in words, for those who cannot see it.
        attributes: More attributes of the root, such as a width in millimetres.
    """
    more = "".join(f' {name}="{escape(value)}"' for name, value in (attributes or {}).items())
    about = f' role="img" aria-label="{escape(label)}"' if label else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"{about}{more} '
        f'font-family="{escape(pen.palette.font)}" font-size="{pen.size:g}">{"".join(parts)}</svg>'
    )


def _n(value: float) -> str:
    """A coordinate with a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")
