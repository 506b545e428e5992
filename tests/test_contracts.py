"""One table: every registered plug-in against the checks that outsiders run on theirs; and the checks themselves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import View
from evalsuite.detectors.table import DETECTORS
from evalsuite.errors import CellError, ContractError, InvalidModelError
from evalsuite.evaluation import Bench
from evalsuite.evaluators import EVALUATORS
from evalsuite.evaluators.accuracy import ACCURACY
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator
from evalsuite.evaluators.calibration import Calibration
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture, build_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.architectures.densenet import DenseNet22
from evalsuite.models.architectures.preresnet import PreResNet
from evalsuite.models.architectures.resnet import ResNet8
from evalsuite.models.cost import prunable_layers
from evalsuite.producers import PRODUCERS
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.base import ChannelScope
from evalsuite.producers.unstructured.magnitude import Magnitude
from evalsuite.testing import check_evaluator, check_model, check_producer
from evalsuite.types import Metric, Score

SETTINGS: dict[str, dict[str, Any]] = {
    "ood": {
        "near": ("letters",),
        "far": ("uniform-noise",),
        "detectors": tuple(DETECTORS),
        "images": 40,
        "neighbors": 10,
    },
    "corruptions": {"severities": (1, 5)},
    "function": {"target": str(Path(__file__).parents[1] / "examples" / "torch_prune_l1.py") + ":global_l1"},
    "n-m": {"m": 8},
    "alds": {"max_groups": 4, "random_starts": 2},
    "alds-optimal-k": {"max_groups": 4},
    "pca": {"images": 8},
    "resnext29": {"cardinality": 2, "base_width": 8},
    "lenet-300-100": {"side": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
    "grasp": {"per_class": 3},
    "synflow": {"rounds": 3},
    "sipp": {"images": 8},
    "sipp-hybrid": {"images": 8},
    "sipp-random": {"images": 8},
    "pfp": {"images": 8},
    "taylor": {"images": 32},
    "thinet": {"images": 8},
    "channel-regression": {"images": 8},
    "pixels": {"images": 1, "step": 512},
    "attack": {"epsilons": (2.0,), "steps": 3, "probe": 16},
    "minimal-norm": {"attacks": ("l2-deepfool", "linf-fmn"), "steps": 5},
    "shift": {"sets": ("digits",)},
    "transfer": {"epsilons": (2.0,), "steps": 3},
    "robustbench": {"model": "Standard"},
    "timm": {"model": "resnet10t"},
    "torchvision": {"model": "resnet18"},
}
"""For plug-ins that need some, or would take long; all others are checked as they are by default."""
SCOPED = ("bn-scale", "filter-l1", "filter-l2", "filter-random", "fpgm", "pfp", "taylor")
"""Producers that can take channels which convolutions share."""


@pytest.mark.parametrize(
    "architecture",
    [SmallCNN(), pytest.param(ResNet8(), marks=pytest.mark.extensive)],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", list(PRODUCERS))
def test_every_producer_keeps_its_contract(name: str, architecture: Architecture) -> None:
    side = 32 if isinstance(architecture, SmallCNN) else 16
    check_producer(PRODUCERS.get(name)(**SETTINGS.get(name, {})), architecture=architecture, side=side)


@pytest.mark.extensive
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        *((name, ResNet8(shortcut="B")) for name in SCOPED),
        ("filter-l1", SmallCNN()),
        ("pfp", SmallCNN()),
        ("filter-l1", DenseNet22()),
        ("filter-l1", PreResNet(depth=11)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_producers_of_shared_channels_keep_their_contract(name: str, architecture: Architecture) -> None:
    settings = {"scope": "coupled", **SETTINGS.get(name, {})}
    check_producer(PRODUCERS.get(name)(**settings), architecture=architecture, side=16)


@pytest.mark.extensive
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *((name, {"scope": "all"}) for name in SCOPED),
        *((name, {"propagate": True}) for name in ("magnitude", "sipp")),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_producers_that_drop_what_is_dead_keep_their_contract(name: str, setting: dict[str, Any]) -> None:
    producer = PRODUCERS.get(name)(**setting, **SETTINGS.get(name, {}))
    check_producer(producer, architecture=ResNet8(), side=16)


def test_no_producer_with_a_scope_is_left_out() -> None:
    # Not those that other tests register.
    ours = {entry.name for entry in PRODUCERS.entries() if entry.defined.startswith("evalsuite.")}
    assert {name for name in ours if issubclass(PRODUCERS.get(name), ChannelScope)} == {*SCOPED}


@pytest.mark.parametrize(
    "name", [name for name in EVALUATORS if name not in ("flips", "robustbench-benchmark")]
)  # which need files or real images: see there
def test_every_evaluator_keeps_its_contract(name: str) -> None:
    check_evaluator(EVALUATORS.get(name)(**SETTINGS.get(name, {})))


def test_calibration_keeps_its_contract_without_validation_images() -> None:
    check_evaluator(Calibration(held_out="cross-fit"))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "python"])  # which is the user's own
def test_every_model_keeps_its_contract(name: str, vit_folder: Path) -> None:
    torch.manual_seed(0)
    settings = {"model": str(vit_folder)} if name == "hf" else SETTINGS.get(name, {})
    check_model(build_model(MODELS.get(name)(**settings)))


@dataclass(frozen=True)
class Bad(Producer):
    """A producer that prunes well, and then breaks its contract in one way."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        for ratio, model in zip(ratios, Magnitude().produce(parent, ratios, context), strict=True):
            self.spoil(parent, model, ratio)
            yield model

    def spoil(self, parent: nn.Module, model: nn.Module, ratio: float) -> None:
        """Breaks nothing; subclasses do."""


def layer(model: nn.Module, index: int) -> Tensor:
    return list(prunable_layers(model).values())[index].get_parameter("weight")


class MutatesItsParent(Bad):
    def spoil(self, parent: nn.Module, model: nn.Module, ratio: float) -> None:  # noqa: ARG002  # the base class's
        layer(parent, 0).data[0, 0] = 0


class MutatesABuffer(Bad):
    def spoil(self, parent: nn.Module, model: nn.Module, ratio: float) -> None:  # noqa: ARG002  # the base class's
        next(value for name, value in parent.named_buffers() if name.endswith("running_mean")).add_(1)


class MissesItsRatio(Bad):
    def spoil(self, parent: nn.Module, model: nn.Module, ratio: float) -> None:  # noqa: ARG002  # the base class's
        layer(model, 2).data[: len(layer(model, 2)) // 2] = 0


class EmptiesALayer(Bad):
    def spoil(self, parent: nn.Module, model: nn.Module, ratio: float) -> None:  # noqa: ARG002  # the base class's
        layer(model, -1).data.zero_()


class DrawsWithoutASeed(Bad):
    def spoil(self, parent: nn.Module, model: nn.Module, ratio: float) -> None:  # noqa: ARG002  # the base class's
        weight = layer(model, 1).data
        weight.add_(torch.rand_like(weight) * (weight != 0))


class RemembersItsCalls(Bad):
    calls = 0

    def spoil(self, parent: nn.Module, model: nn.Module, ratio: float) -> None:  # noqa: ARG002  # the base class's
        type(self).calls += 1
        layer(model, 1).data.mul_(self.calls)


class YieldsTooFew(Bad):
    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        yield from Magnitude().produce(parent, ratios[:-1], context)


class IgnoresThePreviousCandidate(Bad):
    """A producer that prunes the parent at each ratio; when it goes on it starts from `previous`."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        start = context.previous or parent
        for ratio in ratios:
            yield from Magnitude().produce(parent, (ratio,), replace(context, previous=start))


class YieldsTheSameModel(Bad):
    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        (model,) = Magnitude().produce(parent, ratios[:1], context)
        for _ in ratios:
            yield model


BAD_PRODUCERS: list[tuple[type[Bad], dict[str, Any], str]] = [
    (MutatesItsParent, {}, "the parent was changed; work on a copy"),
    (MutatesABuffer, {}, "the parent was changed; work on a copy"),
    (MissesItsRatio, {}, r"ratio 0\.\d+ at target 0\.4, it may be 0\.05 off"),
    (EmptiesALayer, {}, r"layer network\.linear is empty at ratio 0\.4"),
    (DrawsWithoutASeed, {}, "the same seed gave other weights"),
    (RemembersItsCalls, {}, "the same seed gave other weights"),
    (YieldsTooFew, {}, "2 models for 3 ratios"),
    (IgnoresThePreviousCandidate, {}, "going on from a saved candidate gave other weights"),
    (YieldsTheSameModel, {"within": 1.0}, "measured ratios do not rise: "),
]


def test_the_plain_base_of_the_bad_producers_is_good() -> None:
    check_producer(Bad())


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"), BAD_PRODUCERS, ids=lambda value: getattr(value, "__name__", "")
)
def test_bad_producers_are_refused(kind: type[Bad], settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ContractError, match=f"^{sentence}"):
        check_producer(kind(), **settings)


@pytest.fixture(autouse=True)
def fresh_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each test a parent of its own: the bad producers change theirs."""
    from evalsuite import testing

    fresh = testing._trained

    def copied(*key: Any) -> Any:
        plugin, parent = fresh(*key)
        return plugin, copy.deepcopy(parent)

    monkeypatch.setattr(testing, "_trained", copied)


OTHER = Metric("other", higher_is_better=True, unit="fraction", text="No evaluator declares it.")
NOISE = View(transform=RandomNoise("uniform", 8.0))


@dataclass
class AccuracyEvaluator(Evaluator):
    """An evaluator of accuracy; subclasses break its contract."""

    metrics: tuple[Metric, ...] = (ACCURACY,)
    needs: tuple[View, ...] = (View(), NOISE)
    memory: list[int] = field(default_factory=list)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield self.clean(bench)

    def clean(self, bench: Bench, **changes: Any) -> Score:
        fields: dict[str, Any] = {"metric": "accuracy", "condition": "clean", "evidence": {}}
        outputs = bench.outputs(View())
        return Score(**(fields | {"evidence": {"test": outputs.correct}} | changes))


class NamesAnotherMetric(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield self.clean(bench, metric="other")


class ReadsWhatWasComputed(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield Score("accuracy", "clean", value=float(len(bench.passes)), n=1)


class ReadsAnotherView(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield self.clean(bench)
        yield self.clean(
            bench, condition="letters", evidence={"test": bench.outputs(View(data="letters")).confidence}
        )


class DrawsWithoutAnAddress(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield self.clean(bench, evidence={"test": np.random.random(96)})  # noqa: NPY002  # is what is planted


class RemembersItsEvaluations(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        self.memory.append(1)
        yield self.clean(bench, evidence={}, value=float(len(self.memory)), n=1)


class YieldsNothing(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:  # noqa: ARG002  # the base class's
        yield from ()


class YieldsTheSameTwice(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield self.clean(bench)
        yield self.clean(bench)


class YieldsNaN(AccuracyEvaluator):
    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield self.clean(bench, evidence={"test": bench.outputs(View()).nll * np.nan})


class DeclaresAnotherCondition(AccuracyEvaluator):
    def conditions(self, data: DataSummary) -> tuple[Condition, ...]:  # noqa: ARG002  # the base class's
        return (Condition("accuracy", "fog/3"),)


class DeclaresItsCondition(AccuracyEvaluator):
    def conditions(self, data: DataSummary) -> tuple[Condition, ...]:
        return (Condition("accuracy", data.condition(View())), Condition("accuracy", "fog/3"))


class ComparesWithTheMean(AccuracyEvaluator):
    """Says that it looks at single images, and takes the mean of all of them."""

    image_by_image: ClassVar[bool] = True

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        nll = bench.outputs(View()).nll
        yield self.clean(bench, evidence={"test": nll - nll.mean()})


class NeedsOutliersInStages(AccuracyEvaluator):
    image_by_image: ClassVar[bool] = True


BAD_EVALUATORS: list[tuple[AccuracyEvaluator, str]] = [
    (NamesAnotherMetric(), "a score names the metric 'other', declared are accuracy"),
    (ReadsWhatWasComputed(), "the scores depend on what was computed before"),
    (ReadsAnotherView(), r"an evaluator asked for View\(data='letters'.*, which its needs do not name"),
    (DrawsWithoutAnAddress(), "the scores depend on what was computed before"),
    (RemembersItsEvaluations(), "the scores depend on what was computed before"),
    (YieldsNothing(), "the evaluator yielded no score, expected at least one"),
    (YieldsTheSameTwice(), "the score accuracy on clean is there twice"),
    (YieldsNaN(), "the evidence of population 'test'"),
    (AccuracyEvaluator(metrics=()), r"metrics \[\]: none, or one twice"),
    (
        AccuracyEvaluator(metrics=(ACCURACY, ACCURACY)),
        r"metrics \['accuracy', 'accuracy'\]: none, or one twice",
    ),
    (AccuracyEvaluator(needs=(View(), View())), "an image set is in its needs twice"),
    (
        ComparesWithTheMean(),
        "image_by_image, but accuracy on clean of an image depends on the images after it",
    ),
    (
        NeedsOutliersInStages(needs=(View(), View(split="validation"))),
        "image_by_image, but it needs more than the test images",
    ),
    (DeclaresAnotherCondition(), "a score is on Condition.*'clean'.*, which its conditions do not name"),
]


def test_the_plain_base_of_the_bad_evaluators_is_good() -> None:
    check_evaluator(AccuracyEvaluator())
    check_evaluator(DeclaresItsCondition())


@pytest.mark.parametrize(("evaluator", "sentence"), BAD_EVALUATORS, ids=lambda value: type(value).__name__)
def test_bad_evaluators_are_refused(evaluator: AccuracyEvaluator, sentence: str) -> None:
    with pytest.raises(ContractError, match=f"^{sentence}"):
        check_evaluator(evaluator)


class Net(nn.Module):
    """A network of one linear layer whose ten logits are then changed."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 10)
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.layer(images.flatten(1)))


BAD_MODELS: dict[str, tuple[Any, str]] = {
    "classes": (lambda x: x[:, :7], r"logits of shape \(8, 7\), expected \(8, 10\)"),
    "random": (lambda x: x + torch.rand_like(x), "two forward passes over the same images differ"),
    "no gradient": (
        lambda x: x.detach().requires_grad_(),
        "no gradient reaches the images: attacks cannot work",
    ),
    "constant": (lambda x: 0 * x, "no gradient reaches the images: attacks cannot work"),
    "softmax": (lambda x: x.softmax(1), "the model returns probabilities"),
    "NaN": (lambda x: x * torch.nan, "the model returns NaN or infinite logits for 8 of 8 images"),
    "shape": (lambda x: x.sum(), r"the model returns shape \(\) for 8 images"),
}


@pytest.mark.parametrize(("change", "sentence"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_models_are_refused(change: Any, sentence: str) -> None:
    with pytest.raises(CellError, match=f"^{sentence}") as caught:
        check_model(Net(change))
    assert isinstance(caught.value, ContractError | InvalidModelError)


def test_a_good_model_of_another_size_passes() -> None:
    check_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), classes=4, side=16)
