"""What a release states in several places: one version, one date, and links that lead to its tag."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/evalsuite/evalsuite"
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
CITATION = (ROOT / "CITATION.cff").read_text("utf-8")
SECTIONS = re.findall(r"(?m)^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", CHANGELOG)
"""Name and date of each section of the changelog; *Unreleased* has no date."""
NEWEST, DATE = next((name, date) for name, date in SECTIONS if date)


def project_version() -> str:
    """The version that the distributions get."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])


def citation(key: str) -> str:
    """A key of CITATION.cff; those of its references are indented."""
    (value,) = re.findall(rf"(?m)^{key}: (.+)$", CITATION)
    return str(value)


def pinned_versions() -> dict[str, str]:
    """The version that each example installs or uses, by its file and what stands there."""
    pinned = {}
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.is_file():
            for version in re.findall(r"evalsuite/evalsuite(?:\.git)?@v(\S+)", path.read_text("utf-8")):
                pinned[f"{path.relative_to(ROOT)}, {version}"] = version
    return pinned


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_all_places_state_the_version_of_the_newest_release() -> None:
    pinned = pinned_versions()
    assert {place.partition(",")[0] for place in pinned} == {
        "examples/ci/github.yml",
        "examples/ci/gitlab.yml",
    }
    stated = {"CITATION.cff": citation("version"), **pinned}
    assert stated == dict.fromkeys(stated, NEWEST)


def test_the_project_has_the_version_of_the_newest_release_or_is_on_the_way_to_a_later_one() -> None:
    version, is_development, _ = project_version().partition(".dev")
    if is_development:
        assert numbers(version) > numbers(NEWEST)
    else:
        assert version == NEWEST


def test_the_citation_has_the_date_of_the_newest_release() -> None:
    assert citation("date-released") == DATE


def test_the_changelog_begins_with_what_is_not_released_and_then_falls() -> None:
    first, *released = (name for name, _ in SECTIONS)
    assert first == "Unreleased"
    assert all(date for _, date in SECTIONS[1:])
    assert released == sorted(released, key=numbers, reverse=True)


def test_the_links_of_the_changelog_lead_to_the_tag_of_the_newest_release() -> None:
    links = dict(re.findall(r"(?m)^\[(.+?)\]: (\S+)$", CHANGELOG))
    assert links["Unreleased"] == f"{REPOSITORY}/compare/v{NEWEST}...HEAD"
    assert links[NEWEST] == f"{REPOSITORY}/releases/tag/v{NEWEST}"
