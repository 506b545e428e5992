"""Width inference: networks take the widths of their weights, and a forward pass verifies that these fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from evalsuite.errors import CheckpointError, first_line
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.checkpoints.state_dict_keys import match_keys
from evalsuite.models.inference import evaluation_mode, temporary_hooks
from evalsuite.models.surgery.fx_graph import has_hooks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def resize_like(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Changes the layers of `model` in place to the widths of `weights`.

    Only shapes are taken; load the values afterwards with `load_weights`, which also names layers that could not
    be resized: those with kernels of another size, and missing ones. A depthwise convolution gets as many groups
    as it has channels left; any other grouped convolution keeps the number of its groups.

    Args:
        model: Freshly built; resized layers are left without meaningful values.
        weights: A state dict of a model of the same architecture with fewer (or more) channels.

    Returns:
        Names of the layers that were changed.
    """
    resized: list[str] = []
    network = unwrap_model(model)
    weight_shapes = {name: tensor.shape for name, tensor in match_keys(weights, network.state_dict()).items()}
    for name, module in network.named_modules():
        shapes = {
            key: weight_shapes.get(f"{name}.{key}".lstrip("."), tensor.shape)
            for key, tensor in layer_tensors(module)
        }
        is_changed = any(shapes[key] != tensor.shape for key, tensor in layer_tensors(module))
        if is_changed and _is_resizable(module, shapes):
            _resize(module, shapes)
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
    recorder = _WidthRecorder()
    hooks = temporary_hooks(
        handle
        for name, module in unwrap_model(model).named_modules()
        for handle in (
            module.register_forward_pre_hook(_WidthCheck(recorder, name)),
            module.register_forward_hook(recorder.leave),
        )
    )
    shape = "x".join(map(str, image_shape))
    try:
        with hooks, evaluation_mode(model), torch.inference_mode():
            parameter = next(model.parameters(), torch.empty(0))
            output = model(parameter.new_full((2, *image_shape), 0.5))
    except CheckpointError:
        raise
    except Exception as error:  # the network's own code may fail in any way
        raise CheckpointError(
            f"the network fails on images of {shape} in {recorder.place()} "
            f"({first_line(error)}); expected weights of this architecture whose "
            "neighbouring layers were cut alike, and images of a size that it takes"
        ) from error
    if not isinstance(output, Tensor) or output.shape != (2, classes):
        returned = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise CheckpointError(
            f"the network returns {returned} for 2 images of {shape}, expected logits {(2, classes)}: "
            "name the architecture and the number of classes that the weights were trained with"
        )


def layer_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters and buffers of `module` itself, by name."""
    yield from [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replaces the parameter or buffer `name` of `module` by `value`."""
    old = getattr(module, name)
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad) if is_parameter else value)


def update_channel_counts(module: nn.Module) -> None:
    """Sets a layer's attributes (`in_channels`, `groups`, ...) to the shapes of its tensors."""
    weight = next((tensor for _, tensor in layer_tensors(module)), None)
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
    elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        module.embed_dim = module.kdim = module.vdim = module.in_proj_weight.shape[1]
    elif hasattr(module, "class_token") and hasattr(module, "hidden_dim"):  # torchvision's vision transformer
        setattr(module, "hidden_dim", module.get_parameter("class_token").shape[-1])  # noqa: B010  # it has no type


class _WidthRecorder:
    """A record of a forward pass: the modules that are running, and the last that has finished."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.last = "the images"

    def leave(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        """Records that the innermost module has finished."""
        self.last = self.running.pop()

    def place(self) -> str:
        """Returns the innermost running module and the one before it, for an error message."""
        inside = next((name for name in reversed(self.running) if name), "")
        return f"{inside or 'its forward pass'}, behind {self.last}"


class _WidthCheck:
    """A hook before the module called `name`, which compares the width of its input with that of the module."""

    def __init__(self, recorder: _WidthRecorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def __call__(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        self.recorder.running.append(self.name)
        expected = _input_width(module)
        maps = inputs[0] if inputs else None
        if expected is None or not isinstance(maps, Tensor):
            return
        width = maps.shape[-1 if isinstance(module, nn.Linear) else 1]
        if width != expected:
            raise CheckpointError(
                f"the widths in the file do not fit together: {self.name} takes {expected} channels, but "
                f"{width} arrive from {self.recorder.last}; expected a network of this architecture whose "
                "neighbouring layers were cut alike"
            )


def _input_width(module: nn.Module) -> int | None:
    """Returns the number of channels that a layer takes; ``None`` if it has none of its own."""
    if isinstance(module, _ConvNd):
        return module.in_channels
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.num_features if isinstance(module, nn.BatchNorm2d) else None


def _is_resizable(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Returns whether the module computes from its own tensors, and only its numbers of channels differ."""
    if has_hooks(module) or isinstance(module, _ConvTransposeNd):
        return False
    kernel = 2 if isinstance(module, _ConvNd) else None  # its first dimension, behind those of the channels
    for name, tensor in layer_tensors(module):
        shape = tuple(shapes[name])
        if len(shape) != tensor.dim() or 0 in shape:
            return False
        if kernel is not None and tuple(tensor.shape[kernel:]) != shape[kernel:]:
            return False
    return True


def _resize(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    for name, tensor in [*layer_tensors(module)]:
        if tensor.shape != shapes[name]:
            replace_tensor(module, name, tensor.new_zeros(tuple(shapes[name])))
    update_channel_counts(module)
