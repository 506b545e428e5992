"""The page in a real browser: it draws, asks the network for nothing, and has nothing to complain about."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from evalsuite.report import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evalsuite.report.findings import Findings

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", "--dump-dom"),
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")


def opened(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what the console said."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_draws_without_complaint(synthesis: Callable[..., Findings], tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    path = write(synthesis(methods=("magnitude", attack), seeds=(0, 1), failures=1), tmp_path / "a run")
    document, console = opened(path, tmp_path / "profile")
    assert console == []
    assert 'data-ready="yes"' in document
    chart = document.partition('id="chart"')[2].partition("</svg>")[0]
    assert "var(--m0)" in chart
    assert len(re.findall(r'aria-roledescription="point"', chart)) == 2 * 7 + 2  # rings
    assert len(re.findall(r'<svg [^>]*class="marks"', document)) == 1 + 4
    assert attack not in document.replace("&lt;", "<!>")


def test_the_browser_would_have_complained(tmp_path: Path, findings: Findings) -> None:
    path = write(findings, tmp_path)
    broken = path.read_text("utf-8").replace(
        "</head>", '<script src="https://example.org/x.js"></script></head>', 1
    )
    path.write_text(broken, "utf-8")
    _, console = opened(path, tmp_path / "profile")
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


def test_a_phone_never_scrolls_sideways(synthesis: Callable[..., Findings], tmp_path: Path) -> None:
    """A browser window has a smallest width, a frame has none; the page inside reports its own."""
    path = write(synthesis(methods=("magnitude", "a" * 60), seeds=(0, 1), failures=1), tmp_path)
    report = (
        "<script>setTimeout(() => { const page = document.documentElement;"
        "parent.postMessage(`${page.scrollWidth - page.clientWidth} too wide`, '*'); }, 3000)</script>"
    )
    free = re.sub("<meta http-equiv[^>]*>", "", path.read_text("utf-8"), count=1)
    path.write_text(free + report, "utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!DOCTYPE html><title></title>"
        "<iframe src='index.html' style='width:400px;height:900px;border:0'></iframe>"
        "<script>addEventListener('message', (event) => { document.title = event.data; })</script>",
        "utf-8",
    )
    document, _ = opened(frame, tmp_path / "profile")
    assert "<title>0 too wide</title>" in document


def test_marks_scroll_with_their_table(synthesis: Callable[..., Findings], tmp_path: Path) -> None:
    """They are placed absolutely: once they stayed behind and lay over everything below the open table."""
    path = write(synthesis(), tmp_path)
    report = (
        "<script>setTimeout(() => { document.querySelectorAll('details').forEach((one) => { one.open = true; });"
        "const box = document.querySelector('.tall'); const mark = document.createElement('sup');"
        "box.querySelector('td.potential').append(mark);"
        "const before = mark.getBoundingClientRect().top; box.scrollTop = 50;"
        "document.title = `moved ${Math.round(before - mark.getBoundingClientRect().top)}`; }, 3000)</script>"
    )
    free = re.sub("<meta http-equiv[^>]*>", "", path.read_text("utf-8"), count=1)
    path.write_text(free + report, "utf-8")
    document, _ = opened(path, tmp_path / "profile")
    titles = re.findall("<title>(.*?)</title>", document)
    assert titles == ["moved 50"]


def test_one_ratio_is_chosen_for_everything_that_breaks(
    synthesis: Callable[..., Findings], tmp_path: Path
) -> None:
    found = synthesis(ratios=(0.5, 0.9))
    path = write(found, tmp_path)
    table = found.measurements
    mine = table[
        (table["method"] == "random") & (table["condition"] == "fog/3") & (table["metric"] == "accuracy")
    ]
    drops = {
        row["target_ratio"]: f"{100 * row['drop']:.1f}".replace("-", "\u2212") for _, row in mine.iterrows()
    }
    report = (
        "<script>setTimeout(() => { const menu = document.getElementById('target'); const said = [];"
        "for (const ratio of ['0.5', '0.9']) { menu.value = ratio; menu.dispatchEvent(new Event('change'));"
        "const row = [...document.querySelectorAll('[data-sheet=\"2\"] tbody tr')]"
        ".find((one) => one.cells[0].textContent === 'fog'); said.push(row.cells[1].textContent); }"
        "document.title = said.join(' then '); }, 3000)</script>"
    )
    free = re.sub("<meta http-equiv[^>]*>", "", path.read_text("utf-8"), count=1)
    path.write_text(free + report, "utf-8")
    document, _ = opened(path, tmp_path / "profile")
    titles = re.findall("<title>(.*?)</title>", document)
    assert titles == [f"{drops[0.5]} then {drops[0.9]}"]
    assert 'data-drawn="yes"' in document
