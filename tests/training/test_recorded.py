"""Recipes in a suite, and training histories in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalsuite.config.suite_file import parse_suite
from evalsuite.errors import SuiteError
from evalsuite.runs.store import Key, Store
from evalsuite.types import Candidate, Cost, Phase

SUITE = """
name = "s"
ratios = [0.5]
data = {{ name = "digits" }}
model = {{ name = "small-cnn" }}
producers = [{{ name = "magnitude" }}]
evaluators = [{{ name = "accuracy" }}]
{0}
"""


def recipes(tables: str) -> tuple[int, float, int, float]:
    suite = parse_suite(SUITE.format(tables), source=Path("s.toml"))
    first, second = suite.recipe, suite.retraining
    return first.epochs, first.learning_rate, second.epochs, second.learning_rate


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ("", (10, 0.1, 10, 0.1)),
        ('[recipe]\nname = "lost-vgg16"\n[retraining]\nepochs = 290', (300, 0.05, 290, 0.05)),
        ('[recipe]\nepochs = 3\n[retraining]\nname = "rethinking-cifar-finetune"', (3, 0.1, 40, 0.001)),
    ],
    ids=["defaults", "inherited", "named"],
)
def test_retraining_inherits_the_recipe(tables: str, expected: tuple[int, float, int, float]) -> None:
    assert recipes(tables) == expected


def test_a_mistake_in_a_recipe_names_its_table() -> None:
    with pytest.raises(SuiteError, match=r"s\.toml, \[retraining\]: unknown recipe 'lost-vgg17'"):
        recipes('[retraining]\nname = "lost-vgg17"')


def test_a_history_is_read_back_from_the_store(tmp_path: Path) -> None:
    phases = (
        Phase("pretraining", 3, 96, 10, "0.1", "a"),
        Phase(
            "retraining",
            1.5,
            96,
            5,
            "0.1",
            "b",
            (0.5, 0.75),
            1,
            "c",
            before=0.25,
            recalibrated=0.5,
            after=0.75,
        ),
    )
    cost = Cost(1, 1, 1, 1, 1, 1, 1)
    made = Candidate("m", 0, 0.5, 0.5, 0.5, cost, "w", {"name": "small-cnn"}, phases)
    store, key = Store(tmp_path), Key("m", 0, 0.5)
    store.write_candidate(key, made, digest="d")
    assert store.candidate(key) == made
