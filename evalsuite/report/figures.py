"""The charts of a report as files for a paper."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from evalsuite.errors import StoreError, UserError
from evalsuite.registry import unknown
from evalsuite.report import charts, excess, reliability
from evalsuite.report.breaking import breaking
from evalsuite.report.curves import curves
from evalsuite.report.findings import Findings, methods, ratio_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from evalsuite.report.verdicts import Row

Form = Literal["pdf", "svg", "png"]
FORMS: tuple[Form, ...] = get_args(Form)
WIDTH = 420
"""Pixels: a column of a paper, with labels of a readable size."""
PAPER = charts.Palette(
    ink="#000000",
    muted="#555555",
    rule="#cccccc",
    paper="#ffffff",
    allowed="#dfe9f3",
    methods=("#0072b2", "#d55e00", "#008a65", "#b3478a", "#6f5a00", "#3b8fc9", "#55585c"),
)
"""The page's light colours, written out."""
Spec = dict[str, Any]


def figures(
    findings: Findings, folder: Path, form: str, *, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Writes each chart of a report into a file, and returns the paths.

    One file per metric and condition over the prune ratio (``curve accuracy fog-3.pdf``), per reliability diagram,
    for the slopes of the excess error, and for each attack over the radius at the ratio that the page shows first.

    Args:
        findings: What the report is made from.
        folder: An existing folder, or one that can be made.
        form: ``pdf``, ``svg`` or ``png``.
        progress: Is told after each file how many are written, and how many there will be.

    Raises:
        UserError: If there is no such form.
        StoreError: If the folder cannot be written.
    """
    if form not in FORMS:
        raise UserError(unknown("form of figures", form, FORMS))
    written, over = [], ratio_label(findings).lower()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        chosen = list(specifications(findings))
        for name, spec in chosen:
            path = folder / f"{name}.{form}"
            path.write_bytes(drawn(spec, form, over=over))
            written.append(path)
            if progress:
                progress(len(written), len(chosen))
    except OSError as error:
        raise StoreError(
            f"cannot write figures into {folder}: {error.strerror}; give a folder that can be written"
        ) from error
    return written


def drawn(spec: Spec, form: str, *, over: str = "prune ratio") -> bytes:
    """Returns a Vega-Lite chart as a file; `over` is the title of a ratio's axis."""
    import vl_convert

    sized = _with_legend({**spec, "width": WIDTH, "autosize": "pad", "background": "white"}, over)
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(sized)).encode()
    if form == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(sized))
    return bytes(vl_convert.vegalite_to_png(sized, scale=3))


def _with_legend(spec: Spec, over: str) -> Spec:
    """The chart with a legend below: on the page the names stand above it."""
    if "layer" not in spec:
        return {**spec, "encoding": _legible(spec.get("encoding", {}), over)}
    return {
        **spec,
        "layer": [{**one, "encoding": _legible(one.get("encoding", {}), over)} for one in spec["layer"]],
    }


def _legible(encoding: Spec, over: str) -> Spec:
    legend = {"title": None, "orient": "bottom", "columns": 4}
    told: Spec = dict(encoding)
    for key in ("color", "shape"):
        if key in told:
            told[key] = {**told[key], "legend": legend}
    if told.get("x", {}).get("field") == "x":
        told["x"] = {**told["x"], "title": over}
    return told


def specifications(findings: Findings) -> Iterator[tuple[str, Spec]]:
    """Yields the name of each file without ending, and its chart."""
    names, told = methods(findings), curves(findings)
    base = charts.curve(names, PAPER)
    for curve in told["curves"]:
        title = f"{told['metrics'][curve['metric']]['label']}, {curve['label']}"
        yield _name("curve", curve["metric"], curve["condition"]), {
            **base, "title": title, "height": 260, "datasets": _points(curve, told, names),
        }  # fmt: skip
    for diagram in reliability.diagrams(findings):
        spec = charts.reliability(diagram.bins, diagram.colour, PAPER)
        yield _name("reliability", diagram.title), {**spec, "title": diagram.title, "height": WIDTH}
    if rows := excess.slopes(findings):
        title = "Excess error over the prune ratio, points"
        yield "excess error", {**charts.slopes(rows, names, PAPER), "title": title}
    yield from _radii(findings, names)


def _radii(findings: Findings, names: Sequence[str]) -> Iterator[tuple[str, Spec]]:
    found = breaking(findings)
    for attack, rows in found.data["robust"].items():
        shown = [row for row in rows if row[0] not in names or row[1] == found.chosen]
        points = [
            {
                "method": name if name in names else "parent",
                "line": name,
                "epsilon": epsilon,
                "value": value,
            }
            for name, _, epsilon, value in shown
        ]
        title = f"Robust accuracy over the radius, {attack}"
        spec = charts.robustness(names, PAPER)
        yield _name("radius", attack), {**spec, "title": title, "datasets": {"robust": points}}


def _points(curve: Mapping[str, Any], told: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[Any]]:
    """The data sets of one curve over the prune ratio, as the page's script fills them: means over seeds."""
    places = [told["candidates"][point[0]] for point in curve["points"]]
    line, seeds, marks = [], [], []
    for name in names:
        mine = [(a, p) for a, p in zip(places, curve["points"], strict=True) if a["method"] == name]
        several = len({about["seed"] for about, _ in mine}) > 1
        own = [_mean(name, [pair for pair in mine if pair[0]["target_ratio"] == t]) for t in _targets(mine)]
        if own and curve["reference"] is not None:
            start = curve["reference"]
            line.append({"method": name, "order": 0, "x": 0.0, "y": start, "low": start, "high": start})
        line += own
        if several:
            seeds += [
                {"method": name, "seed": a["seed"], "order": a["target_ratio"], "x": a["ratio"], "y": p[1]}
                for a, p in mine
            ]
        if (potential := curve["potentials"].get(name)) and own:
            marks.append(min(own, key=lambda row: abs(row["x"] - potential)))
    return {"line": line, "seed": seeds, "mark": marks, "limit": _limit(curve, told)}


def _targets(mine: Sequence[tuple[Row, Any]]) -> list[float]:
    return sorted({about["target_ratio"] for about, _ in mine if about["target_ratio"] > 0})


def _mean(name: str, same: Sequence[tuple[Row, Any]]) -> dict[str, Any]:
    """One point of a curve; its band is the interval of a single network, or the range over seeds."""
    values = [point[1] for _, point in same]
    low, high = min(values), max(values)
    if len(same) == 1 and len(same[0][1]) == 4:
        low, high = same[0][1][2:]
    x = sum(about["ratio"] for about, _ in same) / len(same)
    y = sum(values) / len(values)
    return {"method": name, "order": same[0][0]["target_ratio"], "x": x, "y": y, "low": low, "high": high}


def _limit(curve: Mapping[str, Any], told: Mapping[str, Any]) -> list[dict[str, float]]:
    reference, higher = curve["reference"], told["metrics"][curve["metric"]]["higher"]
    if reference is None:
        return []
    tolerance = 0.0 if higher is None else curve["tolerance"] or 0.0
    low, high = (reference - tolerance, reference) if higher else (reference, reference + tolerance)
    return [{"reference": reference, "low": low, "high": high}]


def _name(*parts: str) -> str:
    """A file name that every system takes."""
    return " ".join(re.sub(r"[^\w.=+-]+", "-", part).strip("-.") or "x" for part in parts)[:150]
