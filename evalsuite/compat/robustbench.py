"""Calls of robustbench 1.1.1 that work with current releases of its dependencies, on given images.

As released it cannot be imported where setuptools no longer ships pkg_resources, nor with the AutoAttack that
it declares, it downloads what it evaluates, and it writes to the working directory. All of that is corrected
from outside, for the duration of a call.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evalsuite.compat.calls import (
    class_labels,
    device_of,
    frozen_eval,
    logits_of,
    quiet_imports,
    replaced,
    require_eval,
    unit_images,
)
from evalsuite.errors import DataError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from evalsuite.types import Array


log = logging.getLogger(__name__)

COMPONENTS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The four attacks of AutoAttack's standard version, in its order."""

_TARGETED = {"apgd-t", "fab-t"}
_TARGETS = 9  # target classes of the targeted attacks of the standard version, beside the true one


@dataclass(frozen=True, slots=True)
class AutoAttack:
    """AutoAttack at one radius, with everything that its result depends on.

    Attributes:
        epsilon: Radius for images in [0, 1].
        components: Which of `COMPONENTS`; each runs with the settings it has in the standard version.
        seed: Of every component.
        batch_size: Images per forward pass; random draws depend on it.
        norm: Of the radius.

    Raises:
        UserError: If a component is unknown or there is none.
    """

    epsilon: float
    components: tuple[str, ...] = COMPONENTS
    seed: int = 0
    batch_size: int = 100
    norm: Literal["Linf", "L2"] = "Linf"

    def __post_init__(self) -> None:
        unknown = [name for name in self.components if name not in COMPONENTS]
        if unknown or not self.components:
            raise UserError(
                f"AutoAttack: components = {self.components}, expected some of {', '.join(COMPONENTS)}"
            )


class BenchmarkResult(NamedTuple):
    """The result of the library's benchmark.

    Attributes:
        clean: Clean accuracy.
        robust: Robust accuracy.
        robust_images: Which images are classified correctly before and after the attack, bool (N,).
    """

    clean: float
    robust: float
    robust_images: Tensor


@functools.cache
def robustbench() -> ModuleType:
    """Returns the library, imported on the first call.

    The stand-ins for ``pkg_resources`` and ``autoattack`` are there for the import only, and removed after it.

    Raises:
        UserError: If torchattacks is installed, whose files replace robustbench's.
    """
    if importlib.util.find_spec("torchattacks") is not None:
        raise UserError(
            "found torchattacks, which overwrites the files of robustbench, expected robustbench alone: "
            "uninstall both, then install robustbench again"
        )
    with quiet_imports(), _stand_ins():
        library = importlib.import_module("robustbench")
        importlib.import_module("robustbench.eval")
    return library


def clean_accuracy(
    model: nn.Module, images: Tensor | Array, labels: Tensor | Array, *, batch_size: int = 100
) -> float:
    """Returns the accuracy that the library computes.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K).
        images: uint8 in 0..255 or floating point in [0, 1], shape (N, C, H, W).
        labels: Whole numbers, shape (N,).
        batch_size: Images per forward pass.

    Raises:
        DataError: If images or labels are not as above.
        InvalidModelError: If the model is in training mode.
    """
    require_eval(model)
    unit = unit_images(images)
    classes = class_labels(labels, count=len(unit))
    accuracy = robustbench().utils.clean_accuracy(
        model, unit, classes, batch_size=batch_size, device=device_of(model)
    )
    return float(accuracy)


def benchmark(
    model: nn.Module, images: Tensor | Array, labels: Tensor | Array, *, attack: AutoAttack
) -> BenchmarkResult:
    """Runs the library's Linf or L2 benchmark on given images instead of those it would download.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K), with K of at least 10 for
            the targeted components. It is left as it was.
        images: uint8 in 0..255 or floating point in [0, 1], shape (N, C, H, W).
        labels: Whole numbers, shape (N,).
        attack: What to run; ``AutoAttack(epsilon)`` is the published benchmark.

    Returns:
        Clean and robust accuracy, and the images behind the second.

    Raises:
        DataError: If images or labels are not as above.
        InvalidModelError: If the model is in training mode or its logits are not finite.
        UserError: If it has too few classes for a component.

    References:
        Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks"; Croce et al. 2021, "RobustBench".
    """
    evaluation = robustbench().eval
    with _redirected(model, images, labels) as setup:
        _require_targets(model, setup, attack)
        robust_images: list[Tensor] = []
        adversary = functools.partial(
            _OldAutoAttack, components=attack.components, seed=attack.seed, report=robust_images.append
        )
        # the library's check for gradients in the forward pass switches debuggers and coverage off
        checks = importlib.import_module("pyautoattack.checks")
        with replaced(evaluation, AutoAttack=adversary), replaced(checks, check_dynamic=_nothing):
            clean, robust = evaluation.benchmark(
                model,
                n_examples=len(images),
                threat_model=attack.norm,
                eps=attack.epsilon,
                batch_size=attack.batch_size,
                device=setup.device,
            )
    return BenchmarkResult(float(clean), float(robust), robust_images[0])


@dataclass(frozen=True, slots=True)
class _BenchmarkSetup:
    """The surroundings of a benchmark: the device of the model, a scratch folder, and the images that it loads."""

    device: torch.device
    scratch: Path
    images: Tensor
    labels: Tensor


@contextmanager
def _redirected(
    model: nn.Module, images: Tensor | Array, labels: Tensor | Array
) -> Iterator[_BenchmarkSetup]:
    """Redirects the library's benchmark to given images, a scratch folder and the log."""
    library = robustbench()
    with ExitStack() as stack:
        device = stack.enter_context(frozen_eval(model))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evalsuite-")))
        # the library calls view() on what is shaped like its images
        unit = unit_images(images).clone(memory_format=torch.contiguous_format)
        classes = class_labels(labels, count=len(unit)).clone()
        replacements = {
            "load_clean_dataset": lambda *_: (unit, classes),
            "Path": scratch.joinpath,
            "print": log.debug,
            "tqdm": iter,
        }
        stack.enter_context(replaced(library.eval, **replacements))
        stack.enter_context(replaced(library.utils, Path=scratch.joinpath))
        yield _BenchmarkSetup(device, scratch, unit, classes)


class _OldAutoAttack:
    """An adapter of pyautoattack to the signature that the library calls."""

    def __init__(
        self,
        model: nn.Module,
        *,
        components: Sequence[str] = COMPONENTS,
        report: Callable[[Tensor], object] = id,
        log_path: None = None,
        **settings: Any,
    ) -> None:
        del log_path  # the old class wrote its own file; this one has a logger
        pyautoattack = importlib.import_module("pyautoattack")
        self._attack = pyautoattack.AutoAttack(model, **settings)
        self._report = report
        self._attack.attacks_to_run = list(components)

    def run_standard_evaluation(self, images: Tensor, labels: Tensor, **settings: Any) -> Tensor:
        """Returns the adversarials; the old names are ``bs`` and ``state_path``."""
        settings["batch_size"] = settings.pop("bs")
        adversarial: Tensor
        adversarial, predicted = self._attack.run_standard_evaluation(images, labels, **settings)
        self._report(predicted == labels)
        return adversarial


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Provides modules that the library imports and that do not exist, or not without side effects."""
    resources = ModuleType("pkg_resources")
    resources.__dict__["resource_filename"] = _resource_filename
    attack = ModuleType("autoattack")
    attack.__dict__["AutoAttack"] = _OldAutoAttack
    modules = {
        "pkg_resources": resources,
        "autoattack": attack,
        "autoattack.state": importlib.import_module("pyautoattack.state"),
    }
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)


def _resource_filename(package: str, resource: str) -> str:
    """Returns the path of a file that lies beside a module."""
    return str(Path(str(sys.modules[package].__file__)).parent / resource)


def _nothing(*_: Any, **__: Any) -> None:
    """Does nothing."""


def _require_targets(model: nn.Module, setup: _BenchmarkSetup, attack: AutoAttack) -> None:
    """Checks the number of classes, with too few of which an attack would fail after a long time."""
    images, labels = setup.images[: attack.batch_size], setup.labels[: attack.batch_size]
    classes = logits_of(model, images.to(setup.device), labels=labels).shape[1]
    if _TARGETED.intersection(attack.components) and classes <= _TARGETS:
        raise UserError(
            f"the model has {classes} classes, expected more than {_TARGETS} for "
            f"{' and '.join(sorted(_TARGETED))}: leave these components out"
        )


_ROWS = 10_000  # images of one severity in a file: the library assumes so many
_SEVERITIES = range(1, 6)
_NAME = "candidate"


@dataclass(frozen=True, slots=True)
class CorruptionBenchmark:
    """The result of the library's corruption benchmark.

    Attributes:
        clean: Accuracy on the clean images.
        robust: Mean accuracy over all corruptions and severities.
        cells: Accuracy by corruption and severity.
    """

    clean: float
    robust: float
    cells: Mapping[tuple[str, int], float]


def corruption_benchmark(
    model: nn.Module, images: Tensor | Array, labels: Tensor | Array, *, folder: Path, batch_size: int = 100
) -> CorruptionBenchmark:
    """Runs the library's CIFAR-10-C benchmark on a local folder.

    Args:
        model: In evaluation mode; takes images in [0, 1] and returns logits (N, K).
        images: The first N clean test images, uint8 or floating point, shape (N, C, H, W); the first N of
            each corruption and severity are taken with them.
        labels: Whole numbers, shape (N,); the folder's own must agree.
        folder: Has ``labels.npy`` and a file for each of the 15 corruptions, uint8, shape (50000, H, W, C).
        batch_size: Images per forward pass.

    Raises:
        DataError: If images, labels or a file are not as above.
        InvalidModelError: If the model is in training mode.

    References:
        Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations".
    """
    evaluation, data = robustbench().eval, robustbench().data
    _require_layout(folder, data.CORRUPTIONS, labels=class_labels(labels, count=len(images)))
    dataset, threat = evaluation.BenchmarkDataset.cifar_10, evaluation.ThreatModel.corruptions
    with _redirected(model, images, labels) as setup:
        results = setup.scratch / "model_info" / "cifar10" / "corruptions" / "unaggregated_results.csv"
        _seed_results(results, data.CORRUPTIONS)
        loaders = {dataset: {threat: _renamed_argument(data.load_cifar10c)}}
        places = {dataset: {threat: str(folder.absolute())}}
        with (
            replaced(evaluation, CORRUPTION_DATASET_LOADERS=loaders),
            replaced(data, CORRUPTIONS_DIR_NAMES=places),
        ):
            clean, robust = evaluation.benchmark(
                model,
                n_examples=len(images),
                threat_model=threat,
                to_disk=True,
                model_name=_NAME,
                data_dir=str(setup.scratch),
                device=setup.device,
                batch_size=batch_size,
            )
        return CorruptionBenchmark(float(clean), float(robust), _cells(results))


def _require_layout(folder: Path, corruptions: Sequence[str], *, labels: Tensor) -> None:
    """Checks a CIFAR-10-C folder: the library would download what it does not find."""
    for name in ("labels", *corruptions):
        path = folder / f"{name}.npy"
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected the official layout of CIFAR-10-C")
        try:
            array = np.load(path, mmap_mode="r")
        except ValueError as error:
            raise DataError(f"{path}: not an array ({error}): fetch the file again") from error
        kinds, rank = ("iu", 1) if name == "labels" else ("u", 4)
        if array.ndim != rank or len(array) != _ROWS * len(_SEVERITIES) or array.dtype.kind not in kinds:
            raise DataError(
                f"{path}: found {array.dtype} of shape {array.shape}, expected whole numbers, "
                f"{_ROWS * len(_SEVERITIES)} rows, {rank} dimensions: fetch the file again"
            )
    stored = np.load(folder / "labels.npy")[: len(labels)]
    if len(labels) > _ROWS or not np.array_equal(stored, labels.cpu().numpy()):
        raise DataError(
            f"{folder / 'labels.npy'}: its first {len(labels)} labels are not those of the clean images, "
            "expected the same images in the same order: give the first of the test set"
        )


def _renamed_argument(load: Any) -> Any:
    """Returns a loader that takes the argument ``prepr``, which CIFAR's loader renamed and ignores."""

    def renamed(*arguments: Any, prepr: Any, **settings: Any) -> Any:
        del prepr
        return load(*arguments, **settings)

    return renamed


def _seed_results(path: Path, corruptions: Sequence[str]) -> None:
    """Writes the row of AlexNet that the mean corruption error is taken relative to; CIFAR has none."""
    import pandas as pd

    path.parent.mkdir(parents=True)
    columns = pd.MultiIndex.from_product([corruptions, _SEVERITIES])
    pd.DataFrame(0.0, index=["AlexNet"], columns=columns).to_csv(path)


def _cells(path: Path) -> dict[tuple[str, int], float]:
    import pandas as pd

    row: Any = pd.read_csv(path, header=[0, 1], index_col=0).loc[_NAME]
    return {(str(corruption), int(severity)): float(value) for (corruption, severity), value in row.items()}
