"""The live adapter: a function of the user's own, or of a pruning library, as a producer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from evalsuite.errors import ContractError, SuiteError, first_few, first_line
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.architectures.external import imported_function
from evalsuite.models.cost import count_nonzero
from evalsuite.models.inference import evaluation_mode
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.base import nonzero_masks

_PROBES = 8
"""Images on which outputs with and without masks are compared."""
_TOLERANCE = 1e-4
"""Largest difference of their logits, as a share of the largest logit: masks are applied in the same precision."""


@dataclass(frozen=True)
class PruningData:
    """What a user's function may look at: labelled training images, never augmented, in batches.

    Attributes:
        images: float32 in [0, 1], (N, C, H, W).
        labels: int64, (N,).
        batch_size: Images of a batch.
    """

    images: Tensor
    labels: Tensor
    batch_size: int = 64

    @property
    def example(self) -> Tensor:
        """One image, (1, C, H, W), for tools that trace the network."""
        return self.images[:1]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches of images and labels."""
        yield from zip(
            torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size), strict=True
        )


@dataclass(frozen=True)
class PrunedByFunction(Producer):
    """A user's function as a method: ``function(model, ratio, data)`` returns a pruned model; it runs that code.

    ``model`` is a copy of the parent that takes images in [0, 1], in evaluation mode; ``data`` is a `PruningData`. What
    it returns is checked, measured, retrained and saved like every other candidate: weights that are zero stay zero.
    Masks of `torch.nn.utils.prune` become zeros.

    Attributes:
        target: ``file.py:function`` or ``package.module:function``.
        images: Training images in ``data``.
        retrain: Whether what it returns is retrained by the suite's recipe.
    """

    target: str
    images: int = 512
    retrain: bool = True

    def __post_init__(self) -> None:
        if self.images < 1:
            raise SuiteError(f"function: found images = {self.images}, expected 1 or more")
        imported_function(self.target, label="producer")

    @property
    def code_entries(self) -> tuple[str, ...]:
        """The function's module: its candidates depend on that code."""
        return (imported_function(self.target, label="producer").__module__,)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields what the function makes of the parent at each ratio, retrained.

        Raises:
            ContractError: If the function fails, returns no network of the parent's class, prunes nothing, or sets
                masks that have no effect.
        """
        data = PruningData(*context.batch(self.images, "function"))
        for ratio in ratios:
            model = self._pruned(copy.deepcopy(parent), ratio, data)
            _bake_masks(model, data.images[:_PROBES])
            if count_nonzero(model) >= count_nonzero(parent):
                raise ContractError(
                    f"{self.target} has pruned nothing at ratio {ratio:g}: as many weights as in the parent are nonzero"
                )
            model.requires_grad_(True)
            if self.retrain:
                context.retrain(model, ratio, masks=nonzero_masks(model))
            yield model.eval()

    def _pruned(self, model: nn.Module, ratio: float, data: PruningData) -> nn.Module:
        function = imported_function(self.target, label="producer")
        wrapper = model if isinstance(model, Normalized) else None
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(0)
                pruned = function(model, ratio, data)
        except Exception as error:  # code of other people may fail in any way
            raise ContractError(
                f"{self.target} fails at ratio {ratio:g}: {type(error).__name__}: {first_line(error)}"
            ) from error
        if wrapper is not None and pruned is wrapper.network:
            pruned = wrapper
        if not isinstance(pruned, nn.Module) or (wrapper is not None and not isinstance(pruned, Normalized)):
            raise ContractError(
                f"{self.target} returned {type(pruned).__name__}, expected the model that it was given, pruned"
            )
        return pruned


def masked_layers(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Returns the tensors under a mask of `torch.nn.utils.prune`: name of the layer, layer, name of the tensor."""
    return [
        (name, module, key.removesuffix("_mask"))
        for name, module in model.named_modules()
        for key, _ in module.named_buffers(recurse=False)
        if key.endswith("_mask") and f"{key.removesuffix('_mask')}_orig" in module._parameters
    ]


def _bake_masks(model: nn.Module, images: Tensor) -> None:
    """Replaces masks by zeros, in place, after a check that the model's outputs are those of the masked weights.

    Raises:
        ContractError: If they are not: a layer is read and never called, so that the hook that applies the mask never
            runs.
    """
    masked = masked_layers(model)
    if not masked:
        return
    with evaluation_mode(model), torch.no_grad():
        before = model(images)
        stale = [f"{name}.{key}" for name, module, key in masked if _is_stale(module, key)]
        for _, module, key in masked:
            prune.remove(module, key)  # type: ignore[no-untyped-call]  # torch has no types for it
        after = model(images)
    if float((after - before).abs().max()) > _TOLERANCE * float(after.abs().max()):
        raise ContractError(
            f"masks have no effect on the outputs of this network: {first_few(stale)} is read by the module around it "
            "and never called, so that the mask is not applied again after the weight has changed; call "
            "torch.nn.utils.prune.remove after the last change"
        )


def _is_stale(module: nn.Module, key: str) -> bool:
    """Whether the tensor that is computed with is another than the masked one."""
    masked = getattr(module, f"{key}_orig") * getattr(module, f"{key}_mask")
    return not torch.equal(getattr(module, key), masked)
