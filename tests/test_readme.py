"""What the README says works: its boxes are run, its names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evalsuite import suite, testing
from evalsuite.evaluators import EVALUATORS
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import assemble
from evalsuite.producers import PRODUCERS

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
BOXES = [box for box in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@register" in box]
SUITE = """
name = "readme"
ratios = [0.5]
plugins = [{plugins}]
[data]
name = "digits"
[model]
name = "tiny"
width = 8
[[producers]]
name = "layer-scaled"
power = 0.5
[[evaluators]]
name = "margin"
[[evaluators]]
name = "ood"
far = ["stripes"]
"""


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> suite.Suite:
    """A suite that names the four boxes as plug-in files."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    for index, box in enumerate(BOXES):
        (folder / f"box{index}.py").write_text(box, "utf-8")
    names = ", ".join(f'"box{index}.py"' for index in range(len(BOXES)))
    path = folder / "readme.toml"
    path.write_text(SUITE.format(plugins=names), "utf-8")
    return suite.load(path)


def test_there_are_four_boxes_below_twenty_lines() -> None:
    assert len(BOXES) == 4
    assert all(len(box.splitlines()) < 20 for box in BOXES)


def test_the_boxes_conform(plugged: suite.Suite) -> None:
    testing.check_producer(PRODUCERS.get("layer-scaled")(power=0.5))  # type: ignore[call-arg]  # a plug-in's own field
    testing.check_evaluator(EVALUATORS.get("margin")())
    testing.check_evaluator(plugged.evaluators[1].plugin)
    testing.check_model(assemble(MODELS.get("tiny")()))


def test_every_shipped_plugin_is_named(plugged: suite.Suite) -> None:
    producers = {choice.name for choice in plugged.producers}
    evaluators = {choice.name for choice in plugged.evaluators}
    mine = {plugged.model.name, *producers, *evaluators}
    for name in {*PRODUCERS, *EVALUATORS} - mine:
        assert f"`{name}`" in README
