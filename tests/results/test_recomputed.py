"""Every threshold of the golden run, found again by a slow script from the bytes of the cells: no code is shared."""

from __future__ import annotations

import csv
import json
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from evalsuite import Run

KINDS = {"F64": "<f8", "F32": "<f4", "BOOL": "?", "I64": "<i8", "U8": "u1"}
LOWER = ("ece_equal_width",)
SLACK = 1e-12

Curve = dict[tuple[str, str], dict[float, float]]  # metric and condition to ratio and value


def share(rows: list[Any]) -> float:
    return sum(float(row) for row in rows) / len(rows)


def pairs_won(inside: list[float], *others: list[float]) -> float:
    """Mean over the sets of outliers."""
    ranked = sorted(inside)
    wins = (sum(bisect_left(ranked, x) + bisect_right(ranked, x) for x in out) / len(out) for out in others)
    return sum(wins) / 2 / len(inside) / len(others)


def binned_gap(rows: list[list[float]]) -> float:
    total = 0.0
    for index in range(15):
        inside = [row for row in rows if index / 15 < row[0] <= (index + 1) / 15]
        total += abs(sum(row[1] - row[0] for row in inside))
    return total / len(rows)


SLOW: dict[str, Callable[..., float]] = {
    "accuracy": share,
    "robust_accuracy": share,
    "msp_auroc": pairs_won,
    "energy_auroc": pairs_won,
    "ece_equal_width": binned_gap,
}


def scores(path: Path) -> Iterator[tuple[str, str, str, list[list[Any]]]]:
    """Metric, condition, group and evidence of each score of a cell, read from the file's bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for score in json.loads(header["__metadata__"]["cell"])["scores"]:
        evidence = []
        for name in score["evidence"].values() if score["metric"] in SLOW else ():
            entry = header[name]
            begin, end = (start + offset for offset in entry["data_offsets"])
            evidence.append(
                np.frombuffer(data[begin:end], KINDS[entry["dtype"]]).reshape(entry["shape"]).tolist()
            )
        yield score["metric"], score["condition"], score["group"], evidence


def curves(folder: Path, method: str, groups: dict[tuple[str, str], str]) -> Curve:
    """Value of each metric on each condition at each measured ratio of a method."""
    found: Curve = {}
    for record in sorted((folder / "candidates" / method / "seed-0").glob("*.json")):
        candidate = json.loads(record.read_text("utf-8"))["candidate"]
        for cell in (folder / "cells" / method / "seed-0" / record.stem).glob("*.cell"):
            for metric, condition, group, evidence in scores(cell):
                if evidence:
                    place = found.setdefault((metric, condition), {})
                    place[candidate["ratio"]] = SLOW[metric](*evidence)
                    groups[metric, condition] = group
    return found


def potentials(drops: dict[float, float], tolerance: float) -> tuple[float, float]:
    """The largest ratio up to which all pass, and the largest that passes."""
    passed = [ratio for ratio, drop in drops.items() if drop <= tolerance + SLACK]
    failed = [ratio for ratio in drops if ratio not in passed]
    safe = [ratio for ratio in passed if not failed or ratio < min(failed)]
    return max(safe, default=0.0), max(passed, default=0.0)


def recomputed(folder: Path, tolerances: dict[str, float]) -> dict[tuple[str, ...], tuple[float, float]]:
    """Potentials by method, metric, condition and aggregate."""
    groups: dict[tuple[str, str], str] = {}
    (dense,) = ({k: v[0.0] for k, v in curves(folder, "dense", groups).items()},)
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    for method in sorted(path.name for path in (folder / "candidates").iterdir() if path.name != "dense"):
        members: dict[tuple[str, str], list[tuple[dict[float, float], tuple[float, float]]]] = {}
        for (metric, condition), values in curves(folder, method, groups).items():
            if metric not in tolerances:
                continue
            sign = -1 if metric in LOWER else 1
            drops = {ratio: sign * (dense[metric, condition] - value) for ratio, value in values.items()}
            answer = potentials(drops, tolerances[metric])
            found[method, metric, condition, "single"] = answer
            if groups[metric, condition]:
                members.setdefault((metric, groups[metric, condition]), []).append((drops, answer))
        for (metric, group), inside in members.items():
            if len(inside) > 1:
                mean = {r: sum(drops[r] for drops, _ in inside) / len(inside) for r in inside[0][0]}
                found[method, metric, group, "of-mean"] = potentials(mean, tolerances[metric])
                each = list(zip(*(answer for _, answer in inside), strict=True))
                found[method, metric, group, "mean"] = (share(list(each[0])), share(list(each[1])))
                found[method, metric, group, "minimum"] = (min(each[0]), min(each[1]))
    return found


@pytest.mark.extensive
def test_every_threshold_is_found_again(golden_run: Run) -> None:
    expected = recomputed(golden_run.path, golden_run.record["suite"]["tolerances"])
    with (golden_run.path / "thresholds.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("method", "metric", "condition", "aggregate")
    printed = {tuple(row[name] for name in names): row for row in rows if row["seed"] == "all"}
    assert set(printed) == set(expected)
    for place, (potential, best) in expected.items():
        assert float(printed[place]["potential"]) == pytest.approx(potential, abs=1e-12), place
        assert float(printed[place]["potential_any"]) == pytest.approx(best, abs=1e-12), place
    assert len({answer[0] for answer in expected.values()}) > 10, "a run in which little happens shows little"


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def certified_to(ladder: dict[float, float], level: float) -> float:
    reached = 0.0
    for ratio in sorted(ladder):
        if not ladder[ratio] <= level:
            break
        reached = ratio
    return reached


def stepped_down(members: dict[Any, dict[float, float]]) -> dict[Any, float]:
    """What each ladder of p-values reaches after Holm's steps."""
    waiting = set(members)
    while True:
        level = 0.05 / max(1, len(waiting))
        through = {name for name in waiting if all(p <= level for p in members[name].values())}
        if not through:
            return {name: certified_to(ladder, level) for name, ladder in members.items()}
        waiting -= through


def test_what_is_certified_is_found_again_from_p_values(golden_run: Run) -> None:
    printed: dict[tuple[str, ...], dict[str, str]] = {
        (row["method"], row["metric"], row["condition"]): row
        for row in rows_of(golden_run.path, "thresholds.csv")
        if row["seed"] == "all" and row["aggregate"] == "single"
    }
    tests: dict[tuple[str, ...], dict[float, float]] = {}
    groups: dict[tuple[str, ...], str] = {}
    place: tuple[str, ...]
    for row in rows_of(golden_run.path, "measurements.csv"):
        place = row["method"], row["metric"], row["condition"]
        if row["noninferiority_p"]:
            tests.setdefault(place, {})[float(row["ratio"])] = float(row["noninferiority_p"])
            groups[place] = row["group"]
            assert float(row["drop_tolerance"]) == pytest.approx(float(printed[place]["tolerance"]))
            assert (float(row["noninferiority_p"]) <= 0.05) == (
                float(row["drop_upper_95"]) <= float(row["drop_tolerance"]) + SLACK
            )
    assert {place for place, row in printed.items() if row["certified"]} == set(tests)
    for method in {place[0] for place in tests}:
        members: dict[Any, list[tuple[str, ...]]] = {}
        for place in tests:
            if place[0] == method and "frost-synthetic" not in place[2]:
                together = groups[place] and [place[1], groups[place]] in [
                    [p[1], groups[p]] for p in tests if p[0] == method and p != place
                ]
                members.setdefault((place[1], groups[place]) if together else place, []).append(place)
        reached = stepped_down(
            {name: {r: max(tests[p][r] for p in own) for r in tests[own[0]]} for name, own in members.items()}
        )
        for name, own in members.items():
            for place in own:
                assert float(printed[place]["certified"]) == certified_to(tests[place], 0.05)
                assert float(printed[place]["certified_jointly"]) == reached[name], place
        assert len(set(reached.values())) > 1
