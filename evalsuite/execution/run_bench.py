"""The bench of a run: its passes are the engine's, and those of a parent serve all workers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalsuite.atomic_files import atomic_path
from evalsuite.datasets.shared_cache import exclusive, has_room
from evalsuite.datasets.views import View
from evalsuite.errors import StoreError
from evalsuite.evaluation import Bench, Outputs
from evalsuite.models.engines import EAGER, OPENVINO, EngineName, compiled
from evalsuite.models.inference import InferenceModel
from evalsuite.runs.digests import digest_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn

    from evalsuite.datasets.source import ImageSource
    from evalsuite.datasets.stages import StageSource

log = logging.getLogger(__name__)

FOLDER = "outputs"
"""Folder of shared outputs below the scratch folder of a run."""


class RunBench(Bench):
    """A bench whose forward passes an engine computes, and whose outputs other workers may have computed.

    Args:
        model: As for `Bench`.
        image_source: As for `Bench`.
        engine: Of the run.
        shared: Folder of outputs that the workers of a run share; ``None`` for a candidate, which one worker measures.
        weights: Digest of the model, by which its outputs are shared.
        more: As for `Bench`.
    """

    def __init__(
        self,
        model: nn.Module,
        image_source: ImageSource,
        *,
        engine: EngineName = EAGER,
        shared: Path | None = None,
        weights: str = "",
        **more: Any,
    ) -> None:
        super().__init__(model, image_source, **more)
        self._engine, self._shared, self._weights = engine, shared, weights

    @property
    def inference_model(self) -> InferenceModel:
        """The model prepared for many passes, by the engine of the run."""
        if self._inference_model is None:
            prepared = super().inference_model
            if self._engine == OPENVINO:
                prepared = compiled(prepared, self.images(View()).images)
            self._inference_model = prepared
        return self._inference_model

    def _forward(self, view: View) -> Outputs:
        if self._shared is None:
            return super()._forward(view)
        path = self._shared / f"{self._name(view)}.npz"
        outputs = self._read(path, view)
        if outputs is not None:
            return outputs
        with exclusive(self._shared, path.stem):
            outputs = self._read(path, view)  # another worker may have computed it meanwhile
            if outputs is None:
                outputs = super()._forward(view)
                if (outputs.features is not None) == self._takes_features(view):
                    _write(path, outputs)
        return outputs

    def _name(self, view: View) -> str:
        """Digest of all that the outputs depend on within a run."""
        content = {
            "weights": self._weights,
            "images": self.image_source.digest(view),
            "features": self._takes_features(view),
            "batch_size": self.batch_size,
        }
        return digest_of(content)

    def _read(self, path: Path, view: View) -> Outputs | None:
        """The outputs in a file; ``None`` where it is missing or damaged."""
        try:
            with np.load(path) as arrays:
                return Outputs(arrays["logits"], self.images(view).labels, arrays.get("features"))
        except (OSError, ValueError, KeyError, EOFError):
            return None


class StageBench(RunBench):
    """The bench of a network on the images of a stage, which shares the prepared network with its whole bench.

    Args:
        bench: The network's bench on all images.
        image_source: The images of the stage.
        whole: Image sets that the run passes as a whole anyway: their outputs are taken from there.
        more: As for `RunBench`.
    """

    def __init__(
        self, bench: Bench, image_source: StageSource, *, whole: Collection[View] = (), **more: Any
    ) -> None:
        super().__init__(bench.network, image_source, **more)
        self._bench, self._rows, self._whole = bench, image_source.rows, whole

    @property
    def inference_model(self) -> InferenceModel:
        """The prepared network of the whole bench."""
        return self._bench.inference_model

    def _forward(self, view: View) -> Outputs:
        if view.transform is None and (view in self._whole or self._bench.has_outputs(view)):
            return Outputs(self._bench.outputs(view).logits[self._rows], self.images(view).labels)
        return super()._forward(view)


def _write(path: Path, outputs: Outputs) -> None:
    """Writes outputs; where the disk is nearly full, each worker computes them."""
    arrays = {"logits": outputs.logits}
    if outputs.features is not None:
        arrays["features"] = outputs.features
    if not has_room(path.parent, sum(values.nbytes for values in arrays.values())):
        return
    try:
        with atomic_path(path, durable=False) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its keywords are arrays
    except StoreError as error:
        log.info("outputs stay in memory: %s", error)
