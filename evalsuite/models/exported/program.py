"""A whole program as a module: what its input must be, what its loader returns, and the interface of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, InvalidModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHANNELS = (1, 3)  # of an image whose number of channels is inferred from its shape alone
_DTYPES = (torch.float32, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The input of a program.

    Attributes:
        shape: (C, H, W) of an image; ``None`` where the program does not declare it, or takes any size.
        min_batch: Least images in a batch.
        max_batch: Most images in a batch; ``None`` for any number.
        dtype: Of the images; float32, float16 or float64.
    """

    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    min_batch: int = 1
    max_batch: int | None = None
    dtype: torch.dtype = torch.float32

    @property
    def single_image(self) -> InputSpec:
        """The same input, but one image in each batch."""
        return replace(self, min_batch=1, max_batch=1)

    def resolve_shape(self, image_shape: Sequence[int] | None) -> tuple[int, int, int] | None:
        """Returns the shape of an image that the program takes; ``None`` if neither declares all of it.

        Args:
            image_shape: (C, H, W) of the images of the data set; ``None`` if unknown.

        Raises:
            CheckpointError: If the program takes images of another shape.
        """
        if image_shape is not None and any(
            declared not in (None, size) for declared, size in zip(self.shape, image_shape, strict=True)
        ):
            raise CheckpointError(
                f"takes images of shape {_text(self.shape)}, but those of the data set are {_text(image_shape)}: "
                "export the model for these images"
            )
        channels, height, width = self.shape if image_shape is None else image_shape
        if channels is None or height is None or width is None:
            return None
        return channels, height, width


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """The result of loading a file.

    Attributes:
        network: Takes batches as `input_spec` declares them and returns logits.
        input_spec: Its input.
        gradient_obstacle: Why there are no gradients, as far as the loader knows; empty if there may be some.
        gradient_source: Half a sentence on what computes the gradients, for the report; empty if the program does.
        dynamic: Whether it is quantised dynamically, by the largest activation of a batch.
    """

    network: nn.Module
    input_spec: InputSpec
    gradient_obstacle: str = ""
    gradient_source: str = ""
    dynamic: bool = False


class ExportedProgram(nn.Module):
    """A whole program with the interface of a network: float images in, float32 logits out.

    The program gets images in batches of the sizes that it takes; a batch that is too small is filled up with its last
    image. Gradients with respect to the images pass through.

    Attributes:
        format: ``torch.export``, ``TorchScript`` or ``ONNX``.
        notes: Sentences for the report.
        gradient_obstacle: Why it has no gradients, so that white-box attacks cannot run; empty if it has.
    """

    def __init__(self, loaded: LoadedProgram, program_format: str) -> None:
        super().__init__()
        self.network = loaded.network
        self.input_spec = loaded.input_spec
        self.format = program_format
        self.notes: tuple[str, ...] = ()
        self.gradient_obstacle = loaded.gradient_obstacle
        self.requires_grad_(False).train(mode=False)

    def train(self, mode: bool = True) -> ExportedProgram:
        """Sets the mode of this module alone: that of a program was fixed when it was exported."""
        self.training = mode
        for part in self.network.modules():
            part.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, K) of images (N, C, H, W).

        Raises:
            InvalidModelError: If the program returns anything else than one row per image.
        """
        batch = images.to(self.input_spec.dtype).contiguous()
        parts = torch.split(batch, self.input_spec.max_batch or len(batch))
        outputs = [self._run_batch(part) for part in parts]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).float()

    def _run_batch(self, images: Tensor) -> Tensor:
        missing = self.input_spec.min_batch - len(images)
        batch = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing > 0 else images
        output = self.network(batch)
        if not isinstance(output, Tensor):
            raise InvalidModelError(
                f"the program returns a {type(output).__name__}, expected a tensor of logits (N, K): "
                "export it with this output alone"
            )
        if output.dim() != 2 or len(output) != len(batch):
            raise InvalidModelError(
                f"the program returns shape {tuple(output.shape)} for {len(batch)} images, expected one row "
                "of logits for each (N, K): export it with a dynamic batch size"
            )
        return output[: len(images)]


def program_weights(network: nn.Module) -> list[Tensor]:
    """Returns the numbers of a program that count as its parameters, as far as it shows them.

    Parameters, and tables of eight-bit integers, whose zeros are zeros: quantised weights that torch keeps beside
    their scales. Quantised tensors of torchao count as the numbers that they stand for. What a program packs it does
    not show: then nothing is returned.

    Args:
        network: The program.
    """
    shown: list[Tensor] = []
    for parameter in network.parameters():
        if type(parameter) in (Tensor, nn.Parameter):
            shown.append(parameter.detach())
            continue
        try:
            shown.append(parameter.dequantize().detach())
        except Exception:  # packed numbers of another library: its own code, which may fail in any way
            return []
    tables = (buffer for buffer in network.buffers() if buffer.dtype == torch.int8 and buffer.dim() > 1)
    return [*shown, *tables]


def check_output_operator(name: str) -> None:
    """Refuses a program whose last operator returns probabilities.

    Args:
        name: Of the operator, in any spelling of its library: ``Softmax``, ``aten.sigmoid.default``.

    Raises:
        CheckpointError: If it is a softmax or a sigmoid.
    """
    words = name.lower().replace("_", "").replace("qlinear", "").replace("::", ".").split(".")
    if {"softmax", "sigmoid", "hardsigmoid"} & set(words):
        raise CheckpointError(
            f"returns probabilities: its last operator is {name}, expected logits; export it without its "
            f"{'softmax' if 'softmax' in words else 'sigmoid'}"
        )


def declared_input_spec(sizes: Sequence[int | range | None], dtype: torch.dtype | str) -> InputSpec:
    """Returns the input of a program that declares it.

    Args:
        sizes: Of each dimension of its input: a number, a range of them, or ``None`` for any.
        dtype: Of its input; text if torch has no such numbers.

    Raises:
        CheckpointError: If it does not take floating-point images, channels first.
    """
    if dtype not in _DTYPES or isinstance(dtype, str):
        raise CheckpointError(
            f"takes {dtype}, expected float images: export the model without the conversion"
        )
    if len(sizes) != 4:
        raise CheckpointError(
            f"takes an input with {len(sizes)} dimensions, {_text(sizes)}, expected images (N, C, H, W)"
        )
    batch, channels, height, width = sizes
    if channels not in (None, *_CHANNELS) and width in _CHANNELS:
        raise CheckpointError(
            f"takes images of shape {_text(sizes)}, which has the channels last, expected (N, C, H, W): "
            "export the model with channels first, or put a transposition in front"
        )
    min_batch, max_batch = (batch, batch) if isinstance(batch, int) else _batch_limits(batch)
    shape = tuple(size if isinstance(size, int) else None for size in (channels, height, width))
    return InputSpec((shape[0], shape[1], shape[2]), min_batch, max_batch, dtype)


def _batch_limits(batch: range | None) -> tuple[int, int | None]:
    """Returns the smallest and the largest batch; a range that ends at the largest index has no end."""
    if batch is None:
        return 1, None
    return max(batch.start, 1), None if batch.stop > torch.iinfo(torch.int32).max else batch.stop - 1


def _text(sizes: Sequence[int | range | None]) -> str:
    return f"({', '.join(str(size) if isinstance(size, int) else 'any' for size in sizes)})"
