"""What a whole program shows of itself: the record that readers of its formats fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSummary:
    """Is what can be told of a program without running it.

    Attributes:
        opset: Sets of operators and their versions.
        inputs: Name, type and shape of each.
        outputs: The same.
        operators: Kinds of operator to how many there are.
        tensors: How many the file holds; statistics and constants are among them.
        parameters: Floating-point tensors by name, without running statistics; ``None`` if only running the
            program tells.
        layers: Weights of convolutions and linear layers by name: outputs, inputs, kernel.
        notes: Sentences on what cannot be told.
    """

    opset: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    tensors: int = 0
    parameters: Mapping[str, Tensor] | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
