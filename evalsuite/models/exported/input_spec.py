"""What a whole program takes and gives: the records that its loaders fill, and the module around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, InvalidModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOURS = (1, 3)  # how many channels an image has when it is told from its shape alone
_DTYPES = (torch.float32, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Is what a program takes.

    Attributes:
        shape: (C, H, W) of an image; ``None`` where the program does not say, or takes any size.
        smallest: Least images in a batch.
        largest: Most images in a batch; ``None`` for any number.
        dtype: Of the images; float32, float16 or float64.
    """

    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    smallest: int = 1
    largest: int | None = None
    dtype: torch.dtype = torch.float32

    @property
    def one_by_one(self) -> InputSpec:
        """The same, but a single image in each batch."""
        return replace(self, smallest=1, largest=1)

    def agreed(self, wanted: Sequence[int] | None) -> tuple[int, int, int] | None:
        """Returns the shape of an image that suits both sides; ``None`` if neither says all of it.

        Raises:
            CheckpointError: If the program takes images of another shape than `wanted`.
        """
        mine = self.shape
        if wanted is not None and any(
            size not in (None, other) for size, other in zip(mine, wanted, strict=True)
        ):
            raise CheckpointError(
                f"takes images of shape {_text(mine)}, but those of the data set are {_text(wanted)}: "
                "export the model for these images"
            )
        channels, height, width = mine if wanted is None else wanted
        if channels is None or height is None or width is None:
            return None
        return channels, height, width


@dataclass(frozen=True, slots=True)
class Loaded:
    """Is what a loader makes of a file.

    Attributes:
        network: Takes batches as `intake` says and returns logits.
        intake: What it takes.
        obstacle: Why there are no gradients, as far as the loader knows; empty if there may be some.
        origin: Half a sentence on where gradients come from, for the report; empty if it goes without saying.
    """

    network: nn.Module
    intake: InputSpec
    obstacle: str = ""
    origin: str = ""


class ExportedProgram(nn.Module):
    """Is a whole program behind the interface of a network: float images in, float32 logits out.

    Images are given to it in batches of the sizes that it takes; where one is too small it is filled up with
    its last image. Gradients with respect to the images pass through.

    Attributes:
        format: Where it comes from: ``torch.export``, ``TorchScript`` or ``ONNX``.
        notes: Sentences for the report.
        obstacle: Why it has no gradients; empty if it has.
    """

    def __init__(self, loaded: Loaded, kind: str) -> None:
        super().__init__()
        self.network = loaded.network
        self.intake = loaded.intake
        self.format = kind
        self.notes: tuple[str, ...] = ()
        self.obstacle = loaded.obstacle
        self.requires_grad_(False).train(mode=False)

    @property
    def differentiable(self) -> bool:
        """Whether white-box attacks can run."""
        return not self.obstacle

    def train(self, mode: bool = True) -> ExportedProgram:
        """Changes nothing inside: the mode of a program was fixed when it was exported."""
        self.training = mode
        for part in self.network.modules():
            part.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, K) of images (N, C, H, W).

        Raises:
            InvalidModelError: If the program returns anything else than one row per image.
        """
        ready = images.to(self.intake.dtype).contiguous()
        outputs = [self._filled(part) for part in torch.split(ready, self.intake.largest or len(ready))]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).float()

    def _filled(self, images: Tensor) -> Tensor:
        missing = self.intake.smallest - len(images)
        batch = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing > 0 else images
        found = self.network(batch)
        if not isinstance(found, Tensor):
            raise InvalidModelError(
                f"the program returns a {type(found).__name__}, expected a tensor of logits (N, K): "
                "export it with this output alone"
            )
        if found.dim() != 2 or len(found) != len(batch):
            raise InvalidModelError(
                f"the program returns shape {tuple(found.shape)} for {len(batch)} images, expected one row "
                "of logits for each (N, K): export it with a dynamic batch size"
            )
        return found[: len(images)]


def input_spec(sizes: Sequence[int | range | None], dtype: torch.dtype | str) -> InputSpec:
    """Returns the intake of a program that declares its input.

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
    if channels not in (None, *_COLOURS) and width in _COLOURS:
        raise CheckpointError(
            f"takes images of shape {_text(sizes)}, which has the channels last, expected (N, C, H, W): "
            "export the model with channels first, or put a transposition in front"
        )
    smallest, largest = (batch, batch) if isinstance(batch, int) else _ends(batch)
    shape = tuple(size if isinstance(size, int) else None for size in (channels, height, width))
    return InputSpec((shape[0], shape[1], shape[2]), smallest, largest, dtype)


def _ends(batch: range | None) -> tuple[int, int | None]:
    """Smallest and largest batch; a range that ends at the largest index has no end."""
    if batch is None:
        return 1, None
    return max(batch.start, 1), None if batch.stop > torch.iinfo(torch.int32).max else batch.stop - 1


def _text(sizes: Sequence[int | range | None]) -> str:
    return f"({', '.join(str(size) if isinstance(size, int) else 'any' for size in sizes)})"
