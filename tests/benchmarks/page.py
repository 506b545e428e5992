"""Size of the page of a large run, and its time to interactive: 5 methods x 20 ratios x 45 conditions.

    python tests/benchmarks/page.py

It needs Chromium. A page is interactive when the first curve is drawn and its menus work.
"""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from evalsuite.report.page import write_page

SYNTHESIS = runpy.run_path(str(Path(__file__).parents[1] / "report" / "conftest.py"), run_name="synthesis")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMES = 5
READY = 'document.body.dataset.ready = "yes"'
TITLE = "document.title = `ready ${Math.round(performance.now())}`"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--timeout=20000", "--dump-dom")


def interactive(path: Path, profile: Path) -> int:
    """Milliseconds from the start of the page."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return int(re.findall(r"<title>ready (\d+)", done.stdout)[0])


def main() -> None:
    """Prints size and times."""
    ratios = tuple((i + 1) / 21 for i in range(20))
    findings = SYNTHESIS["synthetic"](SYNTHESIS["Setting"](tuple("abcde"), ratios, severities=(1, 5)))
    conditions = findings.measurements["condition"].nunique()
    with tempfile.TemporaryDirectory() as folder:
        path = write_page(findings, Path(folder))
        sys.stdout.write(f"{conditions} conditions, {path.stat().st_size / 1e6:.2f} MB\n")
        free = re.sub("<meta http-equiv[^>]*>", "", path.read_text("utf-8"), count=1)
        path.write_text(free.replace(READY, f"{READY}; {TITLE}", 1), "utf-8")
        times = sorted(interactive(path, Path(folder, f"profile {i}")) for i in range(TIMES))
    sys.stdout.write(f"interactive after {', '.join(map(str, times))} ms\n")


if __name__ == "__main__":
    main()
