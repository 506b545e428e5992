"""The main job on real photographs: a published network, pruned, retrained and measured on CIFAR-10 itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from evalsuite.api import run
from evalsuite.config.suite_file import find_suite
from evalsuite.results.run import Run

DATA = os.environ.get("EVALSUITE_DATA")
pytestmark = [
    pytest.mark.data,
    pytest.mark.extensive,
    pytest.mark.skipif(
        not DATA, reason="EVALSUITE_DATA names no folder with the real images and checkpoints"
    ),
]
SHORTER = {
    r"ratios = \[.*\]": "ratios = [0.5, 0.9]",
    r'name = "cifar10"$': 'name = "cifar10"\ntrain_limit = 512\ntest_limit = 400',
    r"learning_rate = 0.001$": "learning_rate = 0.01",  # for the few steps of so few images
    r'precision = "auto"$': 'precision = "float32"',  # whatever the processor has
    r"epsilons = \[0.25, 0.5, 1, 2\]\n": "epsilons = [0.25, 1]\nsteps = 5\nimages = 48\n",
    r"\Z": '[[evaluators]]\nname = "corruptions"\nkinds = ["frost", "fog", "glass_blur"]\nseverities = [3]\n'
    '[[evaluators]]\nname = "ood"\nimages = 300\n',
}


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped suite with fewer images, ratios and methods."""
    text = find_suite("cifar10-resnet20").read_text("utf-8")
    for pattern, replacement in SHORTER.items():
        text, changes = re.subn(pattern, replacement, text, count=1, flags=re.MULTILINE)
        assert changes == 1, pattern
    path = tmp_path_factory.mktemp("cifar") / "cifar10-short.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def found(shortened: Path) -> Run:
    return run(shortened, out=shortened.parent / "run")


def test_nothing_fails_and_ratios_are_reached(found: Run) -> None:
    assert set(found.failures["metric"]) <= {
        "mce_parent",
        "relative_mce_parent",
    }  # 400 images have few errors
    pruned = found.measurements.query("method != 'dense-retrained'")
    reached = pruned.drop_duplicates(["method", "target_ratio"])
    assert len(reached) == 9
    assert (reached["ratio"] - reached["target_ratio"]).abs().max() < 0.02


def test_numbers_are_those_of_a_real_network(found: Run) -> None:
    clean = found.measurements[found.measurements["condition"] == "clean"]
    accuracy = clean[clean["metric"] == "accuracy"].set_index(["method", "target_ratio"])["value"]
    assert accuracy["dense", 0.0] == pytest.approx(0.9173, abs=0.055)  # 400 images: 4 standard errors
    assert accuracy["magnitude", 0.5] > 0.85  # a few steps of retraining bring it back
    assert (
        accuracy["filter-l1", 0.9] < accuracy["magnitude", 0.5] - 0.2
    )  # 4 steps cannot save one filter in ten


def test_photographed_frost_is_frost(found: Run) -> None:
    conditions = set(found.measurements["condition"])
    assert ("frost/3" in conditions) == (Path(DATA or "", "frost").is_dir())


def test_published_network_knows_photographs_from_digits(found: Run) -> None:
    table = found.measurements
    dense = table[(table["method"] == "dense") & (table["metric"] == "msp_auroc")].set_index("condition")[
        "value"
    ]
    assert dense["mnist"] > 0.8
    assert 0.75 < dense["cifar100"] < 0.95
