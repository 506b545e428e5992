from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.compat.calls import class_labels, device_of, replaced, unit_images


def test_bytes_become_fractions() -> None:
    images = unit_images(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16))
    assert images.dtype == torch.float32
    assert torch.equal(images.flatten(), torch.arange(256, dtype=torch.float32) / 255)


def test_fractions_stay() -> None:
    images = np.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    found = unit_images(images)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), images.astype(np.float32))


def test_labels_become_int64() -> None:
    labels = class_labels(np.array([3, 0], np.uint8), count=2)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 0]


def test_replaced_names_come_back_after_an_error() -> None:
    module = ModuleType("module")
    module.__dict__.update(kept=None)
    before = dict(vars(module))

    def fail() -> None:
        with replaced(module, kept=1, new=2):
            raise KeyError((module.kept, module.new))

    with pytest.raises(KeyError, match=r"\(1, 2\)"):
        fail()
    assert vars(module) == before


def test_device_of_a_model_without_parameters() -> None:
    buffered = nn.Module()
    buffered.register_buffer("mean", torch.zeros(1, device="meta"))
    assert device_of(buffered).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"
