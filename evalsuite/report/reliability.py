"""Reliability diagrams: accuracy over confidence in bins, with intervals, and sparse bins merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalsuite.report.data import records
from evalsuite.report.labels import percent, rounded
from evalsuite.report.plot import Pen, Scale, document
from evalsuite.statistics.rates import wilson
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from evalsuite.report.data import ReportData, Row

FEWEST = 20
"""Images below which a bin is merged with its neighbour."""
_SIZE = 190.0
"""Side of a diagram of the page, in units of its drawing."""
_BAR, _DOT = 1.1, 0.62
"""Width of an interval, and size of a mark as a share of the usual one."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of confidences, or several neighbours together.

    Attributes:
        lower: Lower edge.
        upper: Upper edge.
        count: Number of images.
        confidence: Their mean confidence.
        accuracy: Share of them that is classified right.
        low: Lower end of the 95 % interval of the accuracy (Wilson 1927).
        high: Its upper end.
    """

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float
    low: float
    high: float

    @property
    def tip(self) -> str:
        """The bin in words."""
        right, low, high = (percent(round(share, 3)) for share in (self.accuracy, self.low, self.high))
        shares = f"{right} right ({low} to {high})"
        return f"confidence {self.lower:.2f} to {self.upper:.2f}: {self.count} images, {shares}"


@dataclass(frozen=True, slots=True)
class ReliabilityDiagram:
    """A reliability diagram of a candidate, with that of its parent in the background.

    Attributes:
        title: Method and ratio.
        note: Calibration errors, of the bins as they were measured.
        method: Index of the method.
        parent: Bins of the parent.
        candidate: Bins of the candidate.
    """

    title: str
    note: str
    method: int
    parent: tuple[Bin, ...]
    candidate: tuple[Bin, ...]

    def svg(self) -> str:
        """Returns the diagram as an SVG document in the colours of the page."""
        label, pen = f"Reliability diagram, {self.title}: {self.note}", Pen()
        return document(self.parts(pen, _SIZE), _SIZE, _SIZE, pen, label=label)

    def parts(self, pen: Pen, side: float) -> Iterator[str]:
        """Yields the elements of the drawing in a square, from the back to the front."""
        x = Scale((0.0, 1.0), (2.6 * pen.size, side - 0.8 * pen.size))
        y = Scale((0.0, 1.0), (side - 1.9 * pen.size, 0.6 * pen.size))
        for share in (0.0, 0.5, 1.0):
            yield pen.line(x(0), y(share), x(1), y(share), pen.palette.rule, 0.7)
            yield pen.text(x(0) - 0.4 * pen.size, y(share) + 0.35 * pen.size, f"{share:.1f}", anchor="end")
            yield pen.text(x(share), y(0) + 1.35 * pen.size, f"{share:.1f}", anchor="middle")
        yield pen.polyline([(x(0), y(0)), (x(1), y(1))], pen.palette.muted, 1.0, dash="2 3")
        yield from self._line(self.parent, 0, pen.palette.muted, (x, y), pen)
        yield from self._line(self.candidate, self.method, pen.palette.of_method(self.method), (x, y), pen)

    def _line(
        self, bins: Sequence[Bin], index: int, colour: str, scales: tuple[Scale, Scale], pen: Pen
    ) -> Iterator[str]:
        x, y = scales
        places = [(x(part.confidence), y(part.accuracy)) for part in bins]
        if places:
            yield pen.polyline(places, colour, 1.3)
        for place, part in zip(places, bins, strict=True):
            yield pen.line(place[0], y(part.low), place[0], y(part.high), colour, _BAR)
            yield pen.mark(*place, index, colour=colour, scale=_DOT, title=part.tip)


def reliability_diagrams(data: ReportData) -> list[ReliabilityDiagram]:
    """Returns for each method the diagram of the last candidate whose test accuracy holds, and of the smallest one.

    With several seeds, those of the first: bins pooled over networks would hide the bins of each.
    """
    table = data.reliability
    if table.empty:
        return []
    first = table.drop_duplicates("method").set_index("method")["seed"]
    of_first_seed = {name: table[table["seed"] == first[name]] for name in data.methods if name in first}
    return [
        _diagram(method, index, ratio, of_first_seed[method], is_control=method in data.controls)
        for index, method in enumerate(data.methods)
        if method in of_first_seed
        for ratio in _diagram_ratios(data, method, of_first_seed[method])
    ]


def _diagram_ratios(data: ReportData, method: str, table: pd.DataFrame) -> list[float]:
    ratios = sorted(float(ratio) for ratio in table.loc[table["method"] == method, "ratio"].unique())
    if not ratios:
        return []
    potential = data.clean_potentials.get(method, 0.0)
    last = [min(ratios, key=lambda ratio: abs(ratio - potential))] if potential > 0 else []
    return sorted({*last, ratios[-1]})


def _diagram(
    method: str, index: int, ratio: float, table: pd.DataFrame, *, is_control: bool
) -> ReliabilityDiagram:
    # The control has one network for each ratio, all of them of ratio 0: the one that was trained longest is shown.
    of_candidate = table[(table["method"] == method) & (table["ratio"] == ratio)].drop_duplicates(
        "lower", keep="last"
    )
    candidate = records(of_candidate)
    parent = records(table[table["method"] == DENSE])
    note = f"ECE {_error_text(candidate)}" + (f", parent {_error_text(parent)}" if parent else "")
    title = f"{method} (control)" if is_control else f"{method} at {percent(ratio)}"
    return ReliabilityDiagram(title, note, index, merged_bins(parent), merged_bins(candidate))


def merged_bins(rows: Sequence[Row], fewest: int = FEWEST) -> tuple[Bin, ...]:
    """Returns the bins with images; neighbours are merged until each has at least `fewest` of them.

    Bins are merged from the highest confidence downwards, where most images are; what is left over at the lower end
    joins the last bin.

    Args:
        rows: With ``lower``, ``upper``, ``count``, ``confidence``, ``accuracy``, rising.
        fewest: Number of images.
    """
    groups: list[list[Row]] = []
    for row in reversed([row for row in rows if row["count"]]):
        if groups and sum(part["count"] for part in groups[-1]) < fewest:
            groups[-1].append(row)
        else:
            groups.append([row])
    if len(groups) > 1 and sum(part["count"] for part in groups[-1]) < fewest:
        rest = groups.pop()
        groups[-1] += rest
    return tuple(_bin(group[::-1]) for group in reversed(groups))


def _bin(rows: Sequence[Row]) -> Bin:
    count = int(sum(row["count"] for row in rows))
    confidence, accuracy = (
        float(sum(row["count"] * row[name] for row in rows) / count) for name in ("confidence", "accuracy")
    )
    low, high = wilson(round(accuracy * count), count)
    return Bin(rows[0]["lower"], rows[-1]["upper"], count, confidence, accuracy, low, high)


def _error_text(rows: Sequence[Row]) -> str:
    """The calibration error with the digits that the images support."""
    return rounded(calibration_error(rows), sum(row["count"] for row in rows))


def calibration_error(rows: Sequence[Row]) -> float:
    """Returns the expected calibration error of bins as they were measured (Guo et al. 2017, equation 3)."""
    total = sum(row["count"] for row in rows)
    gaps = (row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows if row["count"])
    return float(sum(gaps) / total) if total else 0.0
