"""The bench of a run: its passes are the engine's, and those of a parent serve all workers, and later runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench, Outputs
from evalsuite.execution.parent_cache import Arrays, ParentCache, from_arrays, persistent, to_arrays
from evalsuite.models.engines import EAGER, OPENVINO, EngineName, compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import nn

    from evalsuite.datasets.source import ImageSource
    from evalsuite.models.inference import InferenceModel

T = TypeVar("T")


class RunBench(Bench):
    """A bench whose forward passes an engine computes, and whose outputs other workers and runs may have computed.

    Args:
        model: As for `Bench`.
        image_source: As for `Bench`.
        engine: Of the run.
        cache: Of what parents computed; ``None`` for a candidate, which one worker measures.
        weights: Digest of the model, by which its outputs are shared.
        more: As for `Bench`.
    """

    def __init__(
        self,
        model: nn.Module,
        image_source: ImageSource,
        *,
        engine: EngineName = EAGER,
        cache: ParentCache | None = None,
        weights: str = "",
        **more: Any,
    ) -> None:
        super().__init__(model, image_source, **more)
        self._engine, self._cache, self._weights = engine, cache, weights
        self.test = ""  # digest of the test that is measured, with its images and code

    @property
    def inference_model(self) -> InferenceModel:
        """The model prepared for many passes, by the engine of the run."""
        if self._inference_model is None:
            prepared = super().inference_model
            if self._engine == OPENVINO:
                prepared = compiled(prepared, self.images(View()).images)
            self._inference_model = prepared
        return self._inference_model

    def memoise(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Returns a result as `Bench.memoise` does; one that is arrays serves all workers, and later runs.

        Args:
            key: As for `Bench.memoise`; results are found by it, the model, and the test that is measured.
            compute: As for `Bench.memoise`.
        """
        return super().memoise(key, lambda: self._shared_result(key, compute))

    def _shared_result(self, key: Hashable, compute: Callable[[], T]) -> T:
        found_again = persistent(key)
        if self._cache is None or not self.test or not found_again:
            return compute()
        computed: list[T] = []

        def result() -> tuple[Arrays, bool]:
            computed.append(compute())
            arrays = to_arrays(computed[0])
            return arrays or {}, arrays is not None

        name = self._cache.name({"weights": self._weights, "test": self.test, "key": found_again})
        arrays = self._cache.arrays(name, result)
        return computed[0] if computed else cast("T", from_arrays(arrays))

    def _forward(self, view: View) -> Outputs:
        if self._cache is None:
            return super()._forward(view)
        images, wanted = self.images(view), self._takes_features(view)

        def outputs() -> tuple[Arrays, bool]:
            computed = super(RunBench, self)._forward(view)
            arrays = {"logits": computed.logits}
            if computed.features is not None:
                arrays["features"] = computed.features
            return arrays, ("features" in arrays) == wanted

        def accepts(arrays: Arrays) -> bool:
            return "logits" in arrays and len(arrays["logits"]) == len(images.images)

        arrays = self._cache.arrays(self._cache.name(self._inputs(view)), outputs, accepts=accepts)
        return Outputs(arrays["logits"], images.labels, arrays.get("features"))

    def _inputs(self, view: View) -> dict[str, object]:
        """All that the outputs depend on beside the environment of the run."""
        return {
            "weights": self._weights,
            "images": self.image_source.digest(view),
            "features": self._takes_features(view),
            "batch_size": self.batch_size,
        }
