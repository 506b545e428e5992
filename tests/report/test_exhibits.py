"""What a report shows beside its numbers, from the evidence of a run: tables, pictures, and several runs as one."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalsuite.datasets.base import Place
from evalsuite.datasets.pictures import THUMBNAIL, encode_png
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms.corruption import Corruption
from evalsuite.errors import DataError, UserError
from evalsuite.report import samples
from evalsuite.report import several_runs as compared
from evalsuite.report.exhibits import BINS, fairness_table, histograms, robust
from evalsuite.report.page import page
from evalsuite.report.several_runs import comparison
from evalsuite.report.wording import THIN
from evalsuite.runs.store import Key
from evalsuite.types import Candidate, Cost, ImageSet, Metric, Score

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.results.run import Run

DENSE = Key("dense", 0, 0.0)
HALF, MOST = Key("magnitude", 0, 0.5), Key("magnitude", 0, 0.9)
RANDOM = Key("random", 0, 0.5)
KEYS = (DENSE, HALF, MOST, RANDOM)
RIGHT = {
    DENSE: [1, 1, 1, 1, 0, 1],
    HALF: [1, 1, 0, 1, 1, 1],
    MOST: [1, 0, 0, 1, 0, 1],
    RANDOM: [1, 1, 0, 1, 0, 0],
}


def candidate(key: Key) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400)
    ratio = key.target_ratio
    return Candidate(
        key.method, key.seed, ratio, ratio, ratio, cost, f"w{key.method}{ratio}", {"name": "net"}
    )


def score(metric: str, condition: str, group: str = "", **evidence: Any) -> Score:
    arrays = {name: np.asarray(values) for name, values in evidence.items()}
    (first, *_) = arrays.values()
    return Score(metric, condition, float(first.mean()), len(first), arrays, group)


def run(tmp_path: Path, scores: dict[Key, list[Score]], **record: Any) -> Run:
    """What the exhibits look at of a run."""
    known = {(key, one.metric, one.condition): one for key, some in scores.items() for one in some}
    suite = {
        "seeds": [0],
        "producers": [{"label": "magnitude"}],
        "evaluators": [],
        "data": {"name": "digits"},
    }
    made = SimpleNamespace(
        path=tmp_path,
        record={"suite": suite, "inputs": {"a": 1}, **record},
        comparison=SimpleNamespace(scores=known),
        candidates={key: candidate(key) for key in KEYS},
        axis="",
        notes=list(record.get("notes") or ()),
    )
    return cast("Run", made)


def measured(tmp_path: Path) -> Run:
    clean = {key: [score("accuracy", "clean", test=np.array(RIGHT[key], bool))] for key in KEYS}
    return run(tmp_path, clean)


@pytest.fixture
def image_source() -> ImageSource:
    images = np.arange(6 * 3 * 32 * 32, dtype=np.uint64).reshape(6, 3, 32, 32).astype(np.uint8)
    return ImageSource(ImageSet("ours", images, np.arange(6), 6), Place(seed=3))


def test_radius_zero_is_the_accuracy_of_the_attacked_images(tmp_path: Path) -> None:
    right = np.array([1, 0, 1, 1, 1, 1], bool)
    found = robust(
        run(
            tmp_path,
            {
                HALF: [
                    score("accuracy", "clean", test=right),
                    score("robust_accuracy", "fgsm/2:255", "attack", **{"test[:3]": right[:3] & [1, 1, 0]}),
                    score("robust_accuracy", "worst l2/0.5", "", **{"test[:3]": right[:3] & [0, 0, 1]}),
                    score("accuracy", "fog/3", test=right),
                ]
            },
        )
    )
    rows = found[["norm", "attack", "epsilon", "n"]].to_numpy().tolist()
    assert rows == [
        ["Linf", "fgsm", 2.0, 3],
        ["Linf", "fgsm", 0.0, 3],
        ["L2", "worst", 0.5, 3],
        ["L2", "worst", 0.0, 3],
    ]
    assert found["value"].tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3])
    assert set(found["ratio"]) == {0.5}


def test_histograms_share_their_bins_and_lose_no_image(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    scores = {
        key: [
            score(
                "msp_auroc",
                "letters",
                group="ood-near",
                test=draws.normal(size=50),
                letters=draws.normal(2, 1, 70),
            ),
            score("msp_auroc", "ood-far", test=draws.normal(size=50), letters=draws.normal(2, 1, 70)),
        ]
        for key in (DENSE, HALF)
    }
    found = histograms(run(tmp_path, scores))
    assert found.groupby(["method", "sample"])["count"].sum().to_dict() == {
        ("dense", "test"): 50, ("dense", "letters"): 70, ("magnitude", "test"): 50, ("magnitude", "letters"): 70,
    }  # fmt: skip
    assert found["low"].nunique() == BINS
    assert histograms(run(tmp_path, {})).empty


def test_fairness_knows_what_the_run_made_itself(tmp_path: Path) -> None:
    (row,) = fairness_table(measured(tmp_path)).to_dict("records")
    assert (row["first"], row["second"], row["pairs"], row["setup"], row["fair"]) == (
        "magnitude",
        "random",
        1,
        "S1",
        False,
    )
    assert "made elsewhere" in row["why"]


def test_broken_images_are_those_that_most_candidates_lose(tmp_path: Path, image_source: ImageSource) -> None:
    plain = image_source.data
    assert isinstance(plain, ImageSet)
    found = samples.broken(measured(tmp_path), plain)
    assert [(one.column, one.note) for one in found] == [
        ("class 2", f"magnitude at 50{THIN}%, random at 50{THIN}%"),
        ("class 1", f"magnitude at 90{THIN}%"),
        ("class 5", f"random at 50{THIN}%"),
    ]
    shown = np.asarray(Image.open(io.BytesIO(found[0].png)))
    assert np.array_equal(np.moveaxis(shown, -1, 0), plain.images[2])


def test_other_images_than_those_measured_are_not_shown(tmp_path: Path) -> None:
    fewer = ImageSet("ours", np.zeros((5, 3, 32, 32), np.uint8), np.arange(5), 5)
    with pytest.raises(DataError, match="has 5 test images now, and 6 were measured"):
        samples.broken(measured(tmp_path), fewer)


def test_samples_are_the_pixels_that_were_measured(tmp_path: Path, image_source: ImageSource) -> None:
    names = ("fog/3", "uniform/8:255", "corruptions/3", "fgsm/2:255", "clean")
    scores = [score("accuracy", name, test=np.ones(6)) for name in names]
    found = samples.changed(run(tmp_path, {DENSE: scores}), image_source)
    assert [(one.row, one.column) for one in found] == [
        ("", "as it is"), ("fog", "severity 3"), ("uniform noise", "ε = 8/255"),
    ]  # fmt: skip
    plain = image_source.data
    assert isinstance(plain, ImageSet)
    whole = Corruption("fog", 3).apply(plain.images, image_source.place)[0]
    assert np.array_equal(np.moveaxis(np.asarray(Image.open(io.BytesIO(found[1].png))), -1, 0), whole)


def test_pictures_are_kept_and_read_back(tmp_path: Path, image_source: ImageSource) -> None:
    of = measured(tmp_path)
    assert not samples.is_kept(of)
    path = samples.keep(of, image_source)
    assert samples.is_kept(of)
    found, missing = samples.kept(tmp_path)
    assert [one.kind for one in found] == ["broken"] * 3
    assert missing["corruption"] == "no corruption and no noise was measured"
    assert "attack" in missing
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"of": "another run"}))
    assert not samples.is_kept(of)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pictures": [{"png": "?"}]}', '{"pictures": [7]}'])
def test_a_damaged_file_of_pictures_costs_only_the_pictures(tmp_path: Path, text: str) -> None:
    (tmp_path / samples.NAME).write_text(text)
    found, missing = samples.kept(tmp_path)
    assert found == ()
    assert set(missing) == {"broken", "corruption", "attack"}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 200, 100), (4, 8, 8)])
def test_pictures_are_small(shape: tuple[int, ...]) -> None:
    found = Image.open(io.BytesIO(encode_png(np.full(shape, 0.5, np.float32))))
    assert max(found.size) == min(THUMBNAIL, max(shape))
    assert found.mode == ("L" if shape[0] == 1 else "RGB")


def test_two_runs_become_one_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric("accuracy", True, "fraction", "Share.")

    def named(name: str, methods: list[str], reference: float, **other: Any) -> Run:
        table = pd.DataFrame(
            [
                {
                    "method": m,
                    "seed": 0,
                    "target_ratio": t,
                    "ratio": t,
                    "prunable_ratio": t,
                    "evaluator": "accuracy",
                }
                | {
                    "metric": "accuracy",
                    "condition": "clean",
                    "group": "",
                    "value": reference - t / 10,
                    "n": 9,
                }
                | {
                    "drop": t / 10,
                    "drop_low": None,
                    "drop_high": None,
                    "status": "ok",
                    "reason": "",
                    "flags": "",
                }
                for m, t in [("dense", 0.0), *((m, 0.5) for m in methods)]
            ]
        )
        flags = dict.fromkeys(("censored", "infeasible", "non_monotone", "incomplete", "underpowered"), False)
        rows = [
            flags
            | {
                "method": m,
                "seed": s,
                "metric": "accuracy",
                "condition": "clean",
                "group": "",
                "aggregate": "single",
            }
            | {"unit": "fraction", "higher_is_better": True, "tolerance": 0.1, "reference": reference, "n": 9}
            | {"potential": 0.5, "potential_any": 0.5, "potential_any_mean": None, "potential_any_std": None}
            | {"first_failure": None, "tested": "0.5"}
            for m in methods
            for s in (0, "all")
        ]
        found = measured(tmp_path / name)
        found.record["suite"]["name"] = name
        found.record["suite"]["producers"] = [{"label": m} for m in methods]
        known = [DENSE, *(Key(m, 0, 0.5) for m in methods)]
        plain = cast("Any", found)
        plain.metrics, plain.candidates = {"accuracy": metric}, {key: candidate(key) for key in known}
        plain.tables = {
            "measurements": table,
            "thresholds": pd.DataFrame(rows),
            "reliability": pd.DataFrame(),
        }
        plain.__dict__.update(other)
        return found

    monkeypatch.setattr(compared, "tables", lambda one: cast("Any", one).tables)
    first = named("first", ["magnitude", "random"], 0.9)
    second = named("second", ["magnitude", "filter-l1"], 0.8)
    found = comparison([first, second])
    names = {"magnitude (first)", "random", "magnitude (second)", "filter-l1"}
    assert set(found.thresholds["method"]) == names
    assert set(found.measurements["seed"]) == {"0 in first", "0 in second"}
    parents = found.measurements[found.measurements["method"] == "dense"]
    assert parents["value"].tolist() == [0.9, 0.8]
    meeting = found.fairness.set_index(["first", "second"])
    assert meeting.loc[("magnitude (first)", "magnitude (second)"), "pairs"] == 1
    text = page(found)
    assert all(name in text for name in names)
    data = json.loads(text.partition('id="curve-data">')[2].partition("</script>")[0])
    assert data["curves"][0]["reference"] is None
    assert data["curves"][0]["tolerance"] == 0.1
    other = named(
        "third", ["magnitude"], 0.8, metrics={"accuracy": Metric("accuracy", False, "fraction", "x")}
    )
    with pytest.raises(UserError, match="mean different things by the metric 'accuracy'"):
        comparison([first, other])
    with pytest.raises(UserError, match="found 1 run to compare"):
        comparison([first])
