"""A run folder: whole files or none, evidence as it was, and damage that is computed again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from evalsuite.errors import StoreError
from evalsuite.runs import store as stored
from evalsuite.runs.digests import digest_of
from evalsuite.runs.serialization import with_checksum
from evalsuite.runs.store import Cell, Key, Store, write_atomically
from evalsuite.types import Array, Candidate, Cost, Metric, Score

ROOT = Path(__file__).parents[2]
KEY = Key("magnitude", 0, 0.5)
METRICS = (
    Metric("auroc", higher_is_better=True, unit="fraction", text="Area.", functional="auroc", tolerance=0.01),
    Metric("temperature", higher_is_better=None, unit="1", text="Température."),
)
INSIDE, OUTSIDE = np.array([0.1, 0.4, 0.3]), np.array([0.2, 0.9], dtype=np.float32)


def cell(digest: str = "d") -> Cell:
    """Populations in an order that is not that of the alphabet, and one array in several scores."""
    pair = {"test": INSIDE, "letters": OUTSIDE}
    scores = (
        Score("auroc", "letters", 0.75, 5, pair, "ood-near"),
        Score("auroc", "swapped", 0.25, 5, {"zeta": OUTSIDE, "alpha": INSIDE}),
        Score("temperature", "clean", 1.5, 3, flags=("Fitted on few images.", "Zero.")),
    )
    return Cell(digest, "ok", metrics=METRICS, scores=scores)


def candidate() -> Candidate:
    cost = Cost(parameters=10, nonzero=5, prunable=8, prunable_nonzero=3, macs=7, macs_nonzero=4, bytes=99)
    model = {"name": "small-cnn", "widths": [1, 2, 3, 4]}
    return Candidate("magnitude", 0, 0.5, 0.5000001, 0.625, cost, "abc", model)


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_cell_comes_back_as_it_went(tmp_path: Path) -> None:
    store, written = Store(tmp_path), cell()
    store.write_cell(KEY, "ood", written)
    found = store.cell(KEY, "ood", "d")
    assert found is not None
    assert (found.status, found.reason, found.metrics) == ("ok", "", METRICS)
    for one, other in zip(found.scores, written.scores, strict=True):
        assert replace(one, evidence={}) == replace(other, evidence={})
        assert list(one.evidence) == list(other.evidence)  # functionals take them by position
        for population, values in other.evidence.items():
            assert one.evidence[population].dtype == values.dtype
            np.testing.assert_array_equal(one.evidence[population], values)


@given(names=st.lists(st.text(max_size=8), unique=True, min_size=2, max_size=5), data=st.data())
def test_the_order_of_populations_survives_whatever_they_are_called(
    names: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [name.encode("utf-8", "ignore").decode() for name in names]
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=len(names), max_size=len(names)))
    evidence = {name: np.arange(size, dtype=np.float64) for name, size in zip(names, sizes, strict=True)}
    store = Store(tmp_path_factory.mktemp("run"))
    store.write_cell(KEY, "x", Cell("d", "ok", scores=(Score("m", "c", 1.0, 1, evidence),)))
    cell = store.cell(KEY, "x")
    assert cell is not None
    assert [(name, len(rows)) for name, rows in cell.scores[0].evidence.items()] == [
        (name, len(rows)) for name, rows in evidence.items()
    ]


@pytest.mark.parametrize(
    "values",
    [
        np.array([True, False]),
        np.arange(6, dtype=np.float32).reshape(3, 2).T,  # not contiguous
        np.arange(10, dtype=np.int64)[::2],
        np.array([np.pi, -0.0, 5e-324, np.finfo(np.float64).max]),
    ],
    ids=["bool", "transposed", "strided", "extreme"],
)
def test_every_kind_of_evidence_survives_bit_for_bit(values: Array, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_cell(KEY, "x", Cell("d", "ok", scores=(Score("m", "c", 1.0, 2, {"test": values}),)))
    cell = store.cell(KEY, "x")
    assert cell is not None
    back = cell.scores[0].evidence["test"]
    assert (back.dtype, back.shape) == (values.dtype, values.shape)
    assert back.tobytes() == np.ascontiguousarray(values).tobytes()


def test_shared_arrays_are_stored_once_and_different_ones_are_not_mixed(tmp_path: Path) -> None:
    same, other = np.zeros(1000), np.zeros(1000, dtype=np.int64)  # equal bytes, another meaning
    scores = tuple(Score("m", f"c/{i}", 0.0, 1000, {"test": same.copy(), "more": other}) for i in range(50))
    store = Store(tmp_path)
    store.write_cell(KEY, "x", Cell("d", "ok", scores=scores))
    (path,) = files(tmp_path)
    with safe_open(path, framework="numpy") as file:
        assert len(list(file.keys())) == 2
    cell = store.cell(KEY, "x")
    assert cell is not None
    assert {rows.dtype.name for rows in cell.scores[7].evidence.values()} == {"float64", "int64"}


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Store(tmp_path / name).write_cell(KEY, "ood", cell())
        Store(tmp_path / name).write_candidate(KEY, candidate(), digest="d")
        Store(tmp_path / name).write_record({"suite": {"name": "x"}})
    first, second = ([path.read_bytes() for path in files(tmp_path / name)] for name in ("a", "b"))
    assert len(first) == 3
    assert first == second


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="last byte lost"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut in the middle"),
        pytest.param(lambda data: data[:4], id="cut in the length"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda data: b"\xff" * len(data), id="overwritten"),
        pytest.param(lambda data: data.replace(b"status", b"sattus"), id="without a key"),
        pytest.param(lambda data: data.replace(b'\\"format\\": 4', b'\\"format\\": 9'), id="other format"),
    ],
)
def test_a_damaged_cell_is_not_believed(damage: object, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_cell(KEY, "ood", cell())
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    assert callable(damage)
    broken = damage(whole)
    assert broken != whole
    path.write_bytes(broken)
    assert store.cell(KEY, "ood", "d") is None
    assert store.cell(KEY, "ood") is None


def test_a_flipped_bit_of_the_evidence_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_cell(KEY, "ood", cell())
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(bytes(data))
    assert store.cell(KEY, "ood", "d") is None


@pytest.mark.parametrize("digest", ["other", ""])
def test_a_cell_of_another_digest_is_not_this_one(digest: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_cell(KEY, "ood", cell())
    assert store.cell(KEY, "ood", digest) is None
    assert store.cell(KEY, "ood") is not None
    assert store.cell(KEY, "attack") is None
    assert store.cell(replace(KEY, seed=1), "ood") is None


def test_a_candidate_comes_back_and_is_asked_for_its_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_candidate(KEY, candidate(), digest="d")
    assert store.candidate(KEY) == store.candidate(KEY, "d") == candidate()
    assert store.candidate(KEY, "other") is None
    assert store.candidate(replace(KEY, target_ratio=0.50001)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 2, "digest": "d"}',
        '{"format": 1, "digest": "d", "candidate": {}}',
    ],
)
def test_a_damaged_candidate_is_none(text: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_candidate(KEY, candidate(), digest="d")
    (path,) = files(tmp_path)
    path.write_text(text)
    assert store.candidate(KEY, "d") is None
    assert store.candidate(KEY) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            None, r"is not a run folder: it has no run\.json; start one with 'evalsuite run SUITE'", id="none"
        ),
        pytest.param(
            '{"format": 5}',
            r"run\.json has format 5, this evalsuite reads 1 to 4; use the evalsuite that wrote it, or run",
            id="newer",
        ),
        pytest.param("{}", r"run\.json has format None", id="no format"),
        pytest.param("{", r"run\.json cannot be read", id="cut"),
        pytest.param("[]", r"run\.json cannot be read", id="a list"),
    ],
)
def test_a_folder_that_is_no_run(text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=sentence):
        Store(tmp_path).record()


def test_the_record_of_an_older_version_is_read_with_what_it_did_not_count_left_open(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_candidate(KEY, candidate(), digest="d")
    (path,) = files(tmp_path)
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != "checksum"}
    del older["candidate"]["axis"], older["candidate"]["cost"]["packed"]
    path.write_text(json.dumps(with_checksum({**older, "format": 2})))
    found = store.candidate(KEY, "d")
    assert found == candidate()
    assert (found.cost.packed, found.axis) == (None, "nonzero")


LABELS = (
    "../x",
    "..",
    ".",
    "/etc/x",
    "a/b",
    "a_b",
    "a b",
    "A b",
    "été",
    "ete",
    "x" * 500,
    "x" * 501,
    "a\nb",
    "-",
    "ab ",
    "C:\\x",
)


def test_weird_labels_stay_inside_and_apart(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "run"
    store = Store(root)
    for label in LABELS:
        key = Key(label, 0, 0.5)
        store.write_cell(key, label, Cell(label, "ok"))
        store.write_cell(key, "accuracy", Cell(f"accuracy of {label}", "ok"))
        store.write_candidate(key, replace(candidate(), method=label), digest=label)
    for label in LABELS:
        key = Key(label, 0, 0.5)
        for evaluator, digest in ((label, label), ("accuracy", f"accuracy of {label}")):
            cell = store.cell(key, evaluator)
            assert cell is not None
            assert cell.digest == digest
        owner = store.candidate(key)
        assert owner is not None
        assert owner.method == label
        assert root in store.weights_path(key).resolve().parents
    assert len(files(tmp_path)) == len(files(root)) == 3 * len(LABELS)


@given(
    labels=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=2, unique=True)
)
def test_labels_never_share_a_file(labels: list[str]) -> None:
    names = [stored._slug(label) for label in labels]
    assert len(set(names)) == len(names)
    for name in names:
        assert name not in ("", ".", "..")
        assert not name.startswith(".")
        assert name.isascii()
        assert "/" not in name


KILLED = """
import os, signal, sys
from pathlib import Path
from evalsuite.runs.store import write_atomically
moment, path = sys.argv[1], Path(sys.argv[2])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(*{"sync": (os, "fsync"), "rename": (Path, "replace")}[moment], die)
write_atomically(path, b"new")
"""


@pytest.mark.parametrize("moment", ["sync", "rename"])
def test_a_kill_between_writing_and_renaming_leaves_the_old_file(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(path)], env=environment, check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert len(files(tmp_path)) == 2  # and what it left behind


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "x"
    path.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new")
    assert files(tmp_path) == [path]
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"x\.json cannot be written: .*--out"):
        write_atomically(tmp_path / "file" / "x.json", b"")


def test_leftovers_of_killed_writes_are_swept_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_cell(KEY, "ood", cell())
    store.write_candidate(KEY, candidate(), digest="d")
    store.write_record({})
    kept = files(tmp_path)
    (tmp_path / ".gitignore").write_text("*")
    left = [
        tmp_path / ".run.json.abcdefgh",
        kept[0].with_name(f".{kept[0].name}.x1y2z3_w"),
        kept[0].with_name(".0.5.safetensors.4711.tmp"),
    ]
    fresh = kept[0].with_name(f".{kept[0].name}.fresh000")  # of somebody who is writing now
    for path in (*left, fresh):
        path.write_bytes(b"half")
    old = time.time() - 2 * 3600
    for path in left:
        os.utime(path, (old, old))
    store.remove_leftovers()
    assert files(tmp_path) == sorted([*kept, tmp_path / ".gitignore", fresh])


def test_a_digest_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [1.5, "é"]}) == digest_of({"b": [1.5, "é"], "a": 1})
    different: list[dict[str, Any]] = [
        {"a": 1},
        {"a": 1.0},
        {"a": "1"},
        {"a": [1]},
        {"a": None},
        {"a": True},
        {"b": 1},
        {},
    ]
    assert len({digest_of(content) for content in different}) == len(different)


def test_run_json_is_plain_json_that_people_can_read(tmp_path: Path) -> None:
    Store(tmp_path).write_record({"suite": {"name": "é"}, "path": Path("x")})
    text = (tmp_path / "run.json").read_text("utf-8")
    assert '"é"' in text
    assert json.loads(text) == {"format": 4, "suite": {"name": "é"}, "path": "x"}
