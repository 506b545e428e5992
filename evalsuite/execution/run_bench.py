"""The bench of a run: its passes are the engine's, and those of a parent serve all workers, and later runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar, cast

from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench, Outputs, ScreenedOutputs
from evalsuite.execution.parent_cache import (
    Arrays,
    ParentCache,
    from_arrays,
    is_arrays,
    outputs_of,
    persistent,
    to_arrays,
)
from evalsuite.metrics.class_rules import scored_logits
from evalsuite.models.engines import EAGER, EngineName, computed_by, half_gradients, half_precision
from evalsuite.models.inference import gradient_obstacle, logits
from evalsuite.models.screening import largest_move, screen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from torch import nn

    from evalsuite.config.suite import Suite
    from evalsuite.datasets.source import ImageSource
    from evalsuite.datasets.stages import StageSource
    from evalsuite.models.inference import InferenceModel
    from evalsuite.types import Array

T = TypeVar("T")
log = logging.getLogger(__name__)


class RunBench(Bench):
    """A bench whose forward passes an engine computes, and whose outputs other workers and runs may have computed.

    Args:
        model: As for `Bench`.
        image_source: As for `Bench`.
        engine: Of the run.
        screened: Image sets that are passed in screened precision.
        half_gradients: Whether iterative attacks follow gradients in bfloat16.
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
        screened: Collection[View] = (),
        half_gradients: bool = False,
        cache: ParentCache | None = None,
        weights: str = "",
        **more: Any,
    ) -> None:
        super().__init__(model, image_source, **more)
        self._engine, self._cache, self._weights = engine, cache, weights
        self._screened, self._half_gradients = frozenset(screened), half_gradients
        self._gradient_model: InferenceModel | None = None
        self._half: InferenceModel | None = None
        self._move: float | None = None  # largest of a logit on clean images
        self.test = ""  # digest of the test that is measured, with its images and code

    @property
    def inference_model(self) -> InferenceModel:
        """The model prepared for many passes, by the engine of the run."""
        if self._inference_model is None:
            self._inference_model = computed_by(
                self._engine, super().inference_model, self.images(View()).images
            )
        return self._inference_model

    @property
    def gradient_model(self) -> InferenceModel:
        """The prepared model in bfloat16 where the run is screened, else as it is."""
        if self._gradient_model is None:
            exact, follows = self.inference_model, self._half_gradients and not gradient_obstacle(self.model)
            self._gradient_model = half_gradients(exact, self.images(View()).images) if follows else exact
        return self._gradient_model

    def is_screened(self, view: View) -> bool:
        """Returns whether `outputs` has the predictions of a view alone."""
        return view in self._screened

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
            return to_arrays(computed[0]), is_arrays(computed[0])

        name = self._cache.name({"weights": self._weights, "test": self.test, "key": found_again})
        arrays = self._cache.arrays(name, result)
        return computed[0] if computed else cast("T", from_arrays(arrays))

    def _forward(self, view: View) -> Outputs:
        if self._cache is None:
            return self._computed(view)
        images, wanted = self.images(view), self._takes_features(view)

        def outputs() -> tuple[Arrays, bool]:
            arrays = to_arrays(self._computed(view), labels=False)
            return arrays, ("features" in arrays) == wanted

        def accepts(arrays: Arrays) -> bool:
            return "logits" in arrays and len(arrays["logits"]) == len(images.images)

        arrays = self._cache.arrays(self._cache.name(self._inputs(view)), outputs, accepts=accepts)
        return outputs_of(arrays, images.labels)

    def _computed(self, view: View) -> Outputs:
        if not self.is_screened(view):
            return super()._forward(view)
        self._check_first()
        images = self.images(view)
        rule = self._rule_beside(images)

        def exact(batch: Array) -> Array:
            return scored_logits(self._logits(batch), rule)

        def half(batch: Array) -> Array:
            return scored_logits(self._half_logits(batch), rule)

        if self._move is None:
            self._move = self._clean_move()
        self.passes[view] += 1
        result = screen(exact, half, images.images, move=self._move)
        return ScreenedOutputs(result.logits, images.labels, again=result.again, changed=result.changed)

    def _clean_move(self) -> float:
        """The largest move of a logit on clean images; 0 where the network does not run in bfloat16."""
        images = self.images(View()).images
        try:
            return largest_move(self._logits, self._half_logits, images)
        except (RuntimeError, TypeError) as error:
            log.info("the network does not run in bfloat16 and is passed in single precision: %s", error)
            self._half = self.inference_model
            return 0.0

    def _half_logits(self, images: Array) -> Array:
        if self._half is None:
            self._half = half_precision(self.inference_model)
        return logits(self._half, images, device=self.device, batch_size=self.batch_size)

    def _inputs(self, view: View) -> dict[str, object]:
        """All that the outputs depend on beside the environment of the run."""
        return {
            "weights": self._weights,
            "images": self.image_source.digest(view),
            "features": self._takes_features(view),
            "batch_size": self.batch_size,
            "screened": self.is_screened(view),
        }


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


def can_be_screened(suite: Suite) -> bool:
    """Returns whether screened precision changes how any test of a suite is computed."""
    return bool(screened_views(suite)) or any(
        config.plugin.takes_gradient_steps for config in suite.evaluators
    )


def screened_views(suite: Suite) -> frozenset[View]:
    """Returns the image sets of which every test of a suite can do with the most likely classes."""
    plugins = [config.plugin for config in suite.evaluators]
    enough = {view for plugin in plugins for view in plugin.predictions}
    more = {
        view
        for plugin in plugins
        for view in (*plugin.needs, *plugin.features)
        if view not in plugin.predictions or view in plugin.features
    }
    return frozenset(enough - more)
