"""Multiply-accumulates of a forward pass: those of layers, and of matrix products outside of them, as in attention."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from evalsuite.models.inference import evaluation_mode, temporary_hooks

LAYERS = (nn.Conv2d, nn.Linear)
"""Layers that are counted by their output: each weight is multiplied once at each output position."""

SMALL = 128 << 20
"""Bytes of weights up to which one image is passed for real: those of a ResNet-50."""

log = logging.getLogger(__name__)
_ATEN = torch.ops.aten
_FACTORS: Mapping[Any, tuple[int, int]] = {
    _ATEN.mm.default: (0, 1),
    _ATEN.mv.default: (0, 1),
    _ATEN.bmm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.baddbmm.default: (1, 2),
}
"""Matrix products to the places of their factors; all others (matmul, einsum, attention) become these."""


@dataclass(frozen=True, slots=True)
class Product:
    """Multiply-accumulates of one call.

    Attributes:
        macs: All of them.
        macs_nonzero: Without those by a weight that is zero; the products of two activations are all counted.
        is_layer: Whether a convolution or linear layer makes them.
    """

    macs: int
    macs_nonzero: int
    is_layer: bool


def products(model: nn.Module, image_shape: Sequence[int]) -> list[Product]:
    """Returns the products of a forward pass of one image; those of large networks are not computed where possible.

    Norms, activations, biases and softmax are not counted, as in torchvision's published numbers.

    Args:
        model: Takes float images; it is left as it was.
        image_shape: (C, H, W).
    """
    if not _has_small_numbers(model):
        try:
            twin, originals = _without_memory(model)
            return _counted(twin, image_shape, originals)
        except Exception:  # code of the network that needs numbers, or cannot be copied: it is run for real
            log.debug("the network has no copy without numbers", exc_info=True)
    tensors = [*model.parameters(), *model.buffers()]
    return _counted(model, image_shape, {_storage(tensor): tensor for tensor in tensors})


def _has_small_numbers(model: nn.Module) -> bool:
    """Whether a pass takes less time than importing torch's compiler, which tensors without numbers need: seconds."""
    weights = [*model.parameters()]
    return not any(weight.is_meta for weight in weights) and sum(weight.nbytes for weight in weights) <= SMALL


def _without_memory(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A copy of a model whose tensors have shapes but no numbers, and the tensors that they stand for."""
    twins: dict[int, Any] = {}
    originals: dict[int, Tensor] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        twin = tensor.detach().to("meta")
        originals[_storage(twin)] = tensor
        twins[id(tensor)] = nn.Parameter(twin, False) if isinstance(tensor, nn.Parameter) else twin
    return copy.deepcopy(model, twins), originals


def _counted(model: nn.Module, image_shape: Sequence[int], originals: Mapping[int, Tensor]) -> list[Product]:
    counter = _Counter(originals)
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    before = temporary_hooks(layer.register_forward_pre_hook(counter.enter) for layer in layers)
    after = temporary_hooks(layer.register_forward_hook(counter.leave) for layer in layers)
    image = next(model.parameters()).new_zeros((1, *image_shape))
    with before, after, evaluation_mode(model), torch.no_grad(), _plain_attention(), counter:
        model(image)
    return counter.products


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Lets attention be computed by matrix products that can be seen, instead of one fused kernel."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Records products, those inside of a layer as the layer's.

    Args:
        originals: Storages to the tensors whose zeros count.
    """

    def __init__(self, originals: Mapping[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.originals = originals
        self.products: list[Product] = []
        self._depth = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch from importing its compiler, which takes seconds, to tell it that it has nothing to compile."""
        return False

    def enter(self, _: nn.Module, __: object) -> None:
        """A layer's forward pass begins."""
        self._depth += 1

    def leave(self, layer: nn.Module, _: object, output: Tensor) -> None:
        """A layer's forward pass has ended."""
        self._depth -= 1
        weight = layer.get_parameter("weight")
        self._record(output.numel() // weight.shape[0], weight, is_layer=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._depth:
            return output
        if func in _FACTORS:
            self._multiply(*(args[place] for place in _FACTORS[func]))
        elif func is _ATEN.convolution.default:
            maps, weight, transposed = args[0], args[1], args[6]
            self._record((maps if transposed else output).numel() // weight.shape[0], weight)
        return output

    def _multiply(self, left: Tensor, right: Tensor) -> None:
        """Records a product of matrices (..., M, K) and (..., K, N), or a vector (K,)."""
        columns = right.shape[-1] if right.dim() > 1 else 1
        weight = next((factor for factor in (right, left) if _storage(factor) in self.originals), None)
        macs = left.numel() * columns
        if weight is None:
            self.products.append(Product(macs, macs, is_layer=False))
        else:
            self._record(macs // weight.numel(), weight)

    def _record(self, positions: int, weight: Tensor, *, is_layer: bool = False) -> None:
        """Records that each number of a weight, or of a view of one, is multiplied at so many positions."""
        original = self.originals.get(_storage(weight))
        nonzero = weight.numel()
        if original is not None and not original.is_meta:
            view = original.detach().as_strided(weight.size(), weight.stride(), weight.storage_offset())
            nonzero = int(view.count_nonzero())
        self.products.append(Product(positions * weight.numel(), positions * nonzero, is_layer))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
