"""The built distributions: an index takes them; the installed wheel runs from any folder, with its suites."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Output of a command that must succeed; `path` is the only addition to the environment's import path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(name="dist", scope="module")
def _dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return folder


@pytest.fixture(name="wheel", scope="module")
def _wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("evalsuite-*.whl")
    return wheel


@pytest.fixture(name="site", scope="module")
def _site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("a site")
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", "--target", site)
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=site)
    return site


@pytest.fixture(name="elsewhere")
def _elsewhere(site: Path, tmp_path: Path) -> Path:
    """A folder from which the installed wheel is imported, and not the source tree."""
    show = "import evalsuite; print(evalsuite.__file__)"
    home = Path(run(sys.executable, "-c", show, cwd=tmp_path, path=site).strip())
    assert home == site / "evalsuite" / "__init__.py"
    return tmp_path


def test_an_index_takes_both_distributions(dist: Path) -> None:
    files = sorted(dist.iterdir())
    assert [file.name.partition("-")[2].removeprefix(VERSION) for file in files] == [
        "-py3-none-any.whl",
        ".tar.gz",
    ]
    printed = run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=dist)
    assert printed.count("PASSED") == 2


def test_the_wheel_holds_package_suites_and_licence_only(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    suites = {f"evalsuite/suites/{path.name}" for path in (ROOT / "suites").glob("*.toml")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "evalsuite").rglob("*.py")}
    assert "evalsuite/suites/digits.toml" in suites
    assert suites | sources <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"evalsuite"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "evalsuite/py.typed" in names  # type checkers use the types of the package


def test_data_files_of_the_package_travel(wheel: Path) -> None:
    """Templates and whatever else is not Python."""
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {path for path in (ROOT / "evalsuite").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path.relative_to(ROOT).as_posix() for path in files} <= names


def test_the_installed_wheel_has_a_version(elsewhere: Path, site: Path) -> None:
    printed = run(sys.executable, "-m", "evalsuite", "--version", cwd=elsewhere, path=site)
    assert printed == f"evalsuite {VERSION}\n"


def test_the_installed_wheel_lists_its_suites(elsewhere: Path, site: Path) -> None:
    listing = run(sys.executable, "-m", "evalsuite", "list", "suites", cwd=elsewhere, path=site)
    assert "digits" in listing


@pytest.mark.extensive
def test_the_installed_wheel_runs_a_tiny_suite(
    small_suite: Callable[..., str], elsewhere: Path, site: Path
) -> None:
    (elsewhere / "tiny.toml").write_text(small_suite("tiny", top="control = false"))
    printed = run(sys.executable, "-m", "evalsuite", "run", "tiny.toml", cwd=elsewhere, path=site)
    report = elsewhere / "reports" / "tiny"
    assert str(report) in printed.replace("\n", "")
    for name in ("run.json", "measurements.csv", "thresholds.csv", "index.html"):
        assert (report / name).stat().st_size > 0


@pytest.mark.skipif("EVALSUITE_SLOW" not in os.environ, reason="takes a minute; set EVALSUITE_SLOW to run it")
def test_the_installed_wheel_runs_the_whole_default_suite(elsewhere: Path, site: Path) -> None:
    run(sys.executable, "-m", "evalsuite", "run", "digits", cwd=elsewhere, path=site)
    assert "filter-l1" in (elsewhere / "reports" / "digits" / "thresholds.csv").read_text()
