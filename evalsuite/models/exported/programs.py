"""Whole programs that somebody else exported: torch.export, TorchScript, ONNX.

An ONNX file is data: a graph of known operators, and tensors. The other two are programs whose loaders may run
what the file brings, so they are taken only from those who say that they trust it.
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evalsuite.errors import CheckpointError, EvalsuiteError
from evalsuite.models.exported.input_spec import ExportedProgram, Loaded
from evalsuite.models.exported.onnx import load_onnx
from evalsuite.models.exported.torch_programs import load_exported, load_scripted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

EXPORTED, SCRIPTED, ONNX = "torch.export", "TorchScript", "ONNX"
FORMATS = (EXPORTED, SCRIPTED, ONNX)
"""Formats of programs."""

AGREEMENT = 1e-4
"""How far outputs with and without gradients may lie apart, relative to the largest logit if that is above 1."""

_PROBE = 4  # images that a program sees before it is believed
_SPARE = 2**26  # bytes that an archive may unpack to beyond twice its size; torch does not compress
_END, _END_SIZE = b"PK\x05\x06", 22  # what an archive without a comment ends with
_ONNX_FIELDS = {0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42}  # what may follow the version in a ModelProto


def program_format(path: Path) -> str | None:
    """Returns which of `FORMATS` a file is, told by its content; ``None`` if it is none of them.

    Nothing in the file is run or unpacked.

    Raises:
        CheckpointError: If there is no such file or it cannot be read.
    """
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no such file"
        raise CheckpointError(f"program {path}: found {found}, expected one of {', '.join(FORMATS)}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
            if head[:4] == b"PK\x03\x04":
                file.seek(-_END_SIZE, 2)
                if file.read(4) != _END:  # the end of an archive inside it would do for zipfile
                    raise zipfile.BadZipFile
                return _archive_format(path)
    except OSError as error:
        raise CheckpointError(f"program {path} cannot be read: {error}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"program {path} is a truncated or damaged archive: copy or download it again"
        ) from error
    safetensors = head[8:9] == b"{"
    is_onnx = len(head) > 2 and head[0] == 0x08 and 2 < head[1] < 0x20 and head[2] in _ONNX_FIELDS
    return ONNX if (is_onnx and not safetensors) or path.suffix == ".onnx" else None


def load_program(path: Path, *, trust: bool, image_shape: Sequence[int] | None = None) -> ExportedProgram:
    """Returns the network that a file holds as a whole program, after trying it on a few images.

    Args:
        path: A file of one of `FORMATS`, told by its content.
        trust: Whether to take programs whose loaders may run code that the file brings; ONNX needs none.
        image_shape: (C, H, W) of the images that it will see. Without it, a program that does not declare
            its images is not tried, and one in ONNX has no gradients.

    Returns:
        Float images (N, C, H, W), in [0, 1] or normalised, whatever the program was exported for, to logits
        (N, K); in evaluation mode, on the processor.

    Raises:
        CheckpointError: If the file is missing, damaged, not trusted, or no classifier of such images; nothing
            else leaves.
    """
    kind = program_format(path)
    if kind is None:
        raise CheckpointError(
            f"program {path} is none of {', '.join(FORMATS)}; if it holds weights, name their architecture"
        )
    if kind != ONNX and not trust:
        raise CheckpointError(
            f"program {path} is a {kind} program: loading it may run code that the file brings; give "
            "--trust-program if you trust where it comes from, or ask for a state dict, safetensors or ONNX"
        )
    try:
        if kind != ONNX:
            _check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the loaders warn of is for those who export
            return _tried(_LOADERS[kind](path), kind, image_shape)
    except EvalsuiteError as error:
        raise CheckpointError(f"program {path} {_bare(str(error))}") from error
    except Exception as error:  # loaders of other people's formats fail in any way
        raise CheckpointError(
            f"program {path} is truncated, damaged or no {kind} program ({_reason(error)}): export it again"
        ) from error


def _archive_format(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > 2 * path.stat().st_size + _SPARE:
        raise CheckpointError(
            f"program {path} would unpack to {unpacked:,} bytes, many times its size, which torch never writes: "
            "found a zip bomb or a repacked archive, export the model again"
        )
    names = {member.filename for member in members}
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("models/") for name in inner) or "serialized_exported_program.json" in names:
        return EXPORTED
    return SCRIPTED if "constants.pkl" in inner else None


def _check_sums(path: Path) -> None:
    """The loaders do not look at them, and TorchScript takes the process down when a tensor is too short."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f"is damaged: {damaged!r} does not have its checksum; copy or download it again"
        )


_LOADERS: Mapping[str, Callable[[Path], Loaded]] = {
    EXPORTED: load_exported,
    SCRIPTED: load_scripted,
    ONNX: load_onnx,
}


def _tried(loaded: Loaded, kind: str, image_shape: Sequence[int] | None) -> ExportedProgram:
    """The program after a few images: it answers, for each image by itself, and its gradients are there."""
    shape, gap = loaded.intake.agreed(image_shape), 0.0
    program, obstacle = ExportedProgram(loaded, kind), loaded.obstacle
    if shape is not None:
        images = torch.rand((_PROBE, *shape), generator=torch.Generator().manual_seed(0))
        program, answer = _answering(loaded, kind, images)
        if not obstacle:
            obstacle, gap = _gradient_obstacle(program, images, answer)
    elif kind == ONNX:
        obstacle = obstacle or "the size of its images is unknown, so its conversion cannot be checked"
    program.obstacle = obstacle
    program.notes = tuple(_notes(program, loaded, gap))
    return program


def _answering(loaded: Loaded, kind: str, images: Tensor) -> tuple[ExportedProgram, Tensor]:
    """The program with batches that it can take, and its answer to the images."""
    program = ExportedProgram(loaded, kind)
    try:
        return program, _answer(program, images)
    except CheckpointError:
        raise
    except Exception:  # perhaps a batch size inside that it does not declare
        if loaded.intake.largest is not None or loaded.intake.smallest > 1:
            raise
        alone = ExportedProgram(replace(loaded, intake=loaded.intake.one_by_one), kind)
        try:
            return alone, _answer(alone, images)
        except Exception:  # noqa: S110  # the first failure, with several images, is the one to report
            pass
        raise


def _answer(program: ExportedProgram, images: Tensor) -> Tensor:
    """Logits of the images.

    Raises:
        CheckpointError: If they are none, or depend on chance or on the other images of the batch.
    """
    with torch.inference_mode():
        first: Tensor = program(images)
        second = program(images)
        others = program(torch.cat([images[:1], images[1:].flip(3) / 2]))
    if first.shape[1] < 2 or not bool(first.isfinite().all()):
        raise CheckpointError(
            f"returns {'NaN or infinite logits' if first.shape[1] > 1 else 'one logit per image'}, "
            "expected at least two finite logits for each image"
        )
    scale = max(1.0, float(first.abs().max()))
    if not torch.equal(first, second) or float((first[0] - others[0]).abs().max()) > AGREEMENT * scale:
        raise CheckpointError(
            "answers differently when asked again, or when the other images of a batch change: it was exported "
            "in training mode; call model.eval() before the export"
        )
    return first


def _gradient_obstacle(program: ExportedProgram, images: Tensor, answer: Tensor) -> tuple[str, float]:
    """Why a program has no usable gradients, empty if it has; and how far its outputs with them are off."""
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            asked = images.clone().requires_grad_()
            found = program(asked)
            if not found.requires_grad:
                return "its operations pass none on", 0.0
            (gradient,) = torch.autograd.grad((found * torch.arange(1.0, found.shape[1] + 1)).sum(), asked)
    except Exception as error:
        return f"computing them fails: {_reason(error)}", 0.0
    gap = float((found.detach() - answer).abs().max())
    if not gap <= AGREEMENT * max(1.0, float(answer.abs().max())):
        return f"its outputs change by up to {gap:.2g} when gradients are asked for", gap
    if not bool(gradient.isfinite().all()):
        return "they are not finite", gap
    if not bool(gradient.any()) and not torch.equal(answer, answer[:1].expand_as(answer)):
        return "they are zero everywhere although the outputs change: something rounds", gap
    return "", gap


def _notes(program: ExportedProgram, loaded: Loaded, gap: float) -> list[str]:
    intake = program.intake
    notes = []
    if program.format != ONNX:
        notes.append(f"The model is a {program.format} program, loaded because it was said to be trusted.")
    if intake.largest is not None and intake.largest == intake.smallest:
        count = "one image" if intake.largest == 1 else f"exactly {intake.largest} images"
        notes.append(f"The program takes {count} at a time.")
    if intake.dtype != torch.float32:
        notes.append(f"The program takes its images in {str(intake.dtype).removeprefix('torch.')}.")
    if program.obstacle:
        notes.append(
            f"The model has no gradients ({program.format}: {program.obstacle}): white-box attacks cannot run."
        )
    elif loaded.origin:
        notes.append(f"{loaded.origin}; outputs differ by at most {gap:.1g} on {_PROBE} images.")
    return notes


def _bare(sentence: str) -> str:
    return sentence.removeprefix("the program ")


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
