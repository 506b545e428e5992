"""Networks that take the widths of their weights, and the proof that those widths fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import core
from evalsuite.models.checkpoints.reading import matched
from evalsuite.models.inference import evaluation_mode
from evalsuite.models.surgery.graph import hooked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def resize_to(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Changes the layers of `model` in place to the widths of `weights`.

    Only shapes are taken; load the values afterwards with `load_weights`, which also names what could not be
    resized: kernels of another size, layers that are missing. A depthwise convolution gets as many groups as
    it has channels left; any other grouped convolution keeps the number of its groups.

    Args:
        model: Freshly built; resized layers are left without meaningful values.
        weights: A state dict of a model of the same architecture with fewer (or more) channels.

    Returns:
        Names of the layers that were changed.
    """
    resized: list[str] = []
    network = core(model)
    shapes = {name: tensor.shape for name, tensor in matched(weights, network.state_dict()).items()}
    for name, module in network.named_modules():
        own = {key: shapes.get(f"{name}.{key}".lstrip("."), tensor.shape) for key, tensor in tensors(module)}
        if any(own[key] != tensor.shape for key, tensor in tensors(module)) and _resizable(module, own):
            _resize(module, own)
            resized.append(name)
    return tuple(resized)


def check_widths(model: nn.Module, image_shape: Sequence[int], *, classes: int) -> None:
    """Checks by a forward pass that the widths of all layers fit together.

    Args:
        model: Takes float images in [0, 1]; it is left as it was.
        image_shape: Of one image, (C, H, W).
        classes: Number of logits that are expected.

    Raises:
        CheckpointError: Naming the first layer that does not fit.
    """
    watch = _Watch()
    handles = [
        handle
        for name, module in core(model).named_modules()
        for handle in (
            module.register_forward_pre_hook(watch.entering(name)),
            module.register_forward_hook(watch.leaving),
        )
    ]
    shape = "x".join(map(str, image_shape))
    try:
        with evaluation_mode(model), torch.inference_mode():
            parameter = next(model.parameters(), torch.empty(0))
            output = model(parameter.new_full((2, *image_shape), 0.5))
    except CheckpointError:
        raise
    except Exception as error:  # the network's own code may fail in any way
        raise CheckpointError(
            f"the network fails on images of {shape} in {watch.place()} "
            f"({str(error).strip().partition(chr(10))[0]}); expected weights of this architecture whose "
            "neighbouring layers were cut alike, and images of a size that it takes"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, Tensor) or output.shape != (2, classes):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise CheckpointError(
            f"the network returns {found} for 2 images of {shape}, expected logits {(2, classes)}: "
            "name the architecture and the number of classes that the weights were trained with"
        )


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters and buffers of `module` itself, by name."""
    yield from [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Makes `value` the parameter or buffer `name` of `module`."""
    old = getattr(module, name)
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad) if is_parameter else value)


def count_channels(module: nn.Module) -> None:
    """Writes the shapes of a layer's tensors into its attributes."""
    weight = next((tensor for _, tensor in tensors(module)), None)
    if weight is None:
        return
    if isinstance(module, _ConvNd):
        per_output = module.out_channels // module.groups
        depthwise = module.groups == module.in_channels > 1 and weight.shape[1] == 1
        if depthwise and weight.shape[0] % per_output == 0:
            module.groups = weight.shape[0] // per_output
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _NormBase):
        module.num_features = len(weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(weight)


class _Watch:
    """Follows a forward pass: which modules are running, and whether what arrives fits them."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.last = "the images"

    def entering(self, name: str) -> _Entering:
        return _Entering(self, name)

    def leaving(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self.last = self.running.pop()

    def place(self) -> str:
        inside = next((name for name in reversed(self.running) if name), "")
        return f"{inside or 'its forward pass'}, behind {self.last}"


class _Entering:
    """Is what happens before the module called `name` runs."""

    def __init__(self, watch: _Watch, name: str) -> None:
        self.watch = watch
        self.name = name

    def __call__(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        self.watch.running.append(self.name)
        expected = _width(module)
        maps = inputs[0] if inputs else None
        if expected is None or not isinstance(maps, Tensor):
            return
        arriving = maps.shape[-1 if isinstance(module, nn.Linear) else 1]
        if arriving != expected:
            raise CheckpointError(
                f"the widths in the file do not fit together: {self.name} takes {expected} channels, but "
                f"{arriving} arrive from {self.watch.last}; expected a network of this architecture whose "
                "neighbouring layers were cut alike"
            )


def _width(module: nn.Module) -> int | None:
    """Number of channels that a layer takes."""
    if isinstance(module, _ConvNd):
        return module.in_channels
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.num_features if isinstance(module, nn.BatchNorm2d) else None


def _resizable(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether the module computes from its own tensors, and only its numbers of channels differ."""
    if hooked(module) or isinstance(module, _ConvTransposeNd):
        return False
    first = 2 if isinstance(module, _ConvNd) else None  # the kernel's size stands behind the channels
    for name, tensor in tensors(module):
        shape = tuple(shapes[name])
        if len(shape) != tensor.dim() or 0 in shape:
            return False
        if first is not None and tuple(tensor.shape[first:]) != shape[first:]:
            return False
    return True


def _resize(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    for name, tensor in [*tensors(module)]:
        if tensor.shape != shapes[name]:
            replace_tensor(module, name, tensor.new_zeros(tuple(shapes[name])))
    count_channels(module)
