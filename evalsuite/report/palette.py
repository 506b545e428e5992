"""Colours and marks of the methods, on the page and on paper."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
SHAPE_PATHS = (
    "M4.5 0A4.5 4.5 0 1 1-4.5 0A4.5 4.5 0 1 1 4.5 0Z",
    "M-4-4H4V4H-4Z",
    "M0-5 5 4H-5Z",
    "M0-5.5 5 0 0 5.5-5 0Z",
    "M-2-5h4v3h3v4h-3v3h-4v-3h-3v-4h3Z",
    "M0 5 5-4H-5Z",
    "M5 0-4 5V-5Z",
)
"""Outlines of `SHAPES`, about 10 units wide and centred."""
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
    holding: str = "var(--holding)"
    failing: str = "var(--failing)"
    undecided: str = "var(--undecided)"
    methods: tuple[str, ...] = tuple(f"var(--m{i})" for i in range(len(SHAPES)))
    font: str = FONT

    def of_method(self, index: int) -> str:
        """Returns the colour of the method with that index."""
        return self.methods[index % len(self.methods)]

    def cycle(self, count: int) -> list[str]:
        """Returns a colour for each of `count` methods."""
        return [self.of_method(index) for index in range(count)]


PAGE = Palette()
PAPER = Palette(
    ink="#000000",
    muted="#444444",
    rule="#d4d4d4",
    paper="#ffffff",
    allowed="#e4edf5",
    holding="#1d7a63",
    failing="#c0392b",
    undecided="#9a9fa5",
    methods=("#0072b2", "#d55e00", "#008a65", "#b3478a", "#6f5a00", "#3b8fc9", "#55585c"),
    font="Helvetica, Arial, 'Liberation Sans', sans-serif",
)
"""The light colours of the page, with a type face that papers use."""
