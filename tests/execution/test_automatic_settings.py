"""Settings that a suite leaves open: ``source = "auto"`` is an official archive where there is one, else generated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evalsuite.config.options import Options
from evalsuite.config.suite_file import parse_suite
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import SuiteError
from evalsuite.execution.automatic_settings import with_corruption_sources
from evalsuite.execution.dry_run import data_lines
from evalsuite.execution.planning import prepare
from evalsuite.types import ImageSet

SUITE = """
name = "sources"
ratios = [0.5]
control = false
data = "digits"
[model]
name = "small-cnn"
widths = [4, 4, 4, 4]
[[producers]]
name = "magnitude"
[[evaluators]]
name = "corruptions"
source = "auto"
severities = [3]
[[evaluators]]
name = "calibration"
source = "auto"
[[evaluators]]
name = "corruptions"
label = "own"
source = "auto"
folder = "own-C"
kinds = ["fog"]
"""


@pytest.mark.parametrize(
    ("folders", "official"),
    [((), set()), (("CIFAR-10-C",), {"corruptions", "calibration"}), (("own-C",), {"own"})],
    ids=["none", "published", "own"],
)
def test_the_archive_is_used_where_it_is(
    folders: tuple[str, ...], official: set[str], few: ImageSet, tmp_path: Path
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    suite = parse_suite(SUITE, source=tmp_path / "suite.toml")
    source = ImageSource(replace(few, name="cifar10"), Place(root=tmp_path))
    chosen = with_corruption_sources(suite, source)
    tables = {config.label: config.table for config in chosen.evaluators}
    assert {label for label, table in tables.items() if table.get("source") == "official"} == official
    assert all(
        ("official archive" if label in official else "generated here") in note
        for label, note in zip(tables, chosen.notes, strict=True)
    )
    plain = parse_suite(
        SUITE.replace('source = "auto"\n', "").replace('folder = "own-C"\n', ""), source=suite.source
    )
    if not official:  # so nothing that was computed before is stale
        assert tables == {config.label: config.table for config in plain.evaluators}


def test_a_plan_says_what_was_chosen(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE)
    prepared = prepare(tmp_path / "suite.toml", out=tmp_path / "run", options=Options(data_root=tmp_path))
    notes = [line for line in data_lines(prepared) if "source = 'auto' is generated here" in line]
    assert [note.partition(":")[0] for note in notes] == ["corruptions", "calibration", "own"]
    text = SUITE.replace('name = "calibration"\nsource = "auto"', 'name = "noise"\nsource = "auto"')
    with pytest.raises(SuiteError, match="unknown key 'source'"):
        parse_suite(text, source=tmp_path / "suite.toml")
