"""What is in a file with a whole program, without running anything of it, whether it is trusted or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalsuite.errors import CheckpointError, EvalsuiteError
from evalsuite.models.archives import shown_exported, shown_scripted
from evalsuite.models.inspection import LayerContent, inspect, layer_content
from evalsuite.models.onnx_contents import shown_onnx
from evalsuite.models.programs import EXPORTED, ONNX, SCRIPTED, program_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from evalsuite.models.shown import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramContent:
    """Is what a file with a whole program shows.

    Attributes:
        file: Its name.
        format: One of `evalsuite.models.programs.FORMATS`.
        bytes: Size on disk.
        opset: Sets of operators and their versions; empty where it does not show.
        inputs: Name, type and shape of each; empty where they do not show.
        outputs: The same.
        operators: Kinds of operator to how many there are.
        tensors: How many the file holds, statistics and constants among them.
        parameters: Numbers in floating-point tensors other than running statistics; ``None`` if only running
            the program tells. An exporter may have folded norms into the layers before them.
        nonzero: Those of them that are not exactly zero.
        layers: Weights of convolutions and linear layers; a matrix is turned to outputs and inputs.
        ratio: ``1 - nonzero / nonzero(parent)``; ``None`` without a parent, or if either does not show.
        notes: Sentences on what cannot be told.
    """

    file: str
    format: str
    bytes: int
    opset: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    tensors: int
    parameters: int | None
    nonzero: int | None
    layers: tuple[LayerContent, ...]
    ratio: float | None
    notes: tuple[str, ...]


def is_program(path: Path) -> bool:
    """Returns whether a file is a whole program, told by its content.

    Raises:
        CheckpointError: If it cannot be read.
    """
    return path.is_file() and program_format(path) is not None


def program_content(path: Path, *, parent: Path | None = None, masks: Path | None = None) -> ProgramContent:
    """Returns what is in the program at `path`; `dataclasses.asdict` of it is JSON.

    Args:
        path: A file for which `is_program` is true.
        parent: The dense model, as weights or as a program, to measure the ratio against.
        masks: Of no use to a program; refused.

    Raises:
        CheckpointError: If a file is damaged, or masks are given.
    """
    if masks is not None:
        raise CheckpointError(
            f"program {path} takes no masks: multiply them into the weights before the export"
        )
    kind, shown = _shown(path)
    nonzero = _nonzero(shown)
    before = None if parent is None else _parents(parent)
    return ProgramContent(
        file=path.name,
        format=kind,
        bytes=path.stat().st_size,
        opset=shown.opset,
        inputs=shown.inputs,
        outputs=shown.outputs,
        operators=dict(shown.operators),
        tensors=shown.tensors,
        parameters=None
        if shown.parameters is None
        else sum(one.numel() for one in shown.parameters.values()),
        nonzero=nonzero,
        layers=tuple(layer_content(name, weight) for name, weight in shown.layers.items()),
        ratio=1 - nonzero / before if nonzero is not None and before else None,
        notes=shown.notes,
    )


_READERS: Mapping[str, Callable[[Path], Shown]] = {
    EXPORTED: shown_exported,
    SCRIPTED: shown_scripted,
    ONNX: shown_onnx,
}


def _shown(path: Path) -> tuple[str, Shown]:
    kind = program_format(path)
    if kind is None:
        raise CheckpointError(f"program {path} is none of {', '.join(_READERS)}")
    try:
        return kind, _READERS[kind](path)
    except EvalsuiteError as error:
        raise CheckpointError(f"program {path} {error}") from error
    except Exception as error:  # tables of other people's files are wrong in any way
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"program {path} is truncated, damaged or no {kind} program ({reason}): export it again"
        ) from error


def _nonzero(shown: Shown) -> int | None:
    if shown.parameters is None:
        return None
    return sum(int(one.count_nonzero()) for one in shown.parameters.values())


def _parents(path: Path) -> int | None:
    return _nonzero(_shown(path)[1]) if is_program(path) else inspect(path).nonzero
