"""The page: one HTML file that needs no network, no server and, for the answer, no JavaScript."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, get_args

import jinja2
import jinja2.bccache
from markupsafe import Markup, escape

from evalsuite.atomic_files import write_atomically
from evalsuite.cache_folder import cache_folder
from evalsuite.errors import StoreError
from evalsuite.report import charts, diagnostics
from evalsuite.report.breakdown import breakdown
from evalsuite.report.chart_data import curves, slopes
from evalsuite.report.check_cards import SHOWN, check_answer
from evalsuite.report.comparability import FAIR_FROM, SETUPS, TOTALS
from evalsuite.report.curve_lines import curve_lines
from evalsuite.report.curve_panel import Box, CurvePanel
from evalsuite.report.data import MOST_UNRANKED, ReportData, Row, headline_rows, records
from evalsuite.report.labels import condition_label, metric_label, number, percent, rounded
from evalsuite.report.palette import SHAPE_PATHS
from evalsuite.report.panels import Panel, panel_metrics, panels
from evalsuite.report.plot import Pen, document
from evalsuite.report.reliability import FEWEST, ReliabilityDiagram, reliability_diagrams
from evalsuite.report.slope_plot import slope_plot
from evalsuite.report.threshold_list import threshold_blocks
from evalsuite.report.threshold_tables import FLAGS, threshold_matrices, threshold_matrix
from evalsuite.report.verdict_cards import Verdicts
from evalsuite.types import Picture, PictureKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCRIPTS = ("page.js", "saving.js", "curves.js", "breakdown.js")
KINDS: tuple[PictureKind, ...] = get_args(PictureKind)
PANEL_WIDTH, PANEL_HEIGHT = 300.0, 176.0
"""Size of a panel in units of its drawing, of which 10.5 are the size of the type."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def page(data: ReportData) -> str:
    """Returns the whole report as one HTML document.

    Every text of the run is escaped, numbers reach the scripts as JSON, and a content security policy forbids all
    requests and all scripts but those of the page.
    """
    scripts = [_library(), *(_asset(name) for name in SCRIPTS)]
    sections = (_thresholds, _charts, _drops, _pictures, _diagnostics)
    context = {name: value for section in sections for name, value in section(data).items()}
    context |= {"scripts": scripts, "style": _asset("page.css"), "shapes": SHAPE_PATHS}
    return _environment().get_template("page").render(context, policy=_policy(*scripts))


def write_page(data: ReportData, folder: Path) -> Path:
    """Writes ``index.html`` into `folder`, completely or not at all, and returns its path.

    Args:
        data: The data of the report.
        folder: Created if it does not exist.

    Raises:
        StoreError: If the folder cannot be written.
    """
    path = folder / "index.html"
    write_atomically(path, page(data).encode())
    return path


def _thresholds(data: ReportData) -> dict[str, Any]:
    """The verdicts and the tables of thresholds."""
    suite = data.record.get("suite")
    suite = suite if isinstance(suite, Mapping) else {"name": suite or "run"}
    verdicts = Verdicts(data)
    return {
        "suite": suite,
        "methods": data.methods,
        "check": check_answer(data),
        "checks_shown": SHOWN,
        "verdicts": verdicts.methods(),
        "scope": verdicts.scope(),
        "control": verdicts.control(),
        "matrix": threshold_matrix(data.headline, data.methods),
        "matrices": threshold_matrices(data),
        "blocks": threshold_blocks(data),
        "seeds": sorted({str(seed) for seed in data.measurements["seed"].dropna()}),
        "flags": FLAGS,
        "most_unranked": MOST_UNRANKED,
        "ratio_note": data.ratio_note,
    }


def _charts(data: ReportData) -> dict[str, Any]:
    """The panels, the curves, the reliability diagrams and the slopes, and the specifications of steered charts."""
    numbers, diagrams, excess = curves(data), reliability_diagrams(data), slopes(data)
    lines = curve_lines(data, numbers, panel_metrics(numbers))
    rows = {f"reliability {diagram.title}": _rows_of_bins(diagram) for diagram in diagrams}
    return {
        "curves": numbers,
        "controls": data.controls,
        "panels": [] if data.checked.size else [_panel(panel) for panel in panels(lines)],
        "drawable": {(curve["metric"], curve["condition"]) for curve in numbers["curves"]},
        "diagrams": diagrams,
        "fewest": FEWEST,
        "slopes": excess,
        "slope_svg": Markup(slope_plot(excess, data.methods)) if excess else "",  # noqa: S704  # it escapes its texts
        "all_charts": {
            "curve": charts.curve_chart(data.methods),
            "robust": charts.robustness_chart(data.methods),
            "scores": [charts.score_chart(index) for index in range(len(data.methods))],
            "rows": rows | ({"excess error": excess} if excess else {}),
        },
    }


def _panel(panel: Panel) -> dict[str, Any]:
    """A panel of the small multiples, drawn."""
    curve, pen = panel.curve, Pen()
    drawn = CurvePanel(curve, Box(0.0, 8.0, PANEL_WIDTH, PANEL_HEIGHT - 28.0), pen)
    better = {True: ", higher is better", False: ", lower is better", None: ""}[curve.higher_is_better]
    svg = document(drawn.parts(), PANEL_WIDTH, PANEL_HEIGHT, pen, label=drawn.words())
    return {
        "title": panel.title,
        "metric": curve.metric,
        "condition": curve.condition,
        "note": curve.label + better,
        "svg": Markup(svg),  # noqa: S704  # it escapes its texts
    }


def _rows_of_bins(diagram: ReliabilityDiagram) -> list[dict[str, Any]]:
    """The bins of a diagram as rows of a table to save."""
    models = {"parent": diagram.parent, "candidate": diagram.candidate}
    return [{"model": model, **asdict(part)} for model, bins in models.items() for part in bins]


def _drops(data: ReportData) -> dict[str, Any]:
    """The breakdown of drops, and the pruning-identified exemplars."""
    drops = breakdown(data)
    return {
        "breakdown": drops,
        "has_breakdown": bool(drops.tables or drops.data["robust"] or drops.data["scores"]),
        "exemplars": records(data.exemplars),
        "splits": headline_rows(data.splits) if len(data.splits) else [],
    }


def _pictures(data: ReportData) -> dict[str, Any]:
    """The example images, or why there are none, by kind."""
    return {
        "pictures": {kind: [image for image in data.pictures if image.kind == kind] for kind in KINDS},
        "no_pictures": {kind: data.no_pictures.get(kind, "") for kind in KINDS},
    }


def _diagnostics(data: ReportData) -> dict[str, Any]:
    """Missing numbers, warnings, comparability, sample sizes, and the record of the run."""
    return {
        "failures": diagnostics.failures(data.measurements),
        "missing": diagnostics.missing_count(data),
        "pending": diagnostics.pending_count(data),
        "warnings": diagnostics.quality_warnings(data.measurements),
        "notes": diagnostics.notes(data),
        "preprocessing": diagnostics.preprocessing(data),
        "comparability": _compared_pairs(data),
        "retraining": diagnostics.retraining_means(data.retraining),
        "setups": {**SETUPS, **TOTALS},
        "fair_from": FAIR_FROM,
        "grid": diagnostics.grid(data.measurements),
        "sizes": diagnostics.sizes(data.measurements),
        "screened": diagnostics.screened_precision(data),
        "time_spent": diagnostics.time_spent(data),
        "facts": diagnostics.record_facts(data),
        "glossary": diagnostics.glossary(data),
        "measured": diagnostics.measured_count(data.measurements),
        "command": data.record.get("command"),
    }


def _compared_pairs(data: ReportData) -> list[Row]:
    """The pairs of methods that are compared: none in a check, and none with a control, which is not pruned."""
    pairs = records(data.comparability) if data.checked.empty else []
    return [pair for pair in pairs if not {pair["first"], pair["second"]} & set(data.controls)]


class _CompiledTemplates(jinja2.BytecodeCache):
    """The compiled template in the cache folder, which saves a tenth of a second of every page."""

    def load_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        with contextlib.suppress(OSError):
            bucket.bytecode_from_string(self._file(bucket).read_bytes())

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        with contextlib.suppress(StoreError):
            write_atomically(self._file(bucket), bucket.bytecode_to_string())

    @staticmethod
    def _file(bucket: jinja2.bccache.Bucket) -> Path:
        version_of_jinja = version("jinja2")
        return cache_folder() / f"template-{version_of_jinja}-{bucket.key[:16]}.bin"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _text(f"{name}.html.j2")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        bytecode_cache=_CompiledTemplates(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "json": _json,
        "metric": metric_label,
        "condition": condition_label,
        "number": number,
        "percent": percent,
        "data_uri": _data_uri,
        "by_row": _by_row,
        "by_test": _by_test,
        "rounded": rounded,
        "options": _options,
    }
    return environment


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _options(text: str) -> Markup:
    """A text whose options of commands are not broken at their hyphens."""
    return Markup(re.sub(r"--[a-z][a-z-]*", r'<span class="option">\g<0></span>', str(escape(text))))  # noqa: S704


def _by_test(metrics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The names of metrics by the test that reports them, in order."""
    by_test: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        by_test.setdefault(metric["test"], []).append(name)
    return list(by_test.items())


def _by_row(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    """Pictures by row, in order; the row of an attack ends in the name of its condition."""
    rows: dict[str, list[Picture]] = {}
    for picture in pictures:
        method, colon, condition = picture.row.partition(": ")
        title = (
            f"{method}: {condition_label(condition)}" if colon and picture.kind == "attack" else picture.row
        )
        rows.setdefault(title, []).append(picture)
    return list(rows.items())


def _json(value: Any) -> Markup:
    """JSON without characters that an HTML parser may read as markup; all but ASCII is escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&]", lambda match: _ESCAPES[match[0]], text))  # noqa: S704  # escaped right here


def _policy(*scripts: str) -> str:
    """The content security policy: no requests, and no scripts but these."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; "  # Vega's expressions are interpreted, not compiled
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> Markup:
    """A file of this package that goes into the page as it is."""
    return Markup(_text(name))  # noqa: S704  # a file of this package, without text of a run


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _bundle() -> str:
    """The script as vl-convert bundles it, which takes seconds, so it is kept for each of its versions."""
    kept = cache_folder() / f"vega-{version('vl-convert-python')}.js"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return kept.read_text("utf-8")
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    with contextlib.suppress(StoreError):
        write_atomically(kept, bundle.encode())
    return bundle


@cache
def _library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed in one script, safe to stand between script tags."""
    bundle = _bundle()
    return Markup(re.sub(r"<(?=/script|!--)", r"\\x3c", bundle, flags=re.IGNORECASE))  # noqa: S704  # a library's code
