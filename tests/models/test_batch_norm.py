from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.errors import DataError
from evalsuite.models.batch_norm import reestimate_batch_norms

Build = Callable[..., nn.Module]


def test_statistics_are_those_of_the_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.25)).train()
    images = np.random.default_rng(0).random((25, 3, 4, 4), dtype=np.float32)
    again = reestimate_batch_norms(model, images, batch_size=10)
    norm = again[0]  # type: ignore[index]  # a Sequential
    batches = torch.from_numpy(images[:20]).view(2, 10, 3, 16)
    mean = batches.mean((1, 3)).mean(0)
    variance = batches.transpose(1, 2).flatten(2).var(2).mean(0)  # unbiased
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == 0.25
    assert not again.training
    assert model.training
    assert not model[0].running_mean.any()  # type: ignore[operator]  # a buffer


def test_a_network_with_right_statistics_keeps_its_outputs_and_one_with_wrong_ones_gets_them_back(
    build: Build,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    right = reestimate_batch_norms(build("small-cnn"), images, batch_size=64)
    wrong = reestimate_batch_norms(right, images[:2] // 4)
    batch = torch.from_numpy(images).float() / 255
    with torch.inference_mode():
        assert (wrong(batch) - right(batch)).abs().max() > 0.1
        torch.testing.assert_close(reestimate_batch_norms(wrong, images, batch_size=64)(batch), right(batch))


def test_dropout_stays_off_and_gradients_are_not_needed() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1))
    images = np.ones((4, 1, 31, 31), dtype=np.float32)
    with torch.inference_mode():
        again = reestimate_batch_norms(model, images)
    assert again[1].running_mean.item() == pytest.approx(1, abs=1e-6)  # type: ignore[index]  # a Sequential


@pytest.mark.parametrize(("count", "size"), [(1, 200), (0, 200), (9, 1)])
def test_one_image_has_no_variance(count: int, size: int) -> None:
    with pytest.raises(DataError, match=f"batches of {min(count, size)} images, expected at least 2"):
        reestimate_batch_norms(nn.BatchNorm2d(3), np.zeros((count, 3, 4, 4), np.uint8), batch_size=size)
