"""The page: one HTML file that needs no network, no server and, for the answer, no JavaScript."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, get_args

import jinja2
from markupsafe import Markup

from evalsuite.errors import StoreError
from evalsuite.report import breaking, charts, excess, reliability, trust
from evalsuite.report.curves import curves
from evalsuite.report.details import blocks
from evalsuite.report.fairness import LEAST, SETUPS, TOTALS, before_and_after
from evalsuite.report.findings import (
    MANY,
    Findings,
    counted,
    headline,
    methods,
    records,
)
from evalsuite.report.matrix import FLAGS, matrix
from evalsuite.report.verdicts import sentences, verdict
from evalsuite.report.wording import condition_label, metric_label, number, percent
from evalsuite.types import Picture, PictureKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KINDS: tuple[PictureKind, ...] = get_args(PictureKind)
_DANGEROUS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def page(findings: Findings) -> str:
    """Returns the whole report as one HTML document.

    Every text of the run is escaped, numbers reach the scripts as JSON, and a content security policy forbids
    the page every request and every script but its own.

    Args:
        findings: The numbers of a run and what was concluded from them.
    """
    scripts = {"library": _library(), "behaviour": _own("page.js"), "breakage": _own("breaks.js")}
    parts = (_answer, _evidence, _damage, _trust)
    told = {name: value for part in parts for name, value in part(findings).items()}
    context = {**told, **scripts, "style": _own("page.css")}
    return _environment().get_template("page").render(context, policy=_policy(*scripts.values()))


def written(findings: Findings, folder: Path) -> Path:
    """Writes the page into `folder`, whole or not at all, and returns its path.

    Raises:
        StoreError: If the folder cannot be written.
    """
    text = page(findings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _replaced(folder / "index.html", text)
    except OSError as error:
        raise StoreError(
            f"cannot write the report into {folder}: {error.strerror}; give a folder that can be written"
        ) from error


def _replaced(path: Path, text: str) -> Path:
    """Writes beside `path` and renames, so that a reader meets a whole page, old or new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _answer(findings: Findings) -> dict[str, Any]:
    """What the first screen shows."""
    rows, names = headline(findings.thresholds), methods(findings)
    suite = findings.record.get("suite")
    suite = suite if isinstance(suite, Mapping) else {"name": suite or "run"}
    found = [verdict(rows, method) for method in names]
    return {
        "suite": suite,
        "methods": names,
        "verdicts": [(item, sentences(item)) for item in found] if rows else [],
        "matrix": matrix(rows, names),
        "blocks": blocks(findings.thresholds, names),
        "seeds": sorted({str(seed) for seed in findings.measurements["seed"].dropna()}),
        "flags": FLAGS,
        "many": MANY,
        "counted": counted(findings),
    }


def _evidence(findings: Findings) -> dict[str, Any]:
    """The curves and the reliability diagrams."""
    drawn, diagrams = curves(findings), reliability.diagrams(findings)
    return {
        "curves": drawn,
        "drawable": {(curve["metric"], curve["condition"]) for curve in drawn["curves"]},
        "diagrams": diagrams,
        "all_charts": {
            "curve": charts.curve(drawn["methods"]),
            "diagrams": [charts.reliability(diagram.bins, diagram.colour) for diagram in diagrams],
            "robust": charts.robustness(drawn["methods"]),
            "scores": [charts.scores(i) for i in range(len(drawn["methods"]))],
            "slopes": charts.slopes(excess.slopes(findings), drawn["methods"]),
        },
    }


def _damage(findings: Findings) -> dict[str, Any]:
    """What breaks, in numbers and in pictures."""
    found, steep = breaking.breaking(findings), excess.slopes(findings)
    return {
        "breaking": found,
        "slopes": steep,
        "exemplars": records(findings.exemplars),
        "broken": bool(found.sheets or found.data["robust"] or found.data["scores"] or steep),
        "pictures": {kind: [one for one in findings.pictures if one.kind == kind] for kind in KINDS},
        "no_pictures": {kind: findings.no_pictures.get(kind, "") for kind in KINDS},
    }


def _trust(findings: Findings) -> dict[str, Any]:
    """What a reader needs to believe it."""
    return {
        "failures": trust.failures(findings.measurements),
        "lost": trust.lost(findings),
        "pending": trust.pending(findings),
        "doubts": trust.quality_warnings(findings.measurements),
        "notes": trust.notes(findings),
        "preprocessing": trust.preprocessing(findings),
        "fairness": records(findings.fairness),
        "retraining": before_and_after(findings.retraining),
        "setups": {**SETUPS, **TOTALS},
        "least": LEAST,
        "grid": trust.grid(findings.measurements),
        "sizes": trust.sizes(findings.measurements),
        "spent": trust.spent(findings),
        "facts": trust.facts(findings),
        "glossary": trust.glossary(findings),
        "measured": trust.measured(findings.measurements),
        "command": findings.record.get("command"),
    }


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _asset(f"{name}.html.j2")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "json": _json,
        "metric": metric_label,
        "condition": condition_label,
        "number": number,
        "percent": percent,
        "datauri": _datauri,
        "strips": _strips,
    }
    return environment


def _datauri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _strips(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    """Pictures by the row that they belong to, in order; the row of an attack ends in the name of its condition."""
    rows: dict[str, list[Picture]] = {}
    for picture in pictures:
        method, colon, condition = picture.row.partition(": ")
        title = (
            f"{method}: {condition_label(condition)}" if colon and picture.kind == "attack" else picture.row
        )
        rows.setdefault(title, []).append(picture)
    return list(rows.items())


def _json(value: Any) -> Markup:
    """JSON that no HTML parser can mistake for markup; all but ASCII is escaped, line separators too."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&]", lambda match: _DANGEROUS[match[0]], text))  # noqa: S704  # escaped right here


def _policy(*scripts: str) -> str:
    """The content security policy: nothing may be fetched, and no script may run but these."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'unsafe-eval' {allowed}; "  # Vega compiles its expressions
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _own(name: str) -> Markup:
    """A file of this package that goes into the page as it is."""
    return Markup(_asset(name))  # noqa: S704  # written here, no text of a run in it


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


@cache
def _library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed in one script, safe to stand between script tags."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(re.sub(r"<(?=/script|!--)", r"\\x3c", bundle, flags=re.IGNORECASE))  # noqa: S704  # a library's code
