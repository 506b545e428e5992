"""Planted models and small image sets whose numbers can be worked out by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from evalsuite import Run, api
from evalsuite.datasets.base import DataSet, Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import DataError
from evalsuite.evaluation import Bench
from evalsuite.evaluators import EVALUATORS
from evalsuite.models import inference as forward
from evalsuite.models.architectures.base import Normalized, build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.producers import PRODUCERS
from evalsuite.training import loop
from evalsuite.training.loop import train
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet, Split

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # no test fails because another program has the processor

QUICK = Recipe(epochs=1, batch_size=32, learning_rate=0.05)


@dataclass(frozen=True)
class Planted(DataSet):
    """Image sets that a test made."""

    splits: tuple[tuple[str, ImageSet], ...]

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # made in memory
        found = dict(self.splits).get(split)
        if found is None:
            raise DataError(f"planted data has no {split}")
        return found


class Tally(list[Tensor]):
    """Batches that a model was shown; a copy of the model writes into the same list."""

    def __deepcopy__(self, _: object) -> Tally:
        return self


class Lookup(nn.Module):
    """Returns row i of a table of logits for an image whose first pixel is i: `numbered` images."""

    table: Tensor

    def __init__(self, table: Any) -> None:
        super().__init__()
        rows = torch.as_tensor(np.asarray(table), dtype=torch.float32)
        self.register_buffer("table", torch.cat([rows, rows.new_zeros((256 - len(rows), rows.shape[1]))]))
        self.seen = Tally()

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(images, Tensor):  # and not a symbol of the tracer
            self.seen.append(images)
        return self.table[(images[:, 0, 0, 0] * 255).round().long()]


def numbered(labels: Any, *, classes: int, start: int = 0, side: int = 16) -> ImageSet:
    """Images whose first pixel says which they are, 0 to 255, and whose others are grey noise."""
    wanted = None if labels is None else np.asarray(labels, dtype=np.int64)
    count = classes if wanted is None else len(wanted)
    images = np.random.default_rng(start).integers(64, 192, (count, 3, side, side), dtype=np.uint8)
    images[:, 0, 0, 0] = start + np.arange(count)
    return ImageSet("numbered", images, wanted, 0 if wanted is None else classes)


@dataclass(frozen=True)
class Planting:
    """Is what tests make planted benches from."""

    data: Callable[..., ImageSource]
    numbered: Callable[..., ImageSet]
    lookup: Callable[[Any], Lookup]

    def bench(self, labels: Any, table: Any, *, parent: Any = None, seed: int = 0) -> Bench:
        """The bench of a look-up model on numbered images; `parent` is the parent's table."""
        image_source = self.data(test=self.numbered(labels, classes=np.shape(table)[1]))
        above = None if parent is None else Bench(self.lookup(parent), image_source)
        return Bench(self.lookup(table), image_source, parent=above, seed=seed)


def image_source(*, seed: int = 0, **splits: ImageSet) -> ImageSource:
    return ImageSource(Planted(tuple(splits.items())), Place(seed=seed))


@pytest.fixture(scope="session")
def planting() -> Planting:
    """Planted image sets, image sources, models and benches."""
    return Planting(image_source, numbered, Lookup)


@pytest.fixture(scope="session")
def few() -> ImageSet:
    """The first 96 training images of the digits."""
    whole = load_checked(Digits(), "train", Place())
    assert whole.labels is not None
    return ImageSet("few digits", whole.images[:96], whole.labels[:96], whole.classes)


@pytest.fixture(scope="session")
def quick() -> Recipe:
    """Three steps on the few digits."""
    return QUICK


@pytest.fixture(scope="session")
def network(few: ImageSet) -> Callable[..., nn.Module]:
    """Returns a function: settings of a model to that model after three steps of training; not to be changed."""

    @cache
    def trained(name: str, **settings: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(from_settings({"name": name, **settings}))
        train(model, few, QUICK, seed=0)
        return model

    return trained


ROOT = Path(__file__).parents[1]
SIMULATION = ROOT / "tests" / "benchmarks" / "simulate_verdicts.py"


def suite_text(
    name: str = "small",
    *,
    top: str = "",
    ratios: Sequence[float] = (0.5,),
    widths: Sequence[int] = (8, 12, 16, 16),
    recipe: str = "epochs = 1",
    producers: Sequence[str] = ('name = "magnitude"',),
    evaluators: Sequence[str] = ('name = "accuracy"',),
    tolerances: str = "accuracy = 0.05",
) -> str:
    """The TOML of a suite: a small network, trained on digits, pruned and tested.

    Args:
        name: Of the suite.
        top: More keys of the suite itself.
        ratios: Of every method.
        widths: Of the network's four stages.
        recipe: Keys of the table of that name.
        producers: A table each.
        evaluators: A table each.
        tolerances: Keys of the table of that name; without any there is none.
    """
    parts = [
        f'name = "{name}"\n{top}',
        f"ratios = {list(ratios)}",
        '[data]\nname = "digits"',
        f'[model]\nname = "small-cnn"\nwidths = {list(widths)}',
        f"[recipe]\n{recipe}",
        *(f"[[producers]]\n{table}" for table in producers),
        *(f"[[evaluators]]\n{table}" for table in evaluators),
        *([f"[tolerances]\n{tolerances}"] if tolerances else []),
    ]
    return "\n".join([*map(str.strip, parts), ""])


TINY = suite_text(
    "tiny",
    top="control = false\nseeds = [0]",
    ratios=(0.5, 0.8),
    recipe="epochs = 2\nlearning_rate = 0.1",
    producers=('name = "magnitude"', 'name = "filter-l1"'),
    evaluators=(
        'name = "accuracy"',
        'name = "corruptions"\nkinds = ["brightness", "contrast"]\nseverities = [3]',
        'name = "ood"\nnear = ["letters"]\nfar = ["uniform-noise"]',
        'name = "noise"\nepsilons = [16]',
        'name = "attack"\nepsilons = [8]\nsteps = 2\nimages = 32',
        'name = "calibration"',
    ),
    tolerances="accuracy = 0.05\nrobust_accuracy = 0.1\nmsp_auroc = 0.05\nece_equal_width = 0.05",
)

PLUGINS = '''
from dataclasses import dataclass
from pathlib import Path
import copy
import torch
from evalsuite.plugins import Evaluator, Metric, Producer, Score, UserError, View
from evalsuite.plugins import register_evaluator, register_producer
from evalsuite.producers.unstructured.magnitude import Magnitude

@register_evaluator("moody")
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

@register_evaluator("stopping")
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

@register_producer("fragile")
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

@register_producer("overflow")
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

@register_producer("lazy")
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
    suite = Path(__file__).parent / "golden" / "digits.toml"
    return api.run(suite, out=tmp_path_factory.mktemp("golden") / "run")


@pytest.fixture(name="simulation", scope="session")
def _simulation() -> Any:
    """The module that draws differences of images and judges them."""
    spec = spec_from_file_location("simulate_verdicts", SIMULATION)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


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


@pytest.fixture(scope="session")
def small_suite() -> Callable[..., str]:
    """The function that writes the TOML of a small suite."""
    return suite_text


@pytest.fixture(name="tiny", scope="session")
def _tiny(suite_file: Callable[..., Path]) -> Path:
    return suite_file()


@pytest.fixture(name="done", scope="session")
def _done(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The undisturbed run of the tiny suite, with its report; copy the folder before changing it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("EVALSUITE_DATA", raising=False)
        return api.run(tiny, out=tmp_path_factory.mktemp("runs") / "done")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps decoded pictures out of the user's cache, and what parents computed out of the other tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EVALSUITE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("EVALSUITE_OUTPUTS_GB", "0")
        yield


@pytest.fixture(autouse=True)
def _isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides the data folder from tests without the marker ``data``, and forgets plug-ins afterwards."""
    if request.node.get_closest_marker("data") is None:
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

    monkeypatch.setattr("evalsuite.execution.parent_training.train", counting("trainings", loop.train))
    monkeypatch.setattr("evalsuite.producers.base.train", counting("trainings", loop.train))
    monkeypatch.setattr("evalsuite.evaluation.logits", counting("passes", forward.logits))
    return count


def fit_head(model: nn.Module) -> None:
    """Fits the last layer of a network to digits by ridge regression, so that it is better than chance."""
    digits = Digits().load("train", Place())
    assert digits.labels is not None
    images = torch.tensor(digits.images[:600]) / 255
    targets = nn.functional.one_hot(torch.tensor(digits.labels[:600]), 10).double()
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    inputs: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.inference_mode():
        model.eval()(images)
    hook.remove()
    columns = nn.functional.pad(inputs[0].clone().double(), (0, 1), value=1.0)
    gram = columns.T @ columns
    ridge = 1e-3 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
    solution = torch.linalg.solve(gram + ridge, columns.T @ (targets - 0.1))
    with torch.no_grad():
        head.weight.copy_(10 * solution[:-1].T)
        head.bias.copy_(10 * solution[-1])


@pytest.fixture
def head_fitter() -> Callable[[nn.Module], None]:
    """The function that fits the last layer of a network to digits."""
    return fit_head


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    """A model folder of transformers: a vision transformer of two blocks for ten classes of 32 x 32 pixels."""
    library = pytest.importorskip("transformers")
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = library.ViTConfig(**settings, image_size=32, patch_size=8, num_labels=10)
    folder = tmp_path / "vit"
    network = library.ViTForImageClassification(config)
    fit_head(Normalized(network, mean=[0.5] * 3, std=[0.5] * 3))
    network.save_pretrained(folder)
    library.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
