"""The charts of a report as files for a paper."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from evalsuite.atomic_files import write_atomically
from evalsuite.errors import UserError
from evalsuite.registry import unknown_name
from evalsuite.report import charts
from evalsuite.report.breakdown import breakdown
from evalsuite.report.chart_data import curves, reliability_diagrams, slopes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from evalsuite.report.data import ReportData, Row

Form = Literal["pdf", "svg", "png"]
FORMS: tuple[Form, ...] = get_args(Form)
WIDTH = 420
"""Width in pixels: that of a column of a paper, with labels of a readable size."""
PAPER = charts.Palette(
    ink="#000000",
    muted="#555555",
    rule="#cccccc",
    paper="#ffffff",
    allowed="#dfe9f3",
    methods=("#0072b2", "#d55e00", "#008a65", "#b3478a", "#6f5a00", "#3b8fc9", "#55585c"),
)
"""The light colours of the page."""
Spec = dict[str, Any]


def figures(
    data: ReportData, folder: Path, form: str, *, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Writes each chart of a report into a file, completely or not at all, and returns the paths.

    One file per metric and condition over the prune ratio (``curve accuracy fog-3.pdf``), per reliability diagram,
    for the slopes of the excess error, and for each attack over the radius at the ratio that the page shows first.

    Args:
        data: The data of the report.
        folder: Created if it does not exist.
        form: ``pdf``, ``svg`` or ``png``.
        progress: Called after each file with the number of files that are written and that of all files.

    Raises:
        UserError: If there is no such form.
        StoreError: If the folder cannot be written.
    """
    if form not in FORMS:
        raise UserError(unknown_name("form of figures", form, FORMS))
    specs, title = list(specifications(data)), data.ratio_label.lower()
    paths = []
    for name, spec in specs:
        path = folder / f"{name}.{form}"
        write_atomically(path, rendered(spec, form, ratio_title=title))
        paths.append(path)
        if progress:
            progress(len(paths), len(specs))
    return paths


def rendered(spec: Spec, form: str, *, ratio_title: str = "prune ratio") -> bytes:
    """Returns a Vega-Lite chart as a file; `ratio_title` is the title of the axis of ratios."""
    import vl_convert

    sized = _with_legend({**spec, "width": WIDTH, "autosize": "pad", "background": "white"}, ratio_title)
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(sized)).encode()
    if form == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(sized))
    return bytes(vl_convert.vegalite_to_png(sized, scale=3))


def _with_legend(spec: Spec, ratio_title: str) -> Spec:
    """The chart with a legend below it; on the page the names stand above the chart."""
    if "layer" not in spec:
        return {**spec, "encoding": _encoding(spec, ratio_title)}
    layers = [{**layer, "encoding": _encoding(layer, ratio_title)} for layer in spec["layer"]]
    return {**spec, "layer": layers}


def _encoding(spec: Spec, ratio_title: str) -> Spec:
    """The encoding of a chart or a layer, with legends and the title of the axis of ratios."""
    legend = {"title": None, "orient": "bottom", "columns": 4}
    encoding: Spec = dict(spec.get("encoding", {}))
    for key in ("color", "shape"):
        if key in encoding:
            encoding[key] = {**encoding[key], "legend": legend}
    if encoding.get("x", {}).get("field") == "x":
        encoding["x"] = {**encoding["x"], "title": ratio_title}
    return encoding


def specifications(data: ReportData) -> Iterator[tuple[str, Spec]]:
    """Yields the name of each file without ending, and its chart."""
    numbers = curves(data)
    base = charts.curve_chart(data.methods, PAPER)
    for curve in numbers["curves"]:
        title = f"{numbers['metrics'][curve['metric']]['label']}, {curve['label']}"
        datasets = _datasets(curve, numbers, data.methods)
        spec = {**base, "title": title, "height": 260, "datasets": datasets}
        yield _file_name("curve", curve["metric"], curve["condition"]), spec
    for diagram in reliability_diagrams(data):
        spec = charts.reliability_chart(diagram.bins, diagram.colour, PAPER)
        yield _file_name("reliability", diagram.title), {**spec, "title": diagram.title, "height": WIDTH}
    if rows := slopes(data):
        title = "Excess error over the prune ratio, points"
        yield "excess error", {**charts.slope_chart(rows, data.methods, PAPER), "title": title}
    yield from _robustness_charts(data)


def _robustness_charts(data: ReportData) -> Iterator[tuple[str, Spec]]:
    drops = breakdown(data)
    for attack, rows in drops.data["robust"].items():
        points = [
            {
                "method": name if name in data.methods else "parent",
                "line": name,
                "epsilon": epsilon,
                "value": value,
            }
            for name, ratio, epsilon, value in rows
            if name not in data.methods or ratio == drops.chosen
        ]
        title = f"Robust accuracy over the radius, {attack}"
        spec = charts.robustness_chart(data.methods, PAPER)
        yield _file_name("radius", attack), {**spec, "title": title, "datasets": {"robust": points}}


def _datasets(
    curve: Mapping[str, Any], numbers: Mapping[str, Any], methods: Sequence[str]
) -> dict[str, list[Any]]:
    """The data sets of one curve over the prune ratio, as the script of the page fills them: means over seeds."""
    candidates = [numbers["candidates"][point[0]] for point in curve["points"]]
    line, seeds, marks = [], [], []
    for method in methods:
        pairs = [
            (candidate, point)
            for candidate, point in zip(candidates, curve["points"], strict=True)
            if candidate["method"] == method
        ]
        targets = sorted({c["target_ratio"] for c, _ in pairs if c["target_ratio"] > 0})
        means = [_mean(method, [pair for pair in pairs if pair[0]["target_ratio"] == t]) for t in targets]
        if means and curve["reference"] is not None:
            start = curve["reference"]
            line.append({"method": method, "order": 0, "x": 0.0, "y": start, "low": start, "high": start})
        line += means
        if len({candidate["seed"] for candidate, _ in pairs}) > 1:
            seeds += [
                {"method": method, "seed": c["seed"], "order": c["target_ratio"], "x": c["ratio"], "y": p[1]}
                for c, p in pairs
            ]
        if (potential := curve["potentials"].get(method)) and means:
            marks.append(min(means, key=lambda row: abs(row["x"] - potential)))
    return {"line": line, "seed": seeds, "mark": marks, "limit": _limit(curve, numbers)}


def _mean(method: str, pairs: Sequence[tuple[Row, Any]]) -> dict[str, Any]:
    """One point of a curve; its band is the interval of a single network, or the range over seeds."""
    values = [point[1] for _, point in pairs]
    low, high = min(values), max(values)
    if len(pairs) == 1 and len(pairs[0][1]) == 4:
        low, high = pairs[0][1][2:]
    x = sum(candidate["ratio"] for candidate, _ in pairs) / len(pairs)
    y = sum(values) / len(values)
    return {"method": method, "order": pairs[0][0]["target_ratio"], "x": x, "y": y, "low": low, "high": high}


def _limit(curve: Mapping[str, Any], numbers: Mapping[str, Any]) -> list[dict[str, float]]:
    reference, higher = curve["reference"], numbers["metrics"][curve["metric"]]["higher"]
    if reference is None:
        return []
    tolerance = 0.0 if higher is None else curve["tolerance"] or 0.0
    low, high = (reference - tolerance, reference) if higher else (reference, reference + tolerance)
    return [{"reference": reference, "low": low, "high": high}]


def _file_name(*parts: str) -> str:
    """A file name that every operating system accepts."""
    return " ".join(re.sub(r"[^\w.=+-]+", "-", part).strip("-.") or "x" for part in parts)[:150]
