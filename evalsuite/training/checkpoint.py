"""Checkpoints of long trainings: a killed one goes on from its last saved epoch to the same final weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evalsuite.atomic_files import write_atomically

SAVE_INTERVAL = 10.0
"""Seconds of training that a kill may cost; shorter trainings are never saved."""


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The file with the state of one unfinished training, or the folder of several.

    Attributes:
        path: A safetensors file, or the folder of several.
        digest: Digest of everything that the training depends on beside its start, such as code and data: a file
            with another digest is ignored.
    """

    path: Path
    digest: str = ""

    def of(self, ratio: float, index: int) -> TrainingCheckpoint:
        """Returns the checkpoint, in the folder `path`, of the training number `index` of a candidate."""
        return TrainingCheckpoint(self.path / f"{ratio!r}.{index}.training", self.digest)

    def write(self, key: str, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes the state of a training, completely or not at all.

        Args:
            key: Everything that distinguishes the training from others with this `digest`.
            epoch: Number of finished epochs.
            tensors: State after these epochs, by name.

        Raises:
            StoreError: If the file cannot be written.
        """
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        # one metadata entry only: safetensors does not keep the order of several
        data = safetensors.torch.save(state, metadata={"training": f"{self._name(key)} {epoch}"})
        write_atomically(self.path, data)

    def read(self, key: str) -> tuple[int, dict[str, Tensor]] | None:
        """Returns finished epochs and state of the training `key`; ``None`` without a valid file of it."""
        try:
            with safe_open(self.path, framework="pt") as file:
                name, _, epoch = file.metadata()["training"].partition(" ")
                if name != self._name(key):
                    return None
                return int(epoch), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None  # missing or damaged: trained again

    def _name(self, key: str) -> str:
        return hashlib.sha256(f"{self.digest}\x1f{key}".encode()).hexdigest()
