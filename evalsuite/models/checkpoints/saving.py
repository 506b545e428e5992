"""Models on disk: a safetensors file of weights, and a table of settings that rebuilds the architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from evalsuite.atomic_files import write_atomically
from evalsuite.errors import ContractError, StoreError
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.loading import build_with_weights
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.cost import network_weights, serialize_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def save_model(model: nn.Module, architecture_settings: Mapping[str, Any], path: Path) -> None:
    """Writes the weights of `model` to `path`, all or nothing, after proving that they can be loaded again.

    Args:
        model: Of the described architecture, perhaps with fewer channels.
        architecture_settings: As for `from_settings`; keep them, `load_model` needs them.
        path: A safetensors file, overwritten if it exists; its folder must exist.

    Raises:
        ContractError: If the settings do not rebuild a model that these weights fit.
        StoreError: If the file cannot be written.
    """
    _check_rebuilds(model, architecture_settings)
    if not path.parent.is_dir():
        raise StoreError(f"weights cannot be written to {path}: found no folder {path.parent}")
    write_atomically(path, serialize_weights(model))


def load_model(model_settings: Mapping[str, Any], weights_path: Path) -> nn.Module:
    """Returns the model that `save_model` wrote, in evaluation mode, bit for bit.

    Torch's global random state is left as it was.

    Args:
        model_settings: The settings that `save_model` got.
        weights_path: The file.

    Raises:
        CheckpointError: If the file is missing, damaged or does not fit the settings.
        SuiteError: If the settings describe no model.
    """
    return build_with_weights(from_settings(model_settings), read_weights(weights_path))


def _check_rebuilds(model: nn.Module, settings: Mapping[str, Any]) -> None:
    copy = build_with_weights(from_settings(settings), network_weights(model))
    if not isinstance(model, Normalized) or not isinstance(copy, Normalized):
        raise ContractError(
            f"a {type(model).__name__} cannot be saved: "
            "expected a model that `assemble` built, with its preprocessing"
        )
    for name in ("mean", "std"):
        of_model, of_settings = getattr(model, name).cpu(), getattr(copy, name)
        if not torch.equal(of_model, of_settings):
            raise ContractError(
                f"the model's {name} is {of_model.flatten().tolist()}, but that of its settings is "
                f"{of_settings.flatten().tolist()}: it would load as another model"
            )
