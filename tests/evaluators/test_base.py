"""What evaluators declare is what they report, whatever their settings; and the names of the contract that changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evalsuite.compat import robustbench
from evalsuite.datasets.base import DataSet, Place
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.transforms import archives
from evalsuite.datasets.transforms.common_corruptions.kinds import CORRUPTIONS
from evalsuite.datasets.transforms.corruption import frost_textures
from evalsuite.datasets.views import View
from evalsuite.detectors.table import DETECTORS
from evalsuite.evaluation import Bench
from evalsuite.evaluators import EVALUATORS
from evalsuite.evaluators.accuracy import ACCURACY, Accuracy
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator
from evalsuite.evaluators.robustbench import RobustBench
from evalsuite.evaluators.similarity import Similarity
from evalsuite.evaluators.trainability import Trainability
from evalsuite.execution.measuring import measured, scored
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.types import ImageSet, Metric, Phase, Score, Split

N = 40
HISTORY = (Phase("retraining", 2, N, 1, "0.1", "a", (0.5, 0.6), stage=1),)


def make(name: str) -> Any:
    """The class of an evaluator."""
    return EVALUATORS.get(name)


def image_set(classes: int, *, count: int = N, side: int = 32, start: int = 0) -> ImageSet:
    pixels = np.random.default_rng(start).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return ImageSet("cifar10", pixels, np.arange(count) % classes, classes)


@dataclass(frozen=True)
class Random(DataSet):
    """A data set of random images with every split."""

    classes: int = 10
    side: int = 32

    def load(self, split: Split, place: Place) -> ImageSet:
        del place
        return image_set(self.classes, side=self.side, start=len(split))


def network(classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(SmallCNN(widths=(4, 4, 4, 4), classes=classes)).eval()


def benches(
    classes: int = 10, *, side: int = 32, root: Path | None = None, control: bool = True
) -> list[Bench]:
    """The benches of a parent and a candidate."""
    source = ImageSource(Random(classes, side), Place(root=root))
    parent = Bench(network(classes, 0), source)
    if control:
        parent.set_control(Bench(network(classes, 1), source))
    return [parent, Bench(network(classes, 2), source, parent=parent, history=HISTORY)]


def summary(bench: Bench) -> DataSummary:
    images = bench.images(View())
    return DataSummary.of(images, bench.condition, control=bench.control is not None)


def declared(evaluator: Evaluator, data: DataSummary) -> dict[tuple[str, str], str]:
    """Pairs of metric and condition to their groups."""
    conditions = list(evaluator.conditions(data) or ())
    pairs = {(one.metric, one.condition): one.group for one in conditions}
    assert len(pairs) == len(conditions)
    return pairs


def reported(evaluator: Evaluator, shown: list[Bench]) -> list[Score]:
    return [score for bench in shown for score in scored(evaluator, bench)]


def assert_declared(
    evaluator: Evaluator, shown: list[Bench], *, may_be_missing: frozenset[Any] = frozenset()
) -> None:
    """Everything that is reported is declared, with its group, and everything that is declared is reported."""
    pairs, scores = declared(evaluator, summary(shown[0])), reported(evaluator, shown)
    assert set(pairs) == {(score.metric, score.condition) for score in scores} | may_be_missing
    assert not may_be_missing & {(score.metric, score.condition) for score in scores}
    for score in scores:
        if not score.reason:  # a missing number is in no group
            assert pairs[score.metric, score.condition] == score.group


OOD = {"images": 8, "fit_images": 20, "neighbors": 3}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("accuracy", {}),
    ("attack", {"epsilons": (2.0, 1.0), "steps": 2, "probe": 4, "images": 8}),
    ("attack", {"attacks": ("linf-noise",), "epsilons": (2.0,), "images": 8}),
    (
        "attack",
        {"attacks": ("fgsm", "linf-noise"), "epsilons": (2.0,), "images": 8, "probe": 0, "cascade": True},
    ),
    ("attack", {"attacks": ("linf-noise",), "epsilons": (2.0,), "images": 8, "cascade": True}),
    (
        "attack",
        {"attacks": ("fgm", "fgsm", "l2-deepfool"), "epsilons": (1.0,), "l2_epsilons": (0.1,), "images": 8},
    ),
    ("calibration", {}),
    ("calibration", {"held_out": "cross-fit", "corruptions": True, "severities": (3,)}),
    ("corruptions", {"severities": (1, 4), "kinds": ("brightness", "gaussian_noise")}),
    ("corruptions", {"severities": (2,), "kinds": ("fog", "frost"), "extra": True}),
    ("corruptions", {"severities": (2,), "kinds": ("frost",)}),
    ("jacobian", {"images": 4}),
    ("latency", {"batch_size": 4, "repeats": 7, "warm_up": 0}),
    ("minimal-norm", {"attacks": ("l2-deepfool", "linf-fmn", "ddn"), "steps": 2, "images": 8}),
    ("noise", {}),
    ("noise", {"draws": 2, "kinds": ("gaussian", "uniform"), "epsilons": (4.0, 8.0)}),
    ("noise", {"space": "normalised", "epsilons": (0.5,)}),
    ("ood", {"far": ("letters",), **OOD}),
    (
        "ood",
        {"near": ("letters", "photographs"), "far": ("uniform-noise",), "detectors": tuple(DETECTORS), **OOD},
    ),
    ("pixels", {"images": 1, "step": 512}),
    ("robustbench-benchmark", {"norm": "L2", "epsilon": 0.5}),
    ("robustbench-benchmark", {}),
    ("similarity", {}),
    ("similarity", {"classes": False}),
    ("trainability", {}),
    ("transfer", {"epsilons": (1,), "images": 8, "steps": 1}),
]
ELSEWHERE = {"flips", "shift"}
"""Need files: see below."""


@pytest.fixture(autouse=True)
def _no_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official benchmark takes minutes for each image."""

    def withstands(_model: nn.Module, images: Any, _labels: Any, **_: Any) -> robustbench.BenchmarkResult:
        return robustbench.BenchmarkResult(1.0, 1.0, torch.ones(len(images), dtype=torch.bool))

    monkeypatch.setattr(robustbench, "benchmark", withstands)


def test_every_evaluator_has_a_case() -> None:
    shipped = {name for name in EVALUATORS if EVALUATORS.get(name).__module__.startswith("evalsuite.")}
    assert {name for name, _ in CASES} | ELSEWHERE == shipped


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[name for name, _ in CASES])
def test_what_is_declared_is_reported(name: str, settings: dict[str, Any]) -> None:
    assert_declared(make(name)(**settings), benches())


@pytest.mark.parametrize(
    ("name", "settings"), [("noise", {}), ("pixels", {"images": 1, "step": 512}), ("similarity", {})]
)
def test_nothing_is_declared_about_a_control_that_is_not_there(name: str, settings: dict[str, Any]) -> None:
    evaluator = make(name)(**settings)
    assert evaluator.uses_control
    assert_declared(evaluator, benches(control=False))


@pytest.mark.parametrize(
    ("name", "settings", "classes"),
    [
        ("accuracy", {}, 20),
        ("attack", {"attacks": ("apgd-t",), "iterations": 2, "epsilons": (2.0,), "images": 8, "probe": 0}, 3),
        ("attack", {"attacks": ("apgd-t", "fgsm"), "epsilons": (2.0,), "images": 8, "probe": 0}, 2),
    ],
    ids=["top 5", "another attack in its place", "an attack that needs more classes"],
)
def test_the_number_of_classes_counts(name: str, settings: dict[str, Any], classes: int) -> None:
    evaluator = make(name)(**settings)
    pairs = declared(evaluator, summary(benches(classes)[0]))
    assert pairs != declared(evaluator, summary(benches(10)[0]))
    assert_declared(evaluator, benches(classes))


def test_attacks_of_which_none_can_run_are_declared() -> None:
    evaluator = make("attack")(attacks=("apgd-t",), epsilons=(2.0,))
    (parent, _) = benches(2)
    assert declared(evaluator, summary(parent)) == {("robust_accuracy", "apgd-t/2:255"): ""}
    assert measured(evaluator, parent).reason == "apgd-t cannot run with 2 classes; add apgd-ce or fab"


@pytest.mark.parametrize("attacks", [("fgsm", "linf-noise"), ("fgsm", "ddn", "linf-noise")])
def test_models_without_gradients_have_the_same_conditions(
    attacks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalsuite.evaluators.attack.gradient_obstacle", lambda _: "ONNX: no twin")
    settings = {"epsilons": (2.0,), "l2_epsilons": (0.1,), "images": 8}
    assert_declared(make("attack")(attacks=attacks, **settings), benches())


def test_a_class_without_images_is_declared_and_has_no_score() -> None:
    """Labels are not read for it: the one case where a suite may name a condition that is not reported."""

    class Lacking(Random):
        def load(self, split: Split, place: Place) -> ImageSet:
            images = super().load(split, place)
            return replace(images, labels=np.arange(N) % 2)

    source = ImageSource(Lacking(), Place())
    parent = Bench(network(10, 0), source)
    missing = frozenset(("class_accuracy", f"class/{k}") for k in range(2, 10))
    assert_declared(Similarity(), [parent], may_be_missing=missing)


def test_a_test_that_is_skipped_as_a_whole_is_declared() -> None:
    source = ImageSource(replace(image_set(10), name="digits"), Place())
    bench = Bench(network(10, 0), source)
    assert measured(RobustBench(), bench).status == "skipped"
    assert declared(RobustBench(), summary(bench)) == {("robust_accuracy", "robustbench Linf/8:255"): ""}
    (score,) = scored(Trainability(), bench)
    assert score.reason
    assert declared(Trainability(), summary(bench)) == {(score.metric, score.condition): ""}


@pytest.fixture
def textures(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "frost").mkdir()
    for number in range(1, 6):
        picture = np.full((200, 200, 3), 40 * number, dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "frost" / f"frost{number}.png")
    frost_textures.cache_clear()
    yield tmp_path
    frost_textures.cache_clear()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("corruptions", {"kinds": ("frost",), "severities": (2,)}),
        ("calibration", {"corruptions": True, "severities": (2,)}),
    ],
    ids=["corruptions", "calibration"],
)
def test_photographs_of_frost_are_looked_for_in_the_data_root(
    name: str, settings: dict[str, Any], textures: Path
) -> None:
    evaluator = make(name)(**settings)
    synthetic, photographed = (
        declared(evaluator, summary(benches(root=root)[0])) for root in (None, textures)
    )
    conditions = [{condition for _, condition in pairs} for pairs in (synthetic, photographed)]
    assert "frost-synthetic/2" in conditions[0] - conditions[1]
    assert "frost/2" in conditions[1] - conditions[0]
    assert_declared(evaluator, benches(root=textures))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("corruptions", {"severities": (1, 5), "kinds": ("fog", "frost", "snow"), "extra": True}),
        ("calibration", {"held_out": "cross-fit", "corruptions": True, "severities": (5,)}),
    ],
    ids=["corruptions", "calibration"],
)
def test_official_corruptions(
    name: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    monkeypatch.setattr(archives, "ARCHIVES", {"cifar10": archives.Archive(folder.name, "a test", {})})
    monkeypatch.setattr(archives, "ROWS", N)
    np.save(folder / "labels.npy", np.tile(np.arange(N) % 10, 5))
    for kind in (*CORRUPTIONS, "speckle_noise", "gaussian_blur", "spatter", "saturate"):
        np.save(folder / f"{kind}.npy", np.zeros((5 * N, 32, 32, 3), np.uint8) + len(kind))
    assert_declared(make(name)(source="official", **settings), benches(root=tmp_path))


@pytest.mark.parametrize("kinds", [("tilt",), ("scale", "tilt")])
def test_perturbation_sequences(kinds: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "CIFAR-10-P").mkdir()
    for kind in kinds:
        np.save(tmp_path / "CIFAR-10-P" / f"{kind}.npy", np.zeros((2, 3, 32, 32, 3), np.uint8))
    assert_declared(make("flips")(kinds=kinds), benches(root=tmp_path))


@pytest.mark.parametrize("images", [0, 8])
def test_shifted_sets(images: int, tmp_path: Path) -> None:
    other = image_set(10, start=9)
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "test_images.npy", other.images)
        np.save(tmp_path / folder / "test_labels.npy", np.asarray(other.labels))
    test = make("shift")(sets=("ours/", "theirs/"), images=images)
    assert_declared(test, benches(root=tmp_path))
    assert {condition for _, condition in declared(test, summary(benches()[0]))} == {"ours", "theirs"}


def test_declaring_loads_no_images() -> None:
    class Refusing(ImageSource):
        def images(self, view: View) -> ImageSet:
            raise AssertionError(f"{view} was loaded")

    source = Refusing(image_set(10), Place())
    data = DataSummary(10, (3, 32, 32), N, source.condition, ("cat",))
    for name, settings in (*CASES, ("flips", {}), ("shift", {"sets": ("cifar10.1",)})):
        assert declared(make(name)(**settings), data)


def test_a_summary_is_that_of_the_images() -> None:
    images = replace(image_set(3), names=("a", "b", "c"))
    data = DataSummary.of(images, lambda view: view.data or "clean")
    assert (data.classes, data.shape, data.images, data.class_names) == (3, (3, 32, 32), N, ("a", "b", "c"))
    assert (data.labelled, data.control, data.condition(View(data="letters"))) == (True, True, "letters")
    assert not DataSummary.of(replace(images, labels=None), data.condition).labelled
    assert next(iter(Accuracy().conditions(data))) == Condition("accuracy", "clean")


class Plain(Evaluator):
    """An evaluator that a user wrote, without declared conditions."""

    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY,)
    needs: ClassVar[tuple[View, ...]] = (View(),)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        yield Score("accuracy", "clean", evidence={"test": bench.outputs(View()).correct})


def test_a_plug_in_need_not_declare_its_conditions() -> None:
    assert Plain().conditions(summary(benches()[0])) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [("controlled", "uses_control"), ("historical", "uses_history"), ("timed", "measures_time")],
)
def test_old_class_attributes_of_plug_ins_work_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=f"^evaluator Mine: the class attribute '{old}' is now called '{new}'"
    ):
        kind = type("Mine", (Plain,), {old: True})
    assert getattr(kind, new) is True
    assert {name for name in ("uses_control", "uses_history", "measures_time") if getattr(kind, name)} == {
        new
    }
    both = type(
        "Both", (Plain,), {old: True, new: False}
    )  # works with either release, so there is nothing to say
    assert getattr(both, new) is False
