"""A tiny real suite, its undisturbed run, and plug-ins that fail on demand."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from evalsuite import Run, api
from evalsuite.evaluators import EVALUATORS
from evalsuite.models import forward
from evalsuite.producers import PRODUCERS
from evalsuite.training import loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]

TINY = """
name = "tiny"
seeds = [0]
ratios = [0.5, 0.8]
[data]
name = "digits"
[model]
name = "small-cnn"
widths = [8, 12, 16, 16]
[recipe]
epochs = 2
learning_rate = 0.1
[[producers]]
name = "magnitude"
[[producers]]
name = "filter-l1"
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "corruptions"
kinds = ["brightness", "contrast"]
severities = [3]
[[evaluators]]
name = "ood"
near = ["letters"]
far = ["uniform-noise"]
[[evaluators]]
name = "noise"
epsilons = [16]
[[evaluators]]
name = "attack"
epsilons = [8]
steps = 2
images = 32
[[evaluators]]
name = "calibration"
[tolerances]
accuracy = 0.05
robust_accuracy = 0.1
msp_auroc = 0.05
ece_equal_width = 0.05
"""

PLUGINS = '''
from dataclasses import dataclass
from pathlib import Path
import copy
import torch
from evalsuite import evaluators, producers
from evalsuite.data.views import View
from evalsuite.errors import UserError
from evalsuite.evaluators.contract import Evaluator
from evalsuite.producers.contract import Producer
from evalsuite.producers.weights import Magnitude
from evalsuite.records import Metric, Score

@evaluators.register("moody")
@dataclass(frozen=True)
class Moody(Evaluator):
    """Fails as long as a file is there."""

    flag: str = ""
    metrics = (Metric("mood", True, "fraction", "How it feels."),)
    needs = (View(),)

    def evaluate(self, bench):
        if self.flag and Path(self.flag).exists():
            raise ValueError("not in the mood")
        yield Score("mood", "clean", evidence={"test": bench.outputs(View()).correct})

@evaluators.register("stopping")
@dataclass(frozen=True)
class Stopping(Evaluator):
    """Is interrupted as long as a file is there."""

    flag: str = ""
    metrics = (Metric("mood", True, "fraction", "How it feels."),)
    needs = (View(),)

    def evaluate(self, bench):
        if self.flag and Path(self.flag).exists() and bench.parent is not bench:
            raise KeyboardInterrupt
        yield Score("mood", "clean", evidence={"test": bench.outputs(View()).correct})

@producers.register("fragile")
@dataclass(frozen=True)
class Fragile(Magnitude):
    """Cannot go beyond a ratio as long as a file is there."""

    flag: str = ""
    limit: float = 0.6

    def produce(self, parent, ratios, context):
        above = [ratio for ratio in ratios if ratio > self.limit]
        below = [ratio for ratio in ratios if ratio <= self.limit]
        chain = super().produce(parent, below + above, context)
        for ratio in below:
            yield next(chain)
        if above and self.flag and Path(self.flag).exists():
            raise UserError("nothing is left to remove")
        yield from chain

@producers.register("overflow")
@dataclass(frozen=True)
class Overflow(Producer):
    """Yields finite weights whose logits are not."""

    def produce(self, parent, ratios, context):
        for ratio in ratios:
            model = copy.deepcopy(parent)
            with torch.no_grad():
                model.network.linear.weight[:] = 3e38
                model.network.linear.bias[:] = 3e38
                model.network.linear.weight[0, 0] = 0
            yield model

@producers.register("lazy")
@dataclass(frozen=True)
class Lazy(Producer):
    """Breaks the contract in a way that its setting says."""

    sin: str = "nothing"

    def produce(self, parent, ratios, context):
        model = copy.deepcopy(parent)
        if self.sin == "parent":
            with torch.no_grad():
                parent.network.linear.bias += 1
        if self.sin == "nan":
            with torch.no_grad():
                model.network.linear.bias[0] = float("nan")
        if self.sin == "falling":
            with torch.no_grad():
                model.network.linear.weight[:, 1:] = 0
            yield model
            yield copy.deepcopy(parent)
        if self.sin != "nothing":
            yield model
'''


@dataclass(frozen=True)
class Finished:
    """Is a command that has ended."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """What a subprocess needs to import the package from this tree."""
    kept = {name: value for name, value in os.environ.items() if name not in ("EVALSUITE_DATA", "PYTHONPATH")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(name="golden_run", scope="session")
def _golden_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole battery on a network that is given, small and the same everywhere."""
    suite = Path(__file__).parents[1] / "golden" / "digits.toml"
    return api.run(suite, out=tmp_path_factory.mktemp("golden") / "run")


@pytest.fixture(name="suite_file", scope="session")
def _suite_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the tiny suite with some of its text replaced, beside the plug-ins, and returns its path."""
    folder = tmp_path_factory.mktemp("suites")
    (folder / "plugins.py").write_text(PLUGINS)

    def write(changes: dict[str, str] | None = None, *, text: str = TINY) -> Path:
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, dedent(new), 1)
        if any(word in text for word in ('"moody"', '"stopping"', '"fragile"', '"overflow"', '"lazy"')):
            text = f'plugins = ["plugins.py"]\n{text}'
        path = folder / f"{len(list(folder.iterdir()))}.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(name="tiny", scope="session")
def _tiny(suite_file: Callable[..., Path]) -> Path:
    return suite_file()


@pytest.fixture(name="done", scope="session")
def _done(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The undisturbed run of the tiny suite, with its report; copy the folder before changing it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("EVALSUITE_DATA", raising=False)
        return api.run(tiny, out=tmp_path_factory.mktemp("runs") / "done")


@pytest.fixture(autouse=True)
def _as_if_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No data folder, and plug-ins are forgotten afterwards: other tests go over everything that is registered."""
    monkeypatch.delenv("EVALSUITE_DATA", raising=False)
    for registry in (PRODUCERS, EVALUATORS):
        monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    yield
    for name in [name for name in sys.modules if name.startswith("evalsuite_plugin_")]:
        del sys.modules[name]


@pytest.fixture(name="python", scope="session")
def _python() -> Callable[..., Finished]:
    """Runs the interpreter with some words, in another process."""

    def call(*words: str | Path, cwd: Path | None = None, **more: str) -> Finished:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(
            command,
            env=environment(**more),
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(name="counted")
def _counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts trainings and forward passes of whole image sets."""
    count = {"trainings": 0, "passes": 0}

    def counting(what: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **settings: object) -> object:
            count[what] += 1
            return function(*args, **settings)

        return call

    monkeypatch.setattr("evalsuite.running.trainings.train", counting("trainings", loop.train))
    monkeypatch.setattr("evalsuite.producers.contract.train", counting("trainings", loop.train))
    monkeypatch.setattr("evalsuite.bench.logits", counting("passes", forward.logits))
    return count
