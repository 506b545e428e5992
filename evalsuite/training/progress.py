"""Long trainings on disk: a killed one goes on from its last saved epoch to the same final weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evalsuite.errors import StoreError

INTERVAL = 10.0
"""Seconds of training that a kill may cost; shorter trainings are never written down."""


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Is where the progress of one training is kept, and what it belongs to.

    Attributes:
        path: A safetensors file, or the folder of several.
        digest: Of all that the training depends on beside its start, such as code and data: a file of
            another digest is not believed.
    """

    path: Path
    digest: str = ""

    def of(self, ratio: float, index: int) -> TrainingCheckpoint:
        """Returns where, in the folder `path`, the training number `index` of a candidate keeps its progress."""
        return TrainingCheckpoint(self.path / f"{ratio!r}.{index}.training", self.digest)

    def write(self, key: str, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes how far a training has come, all or nothing.

        Raises:
            StoreError: If the file cannot be written.
        """
        kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        # one metadata entry only: safetensors does not keep the order of several
        data = safetensors.torch.save(kept, metadata={"training": f"{self._name(key)} {epoch}"})
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written: {error}; free space or name another folder"
            ) from error

    def read(self, key: str) -> tuple[int, dict[str, Tensor]] | None:
        """Returns epochs done and tensors of the training `key`; ``None`` if there is nothing to believe."""
        try:
            with safe_open(self.path, framework="pt") as file:
                name, _, epoch = file.metadata()["training"].partition(" ")
                if name != self._name(key):
                    return None
                return int(epoch), {one: file.get_tensor(one) for one in file.keys()}  # noqa: SIM118  # no mapping
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None  # not there, or damaged: trained again

    def _name(self, key: str) -> str:
        return hashlib.sha256(f"{self.digest}\x1f{key}".encode()).hexdigest()
