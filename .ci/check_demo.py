"""Check what the demo wrote: every file, every method, no failed cell, a page that loads nothing more.

Usage: python .ci/check_demo.py RUN
"""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

METHODS = {"magnitude", "filter-l1", "random"}
LOADING = {"src", "srcset", "data", "poster", "background", "action", "href", "xlink:href"}
REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
REMOTE_STYLE = re.compile(r"(@import|url\()\s*['\"(]*\s*(https?:)?//", re.IGNORECASE)
REMOTE_SCRIPT = re.compile(
    r"\b(fetch|import|importScripts|Worker|EventSource|WebSocket|sendBeacon)\s*\(\s*['\"`](https?:|wss?:)?//"
)


class Loads(HTMLParser):
    """Collects what a page would load from elsewhere; links that a reader may follow are not loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks at the attributes that load, and remembers whether a script or a style follows."""
        self._inside = tag if tag in ("script", "style") else self._inside
        for name, value in attrs:
            follows = tag in ("a", "area") and name == "href"
            if name in LOADING and not follows and REMOTE.match(value or ""):
                self.found.append(f"<{tag} {name}={value!r}>")
            if name == "style" and REMOTE_STYLE.search(value or ""):
                self.found.append(f"<{tag} style={value!r}>")

    def handle_endtag(self, tag: str) -> None:
        """Leaves a script or a style."""
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        """Looks inside scripts and styles."""
        pattern = {"script": REMOTE_SCRIPT, "style": REMOTE_STYLE}.get(self._inside)
        self.found += [match.group(0) for match in pattern.finditer(data)] if pattern else []


def remote_loads(page: str) -> list[str]:
    """Returns what `page` would load over the network."""
    loads = Loads()
    loads.feed(page)
    loads.close()
    return loads.found


def problems(run: Path) -> list[str]:
    """Returns what is wrong with the run folder, in one sentence each."""
    names = ("run.json", "measurements.csv", "thresholds.csv", "index.html")
    missing = [name for name in names if not (run / name).is_file() or not (run / name).stat().st_size]
    if missing:
        return [f"{run / name} is missing or empty" for name in missing]
    json.loads((run / "run.json").read_text("utf-8"))
    measurements, thresholds = (pd.read_csv(run / name) for name in ("measurements.csv", "thresholds.csv"))
    found = [f"thresholds.csv has no row of {method}" for method in METHODS - set(thresholds["method"])]
    failed = measurements[measurements["status"] == "error"]
    found += [f"a cell failed: {row}" for row in failed.to_dict("records")]
    if thresholds["potential"].isna().any() or not thresholds["potential"].between(0, 1).all():
        found.append("thresholds.csv has a potential outside [0, 1)")
    loads = remote_loads((run / "index.html").read_text("utf-8"))
    return found + [f"index.html loads from elsewhere: {load}" for load in loads]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .ci/check_demo.py RUN")
    sys.exit("\n".join(problems(Path(sys.argv[1]))) or 0)
