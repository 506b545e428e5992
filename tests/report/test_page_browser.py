"""The page in a real browser: it draws, asks the network for nothing, and has nothing to complain about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalsuite.report.page import write_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.report.data import ReportData

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", "--dump-dom"),
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")


DARK = "--blink-settings=preferredColorScheme=0"


def opened(path: Path, profile: Path, *more: str) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what the console said."""
    command = [str(BROWSER), *FLAGS, *more, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measured_in_a_frame(
    path: Path, width: int, script: str, fragment: str = "", library: str = "", *, dark: bool = False
) -> str:
    """What a script that runs in the page, once all is drawn, has found, in a frame of that width."""
    report = (
        "<script>const wait = setInterval(() => { if (document.body.dataset.drawn !== 'yes') return;"
        "clearInterval(wait); setTimeout(async () => {"
        f"parent.postMessage(await (async () => {{ {script} }})(), '*'); }}, 500); }}, 100)"
        "</script>"
    )
    free = re.sub("<meta http-equiv[^>]*>", "", path.read_text("utf-8"), count=1)
    added = f"<script>{library}</script>" if library else ""
    path.write_text(free + added + report, "utf-8")
    frame = path.with_name("frame.html")
    frame.write_text(
        "<!DOCTYPE html><title></title>"
        f"<iframe src='{path.name}{fragment}' style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>addEventListener('message', (event) => { document.title = event.data; })</script>",
        "utf-8",
    )
    document, _ = opened(frame, path.parent / "profile", *([DARK] if dark else []))
    (title,) = re.findall("<title>(.*?)</title>", document)
    return str(title)


def test_the_page_draws_without_complaint(synthesis: Callable[..., ReportData], tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    path = write_page(synthesis(methods=("magnitude", attack), seeds=(0, 1), failures=1), tmp_path / "a run")
    document, console = opened(path, tmp_path / "profile")
    assert console == []
    assert 'data-ready="yes"' in document
    chart = document.partition('id="chart"')[2].partition("</svg>")[0]
    assert "var(--m0)" in chart
    assert len(re.findall(r'aria-roledescription="point"', chart)) == 2 * 6 + 2 + 1  # rings, and the parent
    assert len(re.findall(r'<svg [^>]*class="marks"', document)) == 1
    assert attack not in document.replace("&lt;", "<!>")


def test_the_browser_would_have_complained(tmp_path: Path, findings: ReportData) -> None:
    path = write_page(findings, tmp_path)
    broken = path.read_text("utf-8").replace(
        "</head>", '<script src="https://example.org/x.js"></script></head>', 1
    )
    path.write_text(broken, "utf-8")
    _, console = opened(path, tmp_path / "profile")
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


def test_a_phone_never_scrolls_sideways(synthesis: Callable[..., ReportData], tmp_path: Path) -> None:
    """A browser window has a smallest width, a frame has none."""
    path = write_page(synthesis(methods=("magnitude", "a" * 60), seeds=(0, 1), failures=1), tmp_path)
    script = (
        "const page = document.documentElement; return `${page.scrollWidth - page.clientWidth} too wide`;"
    )
    assert measured_in_a_frame(path, 360, script) == "0 too wide"


OUTSIDE = (
    "const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1;"
    "const words = [...document.querySelectorAll('svg.marks')].flatMap((svg) =>"
    "[...svg.querySelectorAll('.role-axis-label text')].map((text) => [text, svg]));"
    "const box = (item) => item.getBoundingClientRect();"
)


def test_words_along_the_axes_lie_inside_their_chart(
    synthesis: Callable[..., ReportData], tmp_path: Path
) -> None:
    """They came with the numbers after the first layout, which had left no room: on a phone none could be read."""
    path = write_page(synthesis(), tmp_path)
    script = OUTSIDE + (
        "document.getElementById('metric').value = 'nll';"  # longer words than those of the first curve
        "document.getElementById('metric').dispatchEvent(new Event('change'));"
        "return `${words.filter(([text, svg]) => outside(box(text), box(svg))).length} of ${words.length > 8}`;"
    )
    assert measured_in_a_frame(path, 360, script) == "0 of true"


def test_on_paper_nothing_lies_over_anything_else_or_beside_the_page(
    synthesis: Callable[..., ReportData], tmp_path: Path
) -> None:
    """The rules for paper as if they were for the screen, in a frame as wide as a page of A4 between its margins."""
    path = write_page(synthesis(seeds=(0, 1)), tmp_path)
    rules = (
        path.read_text("utf-8")
        .replace("@media print", "@media screen")
        .replace("@media screen and (max", "@media print and (max")
    )
    path.write_text(rules, "utf-8")
    script = OUTSIDE + (
        "dispatchEvent(new Event('beforeprint'));"
        "const rows = [...document.querySelectorAll('.matrix tr')].map((row) => [...row.cells].map(box));"
        "const over = rows.flatMap((cells) => cells.slice(1)"
        ".filter((cell, i) => cell.left < cells[i].right - 1)).length;"
        "const page = document.documentElement;"
        "const beside = [...document.querySelectorAll('svg.marks, table, img')].filter((item) =>"
        "box(item).right > page.clientWidth + 1).length;"
        "const shut = document.querySelectorAll('details:not([open])').length;"
        "const pressed = [...document.querySelectorAll('nav, input')].filter((item) => box(item).width > 0).length;"
        "return `${rows.length} rows, ${over} over, ${beside} beside, ${shut} shut, ${pressed} to press`;"
    )
    assert measured_in_a_frame(path, 703, script) == "5 rows, 0 over, 0 beside, 0 shut, 0 to press"


def test_wide_charts_are_drawn_anew_for_paper_and_back(findings: ReportData, tmp_path: Path) -> None:
    path = write_page(findings, tmp_path)
    script = (
        "const wide = () => Math.round(document.querySelector('#chart svg').getBoundingClientRect().width);"
        "const found = [wide()]; for (const name of ['beforeprint', 'afterprint']) {"
        "dispatchEvent(new Event(name)); await null; await null; found.push(wide()); } return found.join(' ');"
    )
    before, paper, after = map(int, measured_in_a_frame(path, 1300, script).split())
    assert before == after > 1000
    assert paper <= 703  # a page of A4 between its margins, in the units of a style sheet


def test_marks_scroll_with_their_table(synthesis: Callable[..., ReportData], tmp_path: Path) -> None:
    """They are placed absolutely: once they stayed behind and lay over everything below the open table."""
    path = write_page(synthesis(), tmp_path)
    report = (
        "<script>setTimeout(() => { document.querySelectorAll('details').forEach((one) => { one.open = true; });"
        "const box = document.querySelector('.tall'); const mark = document.createElement('sup');"
        "mark.style.position = 'absolute';"
        "box.querySelector('td.potential').append(mark);"
        "const before = mark.getBoundingClientRect().top; box.scrollTop = 50;"
        "document.title = `moved ${Math.round(before - mark.getBoundingClientRect().top)}`; }, 3000)</script>"
    )
    free = re.sub("<meta http-equiv[^>]*>", "", path.read_text("utf-8"), count=1)
    path.write_text(free + report, "utf-8")
    document, _ = opened(path, tmp_path / "profile")
    titles = re.findall("<title>(.*?)</title>", document)
    assert titles[0] == "moved 50"


def test_one_ratio_is_chosen_for_everything_that_breaks(
    synthesis: Callable[..., ReportData], tmp_path: Path
) -> None:
    data = synthesis(ratios=(0.5, 0.9))
    path = write_page(data, tmp_path)
    table = data.measurements
    mine = table[
        (table["method"] == "random") & (table["condition"] == "fog/3") & (table["metric"] == "accuracy")
    ]
    drops = {
        row["target_ratio"]: f"{100 * row['drop']:.1f}".replace("-", "\u2212") for _, row in mine.iterrows()
    }
    script = (
        "const menu = document.getElementById('target'); const said = [];"
        "for (const ratio of ['0.5', '0.9']) { menu.value = ratio; menu.dispatchEvent(new Event('change'));"
        "const row = [...document.querySelectorAll('[data-table=\"2\"] tbody tr')]"
        ".find((one) => one.cells[0].textContent === 'fog'); said.push(row.cells[1].textContent); }"
        "return said.join(' then ');"
    )
    assert measured_in_a_frame(path, 1200, script) == f"{drops[0.5]} then {drops[0.9]}"


AXE = next(
    filter(
        Path.is_file,
        (
            *(Path(name) for name in [os.environ.get("EVALSUITE_AXE", "")] if name),
            Path("node_modules/axe-core/axe.min.js"),
        ),
    ),
    None,
)


@pytest.mark.skipif(
    AXE is None, reason="no axe-core: npm install axe-core, or name axe.min.js in EVALSUITE_AXE"
)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["full", "checked", "compared"])
def test_axe_has_no_serious_complaint(
    kind: str, dark: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert AXE is not None
    path = write_page(request.getfixturevalue(kind), tmp_path)
    script = (
        "document.querySelectorAll('details').forEach((item) => { item.open = true; });"
        "const { violations, passes } = await axe.run(document);"
        "const bad = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');"
        "const dark = matchMedia('(prefers-color-scheme: dark)').matches;"
        "return `${passes.length > 20} ${dark} ${bad.map(({ id, nodes }) => `${id} ${nodes[0].target}`).join('; ')}`;"
    )
    library = AXE.read_text("utf-8").replace("</script", "<\\/script")
    found = measured_in_a_frame(path, 1200, script, library=library, dark=dark)
    assert found == f"true {str(dark).lower()} "


def test_a_link_keeps_the_choice_of_a_curve(findings: ReportData, tmp_path: Path) -> None:
    path = write_page(findings, tmp_path)
    script = (
        "const at = () => document.getElementById('y-title').textContent; const said = [at()];"
        "location.hash = '#curve=clean&metric=nll&close=1&without=random';"
        "await new Promise((done) => setTimeout(done, 200));"
        "const on = [...document.querySelectorAll('.methods input')].map((box) => Number(box.checked)).join('');"
        "said.push(at(), `${document.getElementById('close').checked} ${on}`);"
        "location.hash = '#curve=nowhere&metric=nll'; await new Promise((done) => setTimeout(done, 200));"
        "said.push(at());"
        "const metric = document.getElementById('metric'); metric.value = 'brier';"
        "metric.dispatchEvent(new Event('change')); said.push(location.hash);"
        "return said.join(' | ');"
    )
    assert measured_in_a_frame(path, 1200, script, "#curve=fog/3&metric=agreement").split(" | ") == [
        "agreement, fog, severity 3 \u2013 higher is better",
        "NLL, clean \u2013 lower is better",
        "true 110",
        "NLL, clean \u2013 lower is better",
        "#curve=clean&amp;metric=brier&amp;close=1&amp;without=random",
    ]


def test_every_chart_is_saved_as_a_picture_and_as_numbers(full: ReportData, tmp_path: Path) -> None:
    """Not as PNG, which a browser without a real clock does not finish."""
    path = write_page(full, tmp_path)
    script = (
        "const { texts } = evalsuite; const wrong = []; let count = 0;"
        "for (const figure of document.querySelectorAll('figure[data-name]')) { count += 1;"
        "const svg = texts.SVG(figure); const read = new DOMParser().parseFromString(svg, 'image/svg+xml');"
        "if (read.querySelector('parsererror') || svg.includes('var(--') || texts.CSV(figure).split('\\n').length < 3"
        " || figure.querySelectorAll('.save button').length < 3) wrong.push(figure.dataset.name); }"
        "return `${count > 12} ${wrong.join('; ')}`;"
    )
    assert measured_in_a_frame(path, 1200, script) == "true "


def test_an_explanation_does_not_cover_what_it_explains(findings: ReportData, tmp_path: Path) -> None:
    path = write_page(findings, tmp_path)
    script = (
        "document.querySelectorAll('details').forEach((item) => { item.open = true; });"
        "const tip = document.getElementById('tip'); let over = 0; let seen = 0;"
        "for (const target of [...document.querySelectorAll('[data-tip]')].slice(0, 60)) {"
        "target.scrollIntoView({ block: seen % 2 ? 'end' : 'start' });"
        "target.dispatchEvent(new Event('mouseenter')); seen += tip.hidden ? 0 : 1;"
        "const a = tip.getBoundingClientRect(); const b = target.getBoundingClientRect();"
        "if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) over += 1; }"
        "return `${over} of ${seen}`;"
    )
    assert measured_in_a_frame(path, 900, script) == "0 of 60"


def test_the_page_of_a_check_draws_without_complaint(checked: ReportData, tmp_path: Path) -> None:
    path = write_page(checked, tmp_path / "a check")
    document, console = opened(path, tmp_path / "profile")
    assert console == []
    assert 'data-drawn="yes"' in document
    script = (
        "const page = document.documentElement; return `${page.scrollWidth - page.clientWidth} too wide`;"
    )
    assert measured_in_a_frame(path, 400, script) == "0 too wide"


def test_a_phone_shows_every_number_of_a_check(checked: ReportData, tmp_path: Path) -> None:
    """Drops and intervals lay behind the edge of a table that had to be scrolled."""
    path = write_page(checked, tmp_path)
    script = (
        "const cells = [...document.querySelectorAll('.checks')[0].rows].slice(1).flatMap((row) => [...row.cells]);"
        "const beside = cells.filter((cell) => cell.getBoundingClientRect().right > innerWidth).length;"
        "return `${beside} of ${cells.length}`;"
    )
    assert measured_in_a_frame(path, 360, script) == "0 of 84"
