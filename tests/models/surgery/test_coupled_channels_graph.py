"""The entries in Torch-Pruning's graph, and what reading it leaves as it was."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import UserError
from evalsuite.models.surgery.coupled_channels import dependent_entries, torch_pruning

IMAGE = torch.rand(1, 3, 8, 8)


class Residual(nn.Module):
    """A stream of four channels, a loose parameter on it, a layer that no forward pass reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.idle = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4 * 16, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        maps = functional.max_pool2d(maps + self.norm(self.second(maps.relu())), 2)
        logits: Tensor = self.linear(maps.flatten(1))
        return logits


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = (self.scale * self.conv(images)).mean((2, 3))
        return logits


def one_each(count: int) -> dict[int, list[int]]:
    return {channel: [channel] for channel in range(count)}


def test_a_stream_is_one_group_named_by_its_first_convolution() -> None:
    dependencies = dependent_entries(Residual(), IMAGE)
    assert [*dependencies] == ["first"]
    assert dependencies["first"] == {
        ("first", 0): one_each(4),
        ("second", 0): one_each(4),
        ("second", 1): one_each(4),
        ("norm", 0): one_each(4),
        ("linear", 1): {channel: [*range(16 * channel, 16 * channel + 16)] for channel in range(4)},
    }


def test_concatenated_channels_are_groups_of_their_own() -> None:
    class Concatenation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1)
            self.norm, self.last = nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            maps = torch.cat([self.left(images), self.right(images)], 1)
            logits: Tensor = self.last(self.norm(maps)).mean((2, 3))
            return logits

    dependencies = dependent_entries(Concatenation(), IMAGE)
    behind = {channel: [2 + channel] for channel in range(3)}
    assert dependencies["left"] == {
        ("left", 0): one_each(2),
        ("norm", 0): one_each(2),
        ("last", 1): one_each(2),
    }
    assert dependencies["right"] == {("right", 0): one_each(3), ("norm", 0): behind, ("last", 1): behind}
    assert ("", 0) in dependencies["last"]  # the network's output


def test_loose_parameters_stand_under_their_names() -> None:
    assert ("scale", 0) in dependent_entries(Scaled(), IMAGE)["conv"]


def test_the_model_the_generators_and_the_modes_of_torch_are_left_as_they_were() -> None:
    model = Residual().train().requires_grad_(False)
    model.norm.eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        dependent_entries(model, IMAGE)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(one.requires_grad or one.grad is not None for one in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_cannot_be_traced_is_refused_in_one_sentence() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:  # noqa: ARG002  # fails before it looks
            raise ValueError("no forward pass\nwith details")

    with pytest.raises(
        UserError, match=r"^Torch-Pruning cannot follow .* \(ValueError: no forward pass\); remove"
    ):
        dependent_entries(Broken(), IMAGE)


@pytest.mark.extensive
def test_nothing_is_printed_or_warned_of_at_the_first_import() -> None:
    script = """
        import warnings; warnings.simplefilter("error")
        from evalsuite.models.surgery.coupled_channels import torch_pruning
        torch_pruning()
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in script.splitlines())],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_facts_that_are_relied_on_are_those_of_this_version() -> None:
    assert version("torch-pruning") == "1.6.1"
    assert torch_pruning().__version__ == "1.6.0"  # its own mistake: the metadata are right
