"""Tables for papers: the verdicts and the accuracies as LaTeX, with the rules of the package booktabs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from evalsuite.report.curve_lines import curve_lines
from evalsuite.report.curve_panel import ratio_tick
from evalsuite.report.data import unique
from evalsuite.report.labels import rounded
from evalsuite.report.panels import panels
from evalsuite.report.verdict_cards import Verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalsuite.report.curve_lines import CurvePoint
    from evalsuite.report.data import ReportData
    from evalsuite.report.panels import Panel
    from evalsuite.report.verdict_cards import MethodVerdict

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u03b5": r"$\varepsilon$",
}
_SPECIAL |= {character: f"\\{character}" for character in "&%$#_{}"}
_NONE = "--"
_ACCURACIES = ("accuracy", "robust_accuracy")


def latex_tables(data: ReportData) -> dict[str, str]:
    """Returns the tables ``thresholds`` and ``accuracy`` as LaTeX; those without content are left out.

    Each is a ``tabular`` to put into a ``table`` with a caption of one's own, and begins with a comment that says what
    its numbers are.
    """
    verdicts = [verdict for verdict in Verdicts(data).methods() if verdict.bars]
    shown = [panel for panel in panels(curve_lines(data)) if panel.curve.metric in _ACCURACIES]
    tables = {}
    if verdicts:
        tables["thresholds"] = "\n".join(_thresholds(verdicts, data)) + "\n"
    if shown:
        tables["accuracy"] = "\n".join(_accuracies(shown, data)) + "\n"
    return tables


def latex_text(text: str) -> str:
    r"""Returns a text in which no character is a command of LaTeX.

    >>> print(latex_text("50 % of filter_l1 & co"))
    50 \% of filter\_l1 \& co
    """
    return re.sub(r"[\\~^&%$#_{}\u03b5]", lambda match: _SPECIAL[match[0]], text)


def _thresholds(verdicts: Sequence[MethodVerdict], data: ReportData) -> Iterator[str]:
    """The ratios up to which groups of checks hold, and from which they fail, in %."""
    yield "% Prune ratio in % up to which all checks of a group are shown to hold (one-sided 97.5 % for each check),"
    yield "% and from which one is shown to fail (97.5 % for each line by itself); needs \\usepackage{booktabs}."
    yield f"% {Verdicts(data).scope()}"
    yield f"\\begin{{tabular}}{{l{'rr' * len(verdicts)}}}"
    yield "\\toprule"
    heads = [f"\\multicolumn{{2}}{{c}}{{{latex_text(verdict.method)}}}" for verdict in verdicts]
    yield f" & {' & '.join(heads)} \\\\"
    yield " ".join(f"\\cmidrule(lr){{{2 + 2 * place}-{3 + 2 * place}}}" for place in range(len(verdicts)))
    yield f"Checks & {' & '.join(['holds & fails'] * len(verdicts))} \\\\"
    yield "\\midrule"
    labels = unique(bar.label for verdict in verdicts for bar in verdict.bars)
    for place, label in enumerate(labels):
        if place == len(labels) - 1:
            yield "\\midrule"
        bars = [next((bar for bar in verdict.bars if bar.label == label), None) for verdict in verdicts]
        values = [
            value for bar in bars for value in ((None, None) if bar is None else (bar.holds, bar.fails))
        ]
        cells = [_NONE if value is None else ratio_tick(value) for value in values]
        yield f"{latex_text(label)} & {' & '.join(cells)} \\\\"
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _accuracies(shown: Sequence[Panel], data: ReportData) -> Iterator[str]:
    """Accuracy on each kind of test by method and ratio, with its interval."""
    yield "% Accuracy, and in brackets its 95 % interval (of the paired difference from the parent, or of the mean over"
    yield "% the seeds); needs \\usepackage{booktabs}."
    yield f"\\begin{{tabular}}{{ll{'r' * len(shown)}}}"
    yield "\\toprule"
    yield f"Method & Ratio & {' & '.join(latex_text(panel.title) for panel in shown)} \\\\"
    yield "\\midrule"
    parents = [rounded(panel.curve.reference, panel.curve.n) for panel in shown]
    yield f"parent & 0 & {' & '.join(parents)} \\\\".replace("\u2013", _NONE)
    for method in data.methods:
        yield "\\midrule"
        lines = [{line.method: line for line in panel.curve.lines}.get(method) for panel in shown]
        longest = max((line for line in lines if line), key=lambda line: len(line.points), default=None)
        for point in longest.points if longest else ():
            cells = [
                _accuracy(next((p for p in line.points if _same(p, point)), None) if line else None, panel)
                for line, panel in zip(lines, shown, strict=True)
            ]
            yield f"{latex_text(method)} & {ratio_tick(point.x)} & {' & '.join(cells)} \\\\"
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _same(one: CurvePoint, other: CurvePoint) -> bool:
    return abs(one.x - other.x) < 1e-9


def _accuracy(point: CurvePoint | None, panel: Panel) -> str:
    if point is None:
        return _NONE
    value, low, high = (rounded(number, panel.curve.n) for number in (point.y, point.low, point.high))
    interval = f" {{\\scriptsize ({low}, {high})}}" if point.low < point.high else ""
    return f"{value}{interval}".replace("\u2212", "$-$")
