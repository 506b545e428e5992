"""The control of a run with several seeds: the next seed's parent, and what depends on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from evalsuite.config.options import Options
from evalsuite.execution import scheduler as runner
from evalsuite.execution.dry_run import dry_run
from evalsuite.results.tables import exemplar_table
from evalsuite.runs.digests import cell_digest, control_of
from evalsuite.runs.plan import independent
from evalsuite.runs.status import status

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.results.run import Run


@pytest.fixture(scope="module")
def two(small_suite: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.toml").write_text(
        small_suite(
            "two",
            top="control = false\nseeds = [0, 1]",
            ratios=(0.8,),
            recipe="epochs = 2\nlearning_rate = 0.1",
            evaluators=('name = "accuracy"', 'name = "similarity"\nclasses = false'),
        )
    )
    return runner.run(folder / "two.toml", out=folder / "run")


def computed(path: Path) -> int:
    return int(json.loads((path / "run.json").read_text())["computed"])


def test_two_parents_are_each_others_control(two: Run) -> None:
    table = two.measurements
    controls = table[table["condition"] == "control"]
    assert set(controls["method"]) == {"dense"}  # no candidate has a drop on it, so no curve
    values = controls.pivot_table("value", index="metric", columns="seed")
    assert len(values) == 5
    pd.testing.assert_series_equal(values[0], values[1], check_names=False)
    agreement = controls.loc[controls["metric"] == "agreement", "value"]
    assert agreement.between(0, 1, inclusive="neither").all()
    assert "control" not in set(two.thresholds()["condition"])


def test_a_second_run_finds_everything_and_plans_nothing(two: Run) -> None:
    source = two.path.parent / "two.toml"
    assert all(line.left == 0 for line in dry_run(source, out=two.path))
    assert all(count.left == 0 for count in status(two.path).counts.values())
    runner.run(source, out=two.path)
    assert computed(two.path) == 0


def test_only_what_uses_the_control_depends_on_it(two: Run, tmp_path: Path) -> None:
    """The first seed alone in a copy of the run: its accuracy is still believed, its similarity is not."""
    shutil.copytree(two.path, tmp_path / "run")
    alone = runner.run(two.path.parent / "two.toml", out=tmp_path / "run", options=Options(seed=0))
    assert computed(tmp_path / "run") == 2  # the similarity of the parent and of one candidate
    assert "control" not in set(alone.measurements["condition"])


def test_exemplars_are_found_over_the_seeds(two: Run) -> None:
    ratios = {key: candidate.ratio for key, candidate in two.candidates.items()}
    (row,) = exemplar_table(two.comparison.scores, ratios).to_dict("records")
    assert (row["method"], row["seeds"], row["n"]) == ("magnitude", 2, 899)
    assert 0 < row["share"] < 1


def test_the_control_is_the_next_seeds_parent_if_that_is_another_network(two: Run) -> None:
    assert [control_of(seed, [3, 1, 2]) for seed in (3, 1, 2)] == [1, 2, 3]
    parents = [one for key, one in two.candidates.items() if key.method == "dense"]
    assert independent(parents[0], parents[1]) is parents[1]
    assert independent(parents[0], parents[0]) is independent(parents[0], None) is None
    digests = {cell_digest(parents[0], parents[0], "x", control=one) for one in (None, *parents)}
    assert len(digests) == 3
