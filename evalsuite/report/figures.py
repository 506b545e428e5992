"""The charts of a report as files for a paper: their names, their sizes, and what stands around them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from evalsuite.atomic_files import write_atomically
from evalsuite.errors import UserError
from evalsuite.registry import unknown_name
from evalsuite.report.breakdown import breakdown
from evalsuite.report.chart_data import slopes
from evalsuite.report.curve_lines import CurveLine, curve_lines
from evalsuite.report.curve_panel import Box, CurvePanel, legend
from evalsuite.report.labels import percent
from evalsuite.report.palette import PAPER
from evalsuite.report.panels import Panel, panels
from evalsuite.report.plot import Pen, document, text_width
from evalsuite.report.radius_plot import radius_parts
from evalsuite.report.reliability import reliability_diagrams
from evalsuite.report.slope_plot import slope_parts
from evalsuite.report.verdict_cards import Verdicts
from evalsuite.report.verdict_picture import VerdictPicture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from evalsuite.report.curve_lines import Curve
    from evalsuite.report.data import ReportData
    from evalsuite.report.reliability import ReliabilityDiagram
    from evalsuite.report.verdict_cards import MethodVerdict

Form = Literal["pdf", "svg", "png"]
FORMS: tuple[Form, ...] = get_args(Form)
WIDTHS = {"column": 84.0, "page": 174.0}
"""Widths in millimetres: a column and the page of a paper of two columns."""
NARROWEST, WIDEST = 30.0, 1000.0
KINDS = ("verdict", "panels", "curves", "reliability", "radius", "excess")
"""Kinds of figures, as ``only`` names them."""
TYPE = 7.5
"""Size of the type in points, as in the figures of most papers."""
_POINT = 72 / 25.4
"""Points per millimetre."""
_PIXELS = 300 / 72
"""Pixels of a PNG per point: 300 per inch."""
_PEN = Pen(PAPER, TYPE)
_WIDTH = re.compile(r"([\d.]+) ?mm")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing in points.

    Attributes:
        svg: An SVG document without a size of its own.
        width: In points.
        height: In points.
    """

    svg: str
    width: float
    height: float

    def sized(self, form: str) -> str:
        """Returns the document with its size: in millimetres, or in the units of the other forms, which are points."""
        if form == "svg":
            size = f'width="{self.width / _POINT:.2f}mm" height="{self.height / _POINT:.2f}mm"'
        else:
            size = f'width="{self.width:.2f}" height="{self.height:.2f}"'
        return self.svg.replace("<svg ", f"<svg {size} ", 1)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a report.

    Attributes:
        name: How ``only`` names it, for example ``curves:accuracy/clean``.
        width: Its usual width, a key of `WIDTHS`.
        draw: Returns the drawing in a width in points.
    """

    name: str
    width: str
    draw: Callable[[float], Drawing]

    @property
    def file_name(self) -> str:
        """A name without spaces that every operating system accepts."""
        return _slug(self.name)


def figures(
    data: ReportData,
    folder: Path,
    form: str,
    *,
    only: Sequence[str] = (),
    width: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes the figures of a report into files, each completely or not at all, and returns the paths.

    Args:
        data: The data of the report.
        folder: Created if it does not exist.
        form: ``pdf``, ``svg`` or ``png``.
        only: Names of figures, or kinds of them (see `KINDS`); all of them if there are none.
        width: ``column``, ``page``, or millimetres such as ``84mm``; the usual one of each figure if empty.
        progress: Called after each file with the number of files that are written and that of all files.

    Raises:
        UserError: If there is no such form, figure or width.
        StoreError: If the folder cannot be written.
    """
    if form not in FORMS:
        raise UserError(unknown_name("form of figures", form, FORMS))
    millimetres = width_in_millimetres(width) if width else None
    chosen = selected(all_figures(data), only)
    paths: list[Path] = []
    for figure in chosen:
        drawing = figure.draw((millimetres or WIDTHS[figure.width]) * _POINT)
        path = folder / f"{_unused(figure.file_name, paths)}.{form}"
        write_atomically(path, rendered(drawing, form))
        paths.append(path)
        if progress:
            progress(len(paths), len(chosen))
    return paths


def _slug(text: str) -> str:
    return re.sub(r"[^\w.=+]+", "-", text.replace("%", "")).strip("-.")[:150] or "figure"


def _unused(name: str, paths: Sequence[Path]) -> str:
    """The name, with a number where another figure has it."""
    taken = {path.stem.lower() for path in paths}
    numbered = (name if count == 1 else f"{name}-{count}" for count in range(1, len(paths) + 2))
    return next(candidate for candidate in numbered if candidate.lower() not in taken)


def width_in_millimetres(text: str) -> float:
    """Returns a width in millimetres.

    Raises:
        UserError: If it is none.

    >>> width_in_millimetres("column"), width_in_millimetres("120 mm")
    (84.0, 120.0)
    """
    match = _WIDTH.fullmatch(text)
    try:
        millimetres = WIDTHS[text] if match is None else float(match[1])
    except (KeyError, ValueError):
        millimetres = 0.0
    if not NARROWEST <= millimetres <= WIDEST:
        raise UserError(
            f"found the width {text!r}, expected {' or '.join(WIDTHS)}, or {NARROWEST:g} to {WIDEST:g} mm such as 84mm"
        )
    return millimetres


def selected(every: Sequence[Figure], only: Sequence[str]) -> list[Figure]:
    """Returns the figures that are asked for by name or by kind, in the order of the report.

    Raises:
        UserError: If a name is that of no figure of this report.
    """
    kinds = {figure.name.partition(":")[0] for figure in every}
    for name in only:
        if name in KINDS and name not in kinds:
            raise UserError(
                f"this report has no figure of the kind {name!r}; it has {', '.join(sorted(kinds))}"
            )
        if name not in kinds and all(figure.name != name for figure in every):
            raise UserError(unknown_name("figure", name, [*KINDS, *(figure.name for figure in every)]))
    if not only:
        return list(every)
    return [figure for figure in every if {figure.name, figure.name.partition(":")[0]} & set(only)]


def rendered(drawing: Drawing, form: str) -> bytes:
    """Returns a drawing as a file."""
    if form == "svg":
        return drawing.sized(form).encode()
    import vl_convert

    if form == "pdf":
        return bytes(vl_convert.svg_to_pdf(drawing.sized(form)))
    return bytes(vl_convert.svg_to_png(drawing.sized(form), scale=_PIXELS))


def all_figures(data: ReportData) -> list[Figure]:
    """Returns every figure of a report, none of them drawn yet."""
    return [*_verdict_figures(data), *_curve_figures(data), *_other_figures(data)]


def _verdict_figures(data: ReportData) -> Iterator[Figure]:
    verdicts = [verdict for verdict in Verdicts(data).methods() if verdict.bars]
    if verdicts:
        yield Figure("verdict", "page", partial(_verdict, verdicts, data.methods))


def _verdict(verdicts: Sequence[MethodVerdict], methods: Sequence[str], width: float) -> Drawing:
    picture = VerdictPicture(verdicts, methods, width, _PEN)
    return Drawing(picture.svg(), width, picture.height)


def _curve_figures(data: ReportData) -> Iterator[Figure]:
    curves = [curve for curve in curve_lines(data) if curve.lines]
    title = f"{data.ratio_label} (%)"
    if several := panels(curves):
        yield Figure("panels", "page", partial(_panels, several, title))
    for curve in curves:
        name = f"curves:{curve.metric}/{curve.condition}"
        yield Figure(name, "column", partial(_curve, curve, title))


def _curve(curve: Curve, title: str, width: float) -> Drawing:
    """A curve with the titles of its axes and a legend."""
    top, height, left = 1.9 * TYPE, 0.56 * width, 1.4 * TYPE
    metric = curve.metric_label[:1].upper() + curve.metric_label[1:]
    parts = [
        _PEN.text(left, 1.1 * TYPE, curve.condition_label, colour=PAPER.ink, bold=True),
        *CurvePanel(curve, Box(left, top, width - left, height), _PEN, 0.85).parts(),
        _PEN.text(0.9 * TYPE, top + height / 2, metric, anchor="middle", turned=True),
    ]
    below, end = _below(curve.lines, title, top + height + 1.6 * TYPE, width)
    return _drawing([*parts, *below], width, end, curve.label)


def _below(
    lines: Sequence[CurveLine], title: str, top: float, width: float, *, parent: bool = True
) -> tuple[list[str], float]:
    """The title of the horizontal axis and the legend, and where they end."""
    words = _PEN.text(width / 2, top + TYPE, title, anchor="middle")
    keys, height = legend(lines, _PEN, 0.0, top + 1.8 * TYPE, width, parent=parent)
    return [words, *keys], top + 1.8 * TYPE + height


def _panels(several: Sequence[Panel], title: str, width: float) -> Drawing:
    """The panels of all kinds of tests in a grid, with one legend."""
    across = max(1, min(4, int(width // 115)))
    step, gap = width / across, 1.2 * TYPE
    labels = [_wrapped(panel.curve.metric_label, step - gap) for panel in several]
    height, head = 0.62 * step, (1.8 + 1.1 * max(map(len, labels))) * TYPE
    row = head + height + 2.3 * TYPE
    parts: list[str] = []
    for place, (panel, words) in enumerate(zip(several, labels, strict=True)):
        left, top = (place % across) * step, (place // across) * row
        letter = f"{chr(97 + place)} " if place < 26 else ""
        parts.append(_PEN.text(left, top + TYPE, f"{letter}{panel.title}", colour=PAPER.ink, bold=True))
        parts += [_PEN.text(left, top + (2.1 + 1.1 * line) * TYPE, text) for line, text in enumerate(words)]
        box = Box(left, top + head, step - gap, height)
        parts += CurvePanel(panel.curve, box, _PEN, 0.75).parts()
    rows = -(-len(several) // across)
    lines = {line.index: line for panel in several for line in panel.curve.lines}
    below, end = _below([lines[index] for index in sorted(lines)], title, rows * row, width)
    return _drawing([*parts, *below], width, end, "Curves of all kinds of tests over the prune ratio")


def _wrapped(text: str, width: float) -> list[str]:
    """A text in lines that fit into a width, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, TYPE) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _other_figures(data: ReportData) -> Iterator[Figure]:
    for diagram in reliability_diagrams(data):
        yield Figure(
            f"reliability:{_slug(diagram.title)}",
            "column",
            partial(_reliability, diagram),
        )
    yield from _radius_figures(data)
    if rows := slopes(data):
        yield Figure("excess", "page", partial(_excess, rows, data.methods))


def _reliability(diagram: ReliabilityDiagram, width: float) -> Drawing:
    """A reliability diagram with the titles of its axes."""
    side, left = min(width, 260.0) - 1.6 * TYPE, 1.4 * TYPE
    inner = "".join(diagram.parts(_PEN, side))
    parts = [
        _PEN.text(left, 1.1 * TYPE, f"{diagram.title}: {diagram.note}", colour=PAPER.ink, bold=True),
        f'<g transform="translate({left:g} {1.6 * TYPE:g})">{inner}</g>',
        _PEN.text(0.9 * TYPE, 1.6 * TYPE + side / 2, "Accuracy (fraction)", anchor="middle", turned=True),
        _PEN.text(left + side / 2, 2.9 * TYPE + side, "Confidence (fraction)", anchor="middle"),
    ]
    return _drawing(parts, width, side + 3.4 * TYPE, f"Reliability diagram, {diagram.title}")


def _radius_figures(data: ReportData) -> Iterator[Figure]:
    drops = breakdown(data)
    for attack, rows in drops.data["robust"].items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for name, ratio, radius, value in rows:
            if name not in data.methods or ratio == drops.chosen:
                lines.setdefault(name, []).append((radius, value))
        ratio_text = "" if drops.chosen is None else f", target ratio {percent(drops.chosen)}"
        title = f"{attack[:1].upper()}{attack[1:]}{ratio_text}"
        yield Figure(
            f"radius:{_slug(attack)}",
            "column",
            partial(_radius, lines, data, title),
        )


def _radius(
    lines: Mapping[str, Sequence[tuple[float, float]]], data: ReportData, title: str, width: float
) -> Drawing:
    """Robust accuracy over the radius, with the titles of its axes and a legend."""
    top, height, left = 1.9 * TYPE, 0.56 * width, 1.4 * TYPE
    unit = "1/255" if title.partition(", target ratio")[0].endswith("Linf") else "of images in [0, 1]"
    parts = [
        _PEN.text(left, 1.1 * TYPE, title, colour=PAPER.ink, bold=True),
        *radius_parts(lines, data.methods, data.controls, Box(left, top, width - left, height), _PEN),
        _PEN.text(0.9 * TYPE, top + height / 2, "Robust accuracy (fraction)", anchor="middle", turned=True),
    ]
    shown = [
        CurveLine(name, index, name in data.controls, ())
        for index, name in enumerate(data.methods)
        if name in lines
    ]
    below, end = _below(shown, f"Radius of the attack ({unit})", top + height + 1.6 * TYPE, width)
    return _drawing([*parts, *below], width, end, f"Robust accuracy over the radius, {title}")


def _excess(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], width: float) -> Drawing:
    """The slopes of the excess error with the title of their axis and a legend."""
    inner, height = slope_parts(rows, methods, _PEN, width)
    title = "Excess error per prune ratio of 1 (percentage points)"
    shown = [
        CurveLine(name, index, is_control=False, points=())
        for index, name in enumerate(methods)
        if any(row["method"] == name for row in rows)
    ]
    below, end = _below(shown, title, height, width, parent=False)
    return _drawing([*inner, *below], width, end, title)


def _drawing(parts: Sequence[str], width: float, height: float, label: str) -> Drawing:
    ground = _PEN.rect(0, 0, width, height, PAPER.paper)
    return Drawing(document([ground, *parts], width, height, _PEN, label=label), width, height)
