"""The plan of a run: its cells, what they need, how it is stored and read without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evalsuite import Run
from evalsuite.errors import StoreError
from evalsuite.runs.plan import PlannedCandidate, PlannedTest, ResolvedPlan, RunPlan, plan_of_record
from evalsuite.runs.store import Key, Store
from evalsuite.types import DENSE, PRODUCTION


def plan(**changes: object) -> RunPlan:
    """A plan of two seeds, two ratios and two tests."""
    candidates = []
    for seed in (3, 5):
        candidates.append(PlannedCandidate(Key(DENSE, seed, 0.0), "parent", f"parent {seed}", training=10))
        candidates += [
            PlannedCandidate(Key("m", seed, ratio), "produced", "m", path=path, training=7)
            for ratio, path in ((0.5, (0.5,)), (0.9, (0.5, 0.9)))
        ]
    tests = (
        PlannedTest("accuracy", "a", images={"clean": 100}),
        PlannedTest("similarity", "s", uses_control=True, images={"clean": 100, "noise": 50}, extra_images=3),
    )
    return replace(RunPlan((3, 5), tuple(candidates), tests), **changes)  # type: ignore[arg-type]


def test_cells_of_an_empty_folder(tmp_path: Path) -> None:
    cells = ResolvedPlan(plan(), Store(tmp_path)).cells
    assert len(cells) == plan().total == 2 * 3 * 3
    assert {(cell.state, cell.reason, cell.selected) for cell in cells} == {("missing", "", True)}
    by_address = {(cell.key, cell.what): cell for cell in cells}
    parent = by_address[Key(DENSE, 3, 0.0), PRODUCTION]
    assert (parent.needs, parent.digest, parent.images) == ((), "parent 3", 10)
    first, second = (by_address[Key("m", 3, ratio), PRODUCTION] for ratio in (0.5, 0.9))
    assert first.needs == ((Key(DENSE, 3, 0.0), PRODUCTION),)
    assert second.needs == ((Key("m", 3, 0.5), PRODUCTION),)
    assert first.digest == ""  # it depends on the weights of a parent that is not there
    measured = by_address[Key("m", 3, 0.5), "similarity"]
    assert [key for key, _ in measured.needs] == [Key("m", 3, 0.5), Key(DENSE, 3, 0.0), Key(DENSE, 5, 0.0)]
    assert measured.images == 53  # clean images are passed for the test of accuracy


def test_a_plan_survives_its_record() -> None:
    before = plan(unresolved={5: 2}, retried=frozenset({"error", "skipped"}), search="accuracy@clean")
    content = json.loads(json.dumps(before.to_record()))
    assert plan_of_record({"suite": {}, "plan": content}, path="run.json") == before


def test_models_without_a_ratio_are_counted_until_they_have_one() -> None:
    waiting = plan(unresolved={5: 2})
    assert waiting.total == plan().total + 2 * 3
    rows = [PlannedCandidate(Key("mine", 5, ratio), "external", "x", path=(ratio,)) for ratio in (0.7, 0.2)]
    known = waiting.with_external(5, rows)
    assert known.total == waiting.total
    assert not known.unresolved
    assert [c.key for c in known.candidates][-2:] == [Key("mine", 5, 0.2), Key("mine", 5, 0.7)]
    assert known.candidates[-1].previous == Key(DENSE, 5, 0.0)


def test_a_search_makes_a_chain_as_far_as_it_is_tested() -> None:
    searching = plan().searching("accuracy@clean", {"m": {0.9}})
    assert searching.tested_ratios("m") == (0.9,)
    assert [c.key.target_ratio for c in searching.chain("m", 3)] == [0.5, 0.9]
    assert searching.searched_methods() == {"m"}
    less = plan().searching("accuracy@clean", {"m": {0.5}})
    assert [c.key.target_ratio for c in less.chain("m", 3)] == [0.5]
    assert less.total == 2 * (3 + 3)


def test_controls_are_the_parents_of_the_next_seed() -> None:
    assert (plan().control_seed(3), plan().control_seed(5)) == (5, 3)
    without = plan(tests=(replace(plan().tests[1], selected=False), plan().tests[0]))
    assert without.control_seed(3) is None


def test_the_plan_of_a_finished_run_has_every_digest(done: Run) -> None:
    resolved = ResolvedPlan(done.plan, Store(done.path))
    assert {cell.state for cell in resolved.cells} == {"done"}
    digests = [cell.digest for cell in resolved.cells]
    assert len(set(digests)) == len(digests) == done.plan.total
    assert all(len(digest) == 64 for digest in digests)
    assert sum(cell.images for cell in resolved.cells) == 0


def test_what_was_changed_is_stale_and_what_is_gone_is_missing(done: Run, tmp_path: Path) -> None:
    shutil.copytree(done.path, tmp_path / "run")
    store = Store(tmp_path / "run")
    label = done.plan.tests[0].label
    changed = replace(
        done.plan, tests=(replace(done.plan.tests[0], inputs="other settings"), *done.plan.tests[1:])
    )
    states = {cell.what: cell.state for cell in ResolvedPlan(changed, store).cells}
    assert states.pop(label) == "stale"
    assert set(states.values()) == {"done"}
    key = done.plan.candidates[1].key
    store.weights_path(key).unlink()
    gone = {cell.key: cell.state for cell in ResolvedPlan(done.plan, store).cells if cell.what == PRODUCTION}
    assert gone.pop(key) == "missing"  # a run makes its weights again, and so it is not done
    assert set(gone.values()) == {"done"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "has no suite"),
        ({"suite": {}}, "has no plan"),
        ({"suite": {}, "plan": {"format": 99}}, "a plan that cannot be read .*format 99"),
        ({"suite": {}, "plan": {"format": 1, "seeds": [0]}}, "a plan that cannot be read .*candidates"),
        ({"suite": {}, "inputs": {}}, "a plan that cannot be read"),
    ],
)
def test_a_record_without_a_plan_is_refused_in_one_sentence(record: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        plan_of_record(record, path="run.json")


def test_a_plan_is_read_without_torch(done: Run) -> None:
    script = (
        "import sys; from evalsuite.runs.plan import ResolvedPlan, plan_of_record; "
        "from evalsuite.runs.store import Store; from pathlib import Path; "
        f"store = Store(Path({str(done.path)!r})); "
        "cells = ResolvedPlan(plan_of_record(store.record(), path='run.json'), store).cells; "
        "assert cells and 'torch' not in sys.modules and 'pandas' not in sys.modules, sorted(sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    done_process = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done_process.returncode == 0, done_process.stderr
