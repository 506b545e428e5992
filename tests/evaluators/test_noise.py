from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evalsuite.data.dataset import Place
from evalsuite.data.views import UniformNoise
from evalsuite.errors import SuiteError
from evalsuite.evaluators.contract import check_epsilons
from evalsuite.evaluators.noise import Noise
from evalsuite.measuring import scored
from evalsuite.models.forward import BATCH_SIZE

LABELS = np.arange(70) % 3
TABLE = 4 * np.eye(3)[LABELS]


def shown(model: Any, skip: int, count: int) -> Tensor:
    """The images that a look-up model met after `skip` batches."""
    return torch.cat(model.seen[skip : skip - (-count // BATCH_SIZE)])[:count]


def test_parent_and_child_meet_the_same_addressed_noise(planting: Any) -> None:
    child, fewer = planting.bench(LABELS, TABLE, parent=TABLE), planting.bench(LABELS[:66], TABLE)
    for bench in (child, fewer):
        scored(Noise(epsilons=(0.25,)), bench)
    images = child.gallery.images(Noise().needs[0].__class__()).images
    expected = torch.from_numpy(UniformNoise(0.25).apply(images, Place(seed=0)))
    probe = 2  # batches
    assert torch.equal(shown(child.model, probe, 70), expected)
    assert torch.equal(shown(child.parent.model, probe, 70), expected)
    assert torch.equal(shown(fewer.model, probe, 66), expected[:66])  # how many images follow does not matter


def test_scores_are_those_of_the_noisy_images(planting: Any) -> None:
    """Less than half a level of noise leaves each image its number; ten levels mix the first three up."""
    wrong = TABLE.copy()
    wrong[:7] = wrong[:7, [1, 2, 0]]
    scores = scored(Noise(epsilons=(0.25, 0.4)), planting.bench(LABELS, wrong, parent=TABLE))
    assert [(one.metric, one.condition, one.n, one.group) for one in scores] == [
        (metric, f"uniform/{epsilon}:255", 70, "noise")
        for epsilon in ("0.25", "0.4")
        for metric in ("accuracy", "nll", "agreement")
    ]
    log_partition = np.log(np.exp(4) + 2)
    for one in scores:
        expected = {"accuracy": 63 / 70, "agreement": 63 / 70, "nll": log_partition - 4 * 63 / 70}[one.metric]
        assert one.value == pytest.approx(expected, rel=1e-6)
    mixed = {one.metric: one.value for one in scored(Noise(epsilons=(10,)), planting.bench(LABELS, TABLE))}
    assert mixed["accuracy"] is not None
    assert mixed["accuracy"] < 0.8


@pytest.mark.parametrize("epsilons", [(), (0.0,), (-1.0, 4.0), (256.0,), (float("nan"),)], ids=str)
def test_epsilons_must_be_radii(epsilons: tuple[float, ...]) -> None:
    with pytest.raises(
        SuiteError, match=r"^noise: found epsilons = \[.*, expected at least one number in \(0, 255\]"
    ):
        Noise(epsilons)


def test_no_condition_is_there_twice() -> None:
    with pytest.raises(SuiteError, match=r"^noise: 8 is in epsilons twice; name each once$"):
        Noise((8, 4.0, 8.0))
    check_epsilons("attack", (0.25, 255))
