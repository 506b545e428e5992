from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalsuite.condition_splits import KINDS, ConditionSplits
from evalsuite.config.suite_file import parse_suite
from evalsuite.errors import SuiteError
from evalsuite.results.condition_splits import HELD_OUT, split_table
from evalsuite.results.tables import excess_table
from evalsuite.runs.store import Key
from evalsuite.statistics.slopes import slope, slope_over_images
from evalsuite.types import Score

SPLITS = ConditionSplits(("clean", "fog"), ("snow", "cifar10.1"))


def test_potentials_are_summarised_by_side_and_then_over_seeds() -> None:
    potentials = {
        0: {"clean": 0.9, "fog/3": 0.5, "snow/3": 0.4, "cifar10.1": 0.8, "other": 0.1},
        1: {"clean": 0.7, "fog/3": 0.7, "snow/3": 0.0, "cifar10.1": 0.6, "other": 0.1},
    }
    rows = [
        {"method": "m", "metric": "accuracy", "condition": name, "seed": seed, "aggregate": "single",
         "potential": value / 2, "potential_any": value}
        for seed, values in potentials.items() for name, value in values.items()
    ]  # fmt: skip
    rows += [{**row, "seed": "all"} for row in rows[:5]] + [{**rows[0], "aggregate": "mean"}]
    table = split_table(pd.DataFrame(rows), SPLITS)
    places = zip(table["split"], table["aggregate"], table["seed"], strict=True)
    by_place = dict(zip(places, table.to_dict("records"), strict=True))
    assert by_place["train", "mean", 0]["potential_any"] == pytest.approx(0.7)
    assert by_place["held-out", "minimum", 1]["potential_any"] == 0.0
    assert by_place["held-out", "minimum", "all"]["potential_any"] == pytest.approx(0.2)
    assert by_place["held-out", "minimum", "all"]["potential_any_std"] == pytest.approx(0.2)
    assert by_place["held-out", "mean", "all"]["potential"] == pytest.approx(0.225)
    assert set(table["conditions"]) == {2}
    assert split_table(pd.DataFrame(rows), None).empty


def test_the_excess_of_held_out_conditions_is_that_of_plain_loops() -> None:
    draws = np.random.default_rng(0)
    sizes = {"clean": 40, "fog/3": 40, "snow/3": 40, "cifar10.1": 25}
    ratios = {Key("m", 0, ratio): ratio for ratio in (0.3, 0.6, 0.9)}
    scores = {}
    for key in (Key("dense", 0, 0.0), *ratios):
        for name, count in sizes.items():
            right = draws.random(count) < 0.9 - 0.5 * key.target_ratio * (name in ("snow/3", "cifar10.1"))
            population = name if name == "cifar10.1" else "test"
            scores[key, "accuracy", name] = Score("accuracy", name, evidence={population: right})

    def error(key: Key, *names: str) -> float:
        values = (scores[key, "accuracy", name].evidence.values() for name in names)
        return float(np.mean([100 * (1 - np.mean(right)) for (right,) in values]))

    def excess(key: Key) -> float:
        return error(key, "snow/3", "cifar10.1") - error(key, "clean", "fog/3")

    points = [excess(key) - excess(Key("dense", 0, 0.0)) for key in ratios]
    table = excess_table(scores, ratios, seed=0, splits=SPLITS)
    (row,) = table[(table["condition"] == HELD_OUT) & (table["seed"] == 0)].to_dict("records")
    x = np.array([*ratios.values()])
    assert row["slope"] == pytest.approx(slope(x, np.array(points)))
    assert (row["points"], row["n"]) == (3, 25)
    assert (row["images_low"] + row["images_high"]) / 2 == pytest.approx(row["slope"])
    alone = [
        100
        * (np.stack([scores[key, "accuracy", "cifar10.1"].evidence["cifar10.1"] for key in ratios]) * -0.5)
    ]
    low, high = slope_over_images(x, alone[0])
    assert row["images_high"] - row["images_low"] > (high - low) * 0.5  # two samples, not one
    assert excess_table(scores, ratios, seed=0).query("condition == @HELD_OUT").empty


@pytest.mark.parametrize(
    ("train", "held_out", "message"),
    [
        (["clean"], ["snow", "fog"], "found fog in held_out, but a recipe trains on it"),
        (["clean"], ["snow", "fog/3"], "found fog in held_out, but a recipe trains on it"),
        (["clean", "fog"], ["mix2"], "found fog in train and in held_out, expected it on one side"),
        (["clean"], [], r"found train = \['clean'\] and held_out = \[\], expected conditions on both sides"),
    ],
)
def test_contradictions_are_refused(
    train: list[str], held_out: list[str], message: str, small_suite: Callable[..., str], tmp_path: Path
) -> None:
    text = small_suite(
        recipe='epochs = 1\ncorruptions = ["contrast", "fog"]',
        evaluators=('name = "corruptions"\nkinds = ["contrast", "fog", "snow"]\nseverities = [3]',),
        tolerances="",
    )
    text += f"[conditions]\ntrain = {train}\nheld_out = {held_out}\n"
    with pytest.raises(SuiteError, match=message):
        parse_suite(text, source=tmp_path / "suite.toml")


def test_a_name_that_is_never_measured_is_noticed() -> None:
    splits = ConditionSplits(("clean",), ("mix2",))
    kinds = ["brightness", "defocus_blur", "fog", "frost-synthetic", "gaussian_noise", "glass_blur"]
    kinds += ["jpeg_compression", "saturate", "spatter"]
    assert splits.unused_names(("clean", *(f"{kind}/3" for kind in kinds))) == ["speckle_noise"]


def test_the_presets_of_the_study_ask_for_its_shifted_sets() -> None:
    """CIFAR-10.1 and the 19 corruptions against clean images; in the robust one the ten that are held out."""
    suites = Path(__file__).parents[2] / "suites"
    shifted = ["cifar10.1", *(f"{kind} official/3" for kind in KINDS)]
    plain, robust = (
        parse_suite((suites / name).read_text("utf-8"), source=suites / name).conditions
        for name in ("lost-resnet20.toml", "lost-resnet20-robust.toml")
    )
    assert plain is not None
    assert robust is not None
    assert {plain.side_of(name) for name in shifted} == {"held-out"}
    assert plain.side_of("clean") == robust.side_of("clean") == "train"
    assert [robust.side_of(name) for name in shifted].count("held-out") == 11
