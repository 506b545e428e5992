"""Models on disk: a safetensors file of weights, and a table of settings that rebuilds the architecture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, StoreError
from evalsuite.models.architectures.base import Normalized, core, from_settings
from evalsuite.models.checkpoints.loading import rebuilt
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.packing import packed, plain_zeros

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def save(model: nn.Module, architecture_settings: Mapping[str, Any], path: Path) -> None:
    """Writes the weights of `model` to `path`, all or nothing, after proving that they can be loaded again.

    Args:
        model: Of the described architecture, perhaps with fewer channels.
        architecture_settings: As for `from_settings`; keep them, `load` needs them.
        path: A safetensors file, overwritten if it is there; its folder must exist.

    Raises:
        ContractError: If the settings do not rebuild a model that these weights fit.
        StoreError: If the file cannot be written.
    """
    _check_rebuilds(model, architecture_settings)
    try:
        _write(path, serialized(model))
    except OSError as error:
        raise StoreError(f"weights cannot be written to {path}: {error}") from error


def load(model_settings: Mapping[str, Any], weights_path: Path) -> nn.Module:
    """Returns the model that `save` wrote, in evaluation mode, bit for bit.

    Torch's global random state is left as it was.

    Args:
        model_settings: The settings that were given to `save`.
        weights_path: The file.

    Raises:
        CheckpointError: If the file is missing, damaged or does not fit the settings.
        SuiteError: If the settings describe no model.
    """
    return rebuilt(from_settings(model_settings), read_weights(weights_path))


def serialized(model: nn.Module) -> bytes:
    """Returns the content of the file that `save` writes: the network's weights alone."""
    return safetensors.torch.save(_weights(model))


def packed_size(model: nn.Module) -> int:
    """Returns how many bytes the network's weights are in a packed file; see `evalsuite.models.packing`."""
    return len(packed(plain_zeros(_weights(model))))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    state = core(model).state_dict()
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def _check_rebuilds(model: nn.Module, settings: Mapping[str, Any]) -> None:
    again = rebuilt(from_settings(settings), _weights(model))
    if not isinstance(model, Normalized) or not isinstance(again, Normalized):
        raise ContractError(
            f"a {type(model).__name__} cannot be saved: "
            "expected a model that `assemble` built, with its preprocessing"
        )
    for name in ("mean", "std"):
        found, expected = getattr(model, name).cpu(), getattr(again, name)
        if not torch.equal(found, expected):
            raise ContractError(
                f"the model's {name} is {found.flatten().tolist()}, but its settings say "
                f"{expected.flatten().tolist()}: it would load as another model"
            )


def _write(path: Path, content: bytes) -> None:
    """Writes to a temporary name in the same folder and renames, so that `path` is never half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
