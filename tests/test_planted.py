"""Planted defects that must not pass and have no better place; and the completeness of `docs/battery.md`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.config.depths import DEPTHS
from evalsuite.datasets.views import View
from evalsuite.detectors.table import DETECTORS
from evalsuite.errors import ContractError
from evalsuite.evaluators import EVALUATORS
from evalsuite.evaluators.accuracy import ACCURACY, Accuracy
from evalsuite.execution.measuring import scored
from evalsuite.statistics import bootstrap_weights, mean_bounds
from evalsuite.types import ImageSet

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "battery.md").read_text("utf-8")
K = 10


def test_permuted_labels_are_guessed_at_chance(planting: Any) -> None:
    labels = np.arange(250) % K
    logits = np.zeros((256, K), np.float32)
    logits[np.arange(250), labels] = 5
    permuted = np.random.default_rng(0).permutation(labels)
    accuracies = [scored(Accuracy(), planting.bench(order, logits))[0].value for order in (labels, permuted)]
    assert accuracies[0] == 1
    assert accuracies[1] == pytest.approx(1 / K, abs=4 * np.sqrt(0.09 / 250))


def test_other_images_are_never_paired(planting: Any) -> None:
    images = planting.numbered(np.arange(40) % K, classes=K)
    other = ImageSet(images.name, 255 - images.images, images.labels, K)
    digests = {planting.data(test=one).digest(View()) for one in (images, images, other)}
    assert len(digests) == 2  # the digest of every cell holds that of its images
    right = np.arange(40) < 30
    weights = bootstrap_weights({"test": 40}, replicates=20, seed=0)
    for evidence in ({"test": right[:39]}, {"other": right}):
        with pytest.raises(
            ContractError, match="a drop is paired, so both must be measured on the same images"
        ):
            mean_bounds(ACCURACY, [{"test": right}], [[evidence]], weights=weights)


@pytest.mark.parametrize("name", sorted(EVALUATORS))
def test_the_document_defines_every_metric(name: str) -> None:
    settings = {"ood": {"far": ("letters",)}, "shift": {"sets": ("cifar10.1",)}}.get(name, {})
    metrics = {one.name.removesuffix("_scaled") for one in EVALUATORS.get(name)(**settings).metrics}
    if name == "ood":
        metrics = {one.removeprefix("msp_").removeprefix("energy_") for one in metrics} | set(DETECTORS)
    assert {one for one in metrics if f"`{one}`" not in DOCUMENT} == set()


def test_the_document_names_every_depth_and_tests_that_exist() -> None:
    assert all(f"`{depth}`" in DOCUMENT for depth in DEPTHS)
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT)
    assert len(tests) > 15
    missing = [test for file, test in tests if f"def {test}(" not in (ROOT / file).read_text("utf-8")]
    assert missing == []
