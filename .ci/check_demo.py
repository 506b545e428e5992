"""Check what the demo wrote: every file, every method and its control, verdicts that tell the methods apart.

No cell may have failed, and the page may load nothing more.

Usage: python .ci/check_demo.py RUN
"""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pandas as pd

METHODS = {"magnitude", "filter-l1", "random"}
CONTROL = "dense-retrained"
FILES = (
    *("run.json", "measurements.csv", "thresholds.csv", "verdicts.csv", "groups.csv", "counts.csv"),
    "index.html",
)
VERDICTS = {"non-inferior", "inferior", "undecided"}
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
    missing = [name for name in FILES if not (run / name).is_file() or not (run / name).stat().st_size]
    if missing:
        return [f"{run / name} is missing or empty" for name in missing]
    json.loads((run / "run.json").read_text("utf-8"))
    names = ("measurements", "thresholds", "verdicts", "groups", "counts")
    tables = {name: pd.read_csv(run / f"{name}.csv", low_memory=False) for name in names}
    measurements, thresholds = tables["measurements"], tables["thresholds"]
    found = [f"thresholds.csv has no row of {method}" for method in METHODS - set(thresholds["method"])]
    failed = measurements[measurements["status"] == "error"]
    found += [f"a cell failed: {row}" for row in failed.to_dict("records")]
    if thresholds["potential"].isna().any() or not thresholds["potential"].between(0, 1).all():
        found.append("thresholds.csv has a potential outside [0, 1)")
    found += verdict_problems(tables)
    loads = remote_loads((run / "index.html").read_text("utf-8"))
    return found + [f"index.html loads from elsewhere: {load}" for load in loads]


def verdict_problems(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Returns what is wrong with the verdicts: a state that is none, no control, methods that look alike."""
    verdicts, groups, counts = tables["verdicts"], tables["groups"], tables["counts"]
    found = [f"verdicts.csv has the verdict {state!r}" for state in set(verdicts["verdict"]) - VERDICTS]
    found += [f"counts.csv has no row of {name}" for name in {CONTROL, *METHODS} - set(counts["method"])]
    if verdicts["beyond_control"].isna().all():
        found.append("verdicts.csv compares no candidate with its control")
    headline = groups[groups["seed"].astype(str) == "all"]
    screens = {
        name: tuple(
            rows[["group", "noninferior_up_to", "inferior_from"]].fillna(1).itertuples(index=False, name=None)
        )
        for name, rows in headline.groupby("method")
    }
    alike = [(a, b) for a, b in combinations(sorted(screens), 2) if screens[a] == screens[b]]
    return found + [f"groups.csv does not tell {first} and {second} apart" for first, second in alike]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .ci/check_demo.py RUN")
    sys.exit("\n".join(problems(Path(sys.argv[1]))) or 0)
