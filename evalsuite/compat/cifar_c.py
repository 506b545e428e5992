"""Runs robustbench's CIFAR-10-C benchmark on a local folder.

As released it stops twice: CIFAR's loaders renamed an argument that the evaluation still passes, and the mean
corruption error is taken relative to a row of AlexNet that exists for ImageNet only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evalsuite.compat.calling import class_labels, replaced
from evalsuite.compat.robustbench import on_own_data, robustbench
from evalsuite.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from evalsuite.records import Array

_ROWS = 10_000  # images of one severity in a file, which the library takes for granted
_SEVERITIES = range(1, 6)
_NAME = "candidate"


@dataclass(frozen=True, slots=True)
class CorruptionBenchmark:
    """Is what the library's corruption benchmark says of a model.

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
    with on_own_data(model, images, labels) as stage:
        results = stage.scratch / "model_info" / "cifar10" / "corruptions" / "unaggregated_results.csv"
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
                data_dir=str(stage.scratch),
                device=stage.device,
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
            found = np.load(path, mmap_mode="r")
        except ValueError as error:
            raise DataError(f"{path}: not an array ({error}): fetch the file again") from error
        kinds, rank = ("iu", 1) if name == "labels" else ("u", 4)
        if found.ndim != rank or len(found) != _ROWS * len(_SEVERITIES) or found.dtype.kind not in kinds:
            raise DataError(
                f"{path}: found {found.dtype} of shape {found.shape}, expected whole numbers, "
                f"{_ROWS * len(_SEVERITIES)} rows, {rank} dimensions: fetch the file again"
            )
    own = np.load(folder / "labels.npy")[: len(labels)]
    if len(labels) > _ROWS or not np.array_equal(own, labels.cpu().numpy()):
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
