"""Loading of whole programs from files: torch.export, TorchScript, ONNX.

An ONNX file is data: a graph of standard operators, and tensors. The other two are programs whose loaders may run
code in the file, so they are loaded only if the user declares that they are trusted.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
import zipfile
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, EvalsuiteError, first_line
from evalsuite.models.exported import torch_probe
from evalsuite.models.exported.onnx import load_onnx
from evalsuite.models.exported.program import (
    ExportedProgram,
    InputSpec,
    LoadedProgram,
    check_output_operator,
    declared_input_spec,
)
from evalsuite.models.limited_program import LimitedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

TORCH_EXPORT, TORCHSCRIPT, ONNX = "torch.export", "TorchScript", "ONNX"
FORMATS = (TORCH_EXPORT, TORCHSCRIPT, ONNX)
"""Formats of programs."""

OUTPUT_TOLERANCE = 1e-4
"""How far outputs with and without gradients may differ, relative to the largest logit if that is above 1."""

SPARE_BYTES = 2**26
"""Bytes that an archive may unpack to beyond twice its size; torch does not compress."""

_TRIAL_IMAGES = 4  # that a program is run on when it is loaded
_FIRST_RUNS = LimitedServer(torch_probe.__file__)
_END, _END_SIZE = b"PK\x05\x06", 22  # the last record of an archive without a comment
_ONNX_FIELDS = {0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42}  # that may follow the version in a ModelProto
_DEVICE_KEYS = {"type", "index"}  # of a device in the tables of an archive
_CPU = {"type": "cpu", "index": None}
_UNBOUNDED = 2**62


def program_format(path: Path) -> str | None:
    """Returns which of `FORMATS` a file is, identified by its content; ``None`` if it is none of them.

    Nothing in the file is run or unpacked.

    Raises:
        CheckpointError: If there is no such file or it cannot be read.
    """
    if not path.is_file():
        problem = "a directory" if path.is_dir() else "no such file"
        raise CheckpointError(f"program {path}: found {problem}, expected one of {', '.join(FORMATS)}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
            if head[:4] == b"PK\x03\x04":
                file.seek(-_END_SIZE, 2)
                if file.read(4) != _END:  # zipfile would accept the end of an archive inside it
                    raise zipfile.BadZipFile
                return _archive_format(path)
    except OSError as error:
        raise CheckpointError(f"program {path} cannot be read: {error}") from error
    except (
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:  # the latter: of damage that looks like a new version
        raise CheckpointError(
            f"program {path} is a truncated or damaged archive: copy or download it again"
        ) from error
    is_safetensors = head[8:9] == b"{"
    is_onnx = len(head) > 2 and head[0] == 0x08 and 2 < head[1] < 0x20 and head[2] in _ONNX_FIELDS
    return ONNX if (is_onnx and not is_safetensors) or path.suffix == ".onnx" else None


def load_program(
    path: Path, *, trust: bool, image_shape: Sequence[int] | None = None, is_known: bool = False
) -> ExportedProgram:
    """Returns the network that a file holds as a whole program, after running it on a few images.

    Its first run is in a process with limits of memory and computing time.

    Args:
        path: A file of one of `FORMATS`, identified by its content.
        trust: Whether to load programs whose loaders may run code in the file; ONNX needs no trust.
        image_shape: (C, H, W) of the images of the data set. Without it, a program that does not declare
            its images is not run, and one in ONNX has no gradients.
        is_known: Whether the file has run before, within the limits: a program of torch is not run under them again.

    Returns:
        Float images (N, C, H, W), in [0, 1] or normalised, as the program was exported for, to logits
        (N, K); in evaluation mode, on the processor.

    Raises:
        CheckpointError: If the file is missing, damaged, not trusted, or no classifier of such images; no other
            error is raised.
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
            if not is_known:
                shape = None if image_shape is None else tuple(int(size) for size in image_shape)
                _check_first_run(path, _file_stamp(path), kind, shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the loaders' warnings are for the author of the export
            is_data = kind == ONNX
            loaded = load_onnx(path, image_shape=image_shape) if is_data else _LOADERS[kind](path)
            return _verified(loaded, kind, image_shape)
    except EvalsuiteError as error:
        sentence = str(error).removeprefix("the program ")
        raise CheckpointError(f"program {path} {sentence}") from error
    except ModuleNotFoundError as error:  # of the library whose tensors or operators it has
        raise CheckpointError(
            f"program {path} needs the package {error.name} of the library that quantised or compiled it: install it, "
            "or export the model without that library's tensors"
        ) from error
    except Exception as error:  # loaders of other formats fail in any way
        raise CheckpointError(
            f"program {path} is truncated, damaged or no {kind} program ({first_line(error)}): export it again"
        ) from error


def run_first(path: Path, kind: str, image_shape: Sequence[int] | None) -> None:
    """Loads a program of torch and runs it on a few images, as `load_program` does: in a process with limits.

    Args:
        path: The file.
        kind: One of `FORMATS` but ONNX.
        image_shape: As for `load_program`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _verified(_LOADERS[kind](path), kind, image_shape)


@lru_cache(maxsize=64)
def _check_first_run(path: Path, stamp: str, kind: str, image_shape: tuple[int, ...] | None) -> None:  # noqa: ARG001  # the stamp is the key of the cache
    """Runs a program of torch under limits of memory and computing time; once in a process.

    Raises:
        CheckpointError: If it needs more.
    """
    if not hasattr(os, "fork"):  # not on Windows
        return
    bounds = torch_probe.limits(path.stat().st_size)
    question = {"path": str(path.absolute()), "kind": kind, "shape": image_shape, **bounds}
    if not _FIRST_RUNS.accepts(question):
        raise CheckpointError(
            f"takes more than {bounds['seconds']} s of computing or {bounds['memory'] // 2**20:,} MiB for "
            f"{_TRIAL_IMAGES} images, or ends the process that runs it: it is made to exhaust the machine, or larger "
            "than a classifier; refused"
        )


class ScriptNetwork(nn.Module):
    """TorchScript without its profiler, which may fuse operations, and so change digits, after a few calls."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script

    def forward(self, images: Tensor) -> object:
        """Returns the output of the script."""
        with torch.jit.optimized_execution(should_optimize=False):  # type: ignore[attr-defined]  # not in __all__
            return self.script(images)


def load_torchscript(path: Path) -> LoadedProgram:
    """Returns a TorchScript program on the processor, whatever device it was saved on.

    Raises:
        CheckpointError: If it takes anything else than images.
    """
    script = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]  # torch has no types here
    graph = script.inlined_graph  # its nodes live as long as it does
    check_output_operator(next(iter(graph.outputs())).node().kind())
    arguments = script.forward.schema.arguments[1:]
    required = [argument.name for argument in arguments if not argument.has_default_value()]
    if len(required) != 1:
        raise CheckpointError(
            f"takes {len(required)} inputs ({', '.join(required)}), expected one batch of images"
        )
    dtypes = {weight.dtype for weight in script.parameters() if weight.is_floating_point()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return LoadedProgram(ScriptNetwork(script), InputSpec(dtype=dtype))


def load_torch_export(path: Path) -> LoadedProgram:
    """Returns a program of torch.export on the processor, whatever device it was saved on.

    Raises:
        CheckpointError: If it takes anything else than images, or returns anything else than logits.
    """
    with _export_log() as messages:
        try:
            program = torch.export.load(_archive_on_cpu(path))
        except RuntimeError as error:
            raise RuntimeError(messages[-1] if messages else str(error)) from error
    inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise CheckpointError(
            f"takes {len(inputs)} inputs and returns {len(outputs)} outputs, expected images and their logits"
        )
    last = next(node for node in program.graph.nodes if node.name == outputs[0])
    check_output_operator(str(last.target))
    node = next(node for node in program.graph.nodes if node.name == inputs[0])
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise CheckpointError(f"takes a {type(value).__name__}, expected images (N, C, H, W)")
    ranges = {
        str(symbol): (limits.lower, limits.upper) for symbol, limits in program.range_constraints.items()
    }
    sizes = [_declared_size(size, ranges) for size in value.shape]
    return LoadedProgram(program.module(), declared_input_spec(sizes, value.dtype))


_LOADERS: Mapping[str, Callable[[Path], LoadedProgram]] = {
    TORCH_EXPORT: load_torch_export,
    TORCHSCRIPT: load_torchscript,
}
"""Loaders of programs that may run code in the file."""


def _archive_format(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > 2 * path.stat().st_size + SPARE_BYTES:
        raise CheckpointError(
            f"program {path} would unpack to {unpacked:,} bytes, many times its size, which torch never writes: "
            "found a zip bomb or a repacked archive, export the model again"
        )
    names = {member.filename for member in members}
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("models/") for name in inner) or "serialized_exported_program.json" in names:
        return TORCH_EXPORT
    return TORCHSCRIPT if "constants.pkl" in inner else None


def _check_sums(path: Path) -> None:
    """Checks the checksums, which the loaders ignore: TorchScript ends the process if a tensor is too short."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f"is damaged: {damaged!r} does not have its checksum; copy or download it again"
        )


def _declared_size(size: int | torch.SymInt, ranges: Mapping[str, tuple[object, object]]) -> int | range:
    """Returns a dimension as a number, or as the range of a symbol."""
    if isinstance(size, int):
        return size
    symbol = str(size)
    if symbol not in ranges or not symbol.isidentifier():
        raise CheckpointError(
            f"takes images in numbers or sizes of {symbol} only, expected any number of them: export it with a "
            "free batch size"
        )
    low, high = (str(limit) for limit in ranges[symbol])
    return range(int(low), int(high) + 1 if high.isdecimal() else _UNBOUNDED)


@contextlib.contextmanager
def _export_log() -> Iterator[list[str]]:
    """Collects the messages that torch.export logs about a failure, instead of printing them."""
    logger, messages = logging.getLogger("torch.export"), list[str]()

    def collect(record: logging.LogRecord) -> bool:
        messages.append((record.getMessage().strip() or record.levelname).splitlines()[-1])
        return False

    logger.addFilter(collect)
    try:
        yield messages
    finally:
        logger.removeFilter(collect)


def _file_stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _archive_on_cpu(path: Path) -> io.BytesIO:
    """Returns the archive with every device in its tables replaced: torch.export.load has no ``map_location``."""
    result = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(result, "w") as moved:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".json"):
                content = json.dumps(_devices_to_cpu(json.loads(content))).encode()
            elif "/sample_inputs/" in name:
                content = _tensors_to_cpu(content)
            moved.writestr(name, content)
    result.seek(0)
    return result


def _devices_to_cpu(table: Any) -> Any:
    if isinstance(table, list):
        return [_devices_to_cpu(item) for item in table]
    if not isinstance(table, dict):
        return table
    if table.keys() == _DEVICE_KEYS:
        return _CPU
    return {key: _devices_to_cpu(value) for key, value in table.items()}


def _tensors_to_cpu(content: bytes) -> bytes:
    """Returns a file of tensors with all of them on the processor."""
    result = io.BytesIO()
    torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), result)
    return result.getvalue()


def _verified(loaded: LoadedProgram, kind: str, image_shape: Sequence[int] | None) -> ExportedProgram:
    """Returns the program after a few images: each gets its own logits, and gradients are there if claimed."""
    loaded = _one_by_one(loaded) if loaded.dynamic else loaded
    shape, gap = loaded.input_spec.resolve_shape(image_shape), 0.0
    program, obstacle = ExportedProgram(loaded, kind), loaded.gradient_obstacle
    if shape is not None:
        images = torch.rand((_TRIAL_IMAGES, *shape), generator=torch.Generator().manual_seed(0))
        program, outputs = _with_working_batch_size(loaded, kind, images)
        if not obstacle:
            obstacle, gap = _gradient_obstacle(program, images, outputs)
    elif kind == ONNX:
        obstacle = obstacle or "the size of its images is unknown, so its conversion cannot be checked"
    program.gradient_obstacle = obstacle
    program.notes = tuple(_notes(program, loaded, gap))
    return program


def _one_by_one(loaded: LoadedProgram) -> LoadedProgram:
    """A dynamically quantised program with one image at a time: the scale of an activation is that of its batch."""
    if loaded.input_spec.min_batch > 1:
        raise CheckpointError(
            f"is quantised dynamically and takes {loaded.input_spec.min_batch} images at a time, so that the logits of "
            "an image depend on the others: export it for one image or a free batch size"
        )
    return replace(loaded, input_spec=loaded.input_spec.single_image)


def _with_working_batch_size(
    loaded: LoadedProgram, kind: str, images: Tensor
) -> tuple[ExportedProgram, Tensor]:
    """Returns the program with batches that it can take, and its logits of the images."""
    program = ExportedProgram(loaded, kind)
    try:
        return program, _trial_logits(program, images)
    except CheckpointError:
        raise
    except Exception:  # perhaps a batch size inside that it does not declare
        if loaded.input_spec.max_batch is not None or loaded.input_spec.min_batch > 1:
            raise
        single = ExportedProgram(replace(loaded, input_spec=loaded.input_spec.single_image), kind)
        try:
            return single, _trial_logits(single, images)
        except Exception:  # noqa: S110  # the first failure, with several images, is the one to report
            pass
        raise


def _trial_logits(program: ExportedProgram, images: Tensor) -> Tensor:
    """Returns the logits of the images.

    Raises:
        CheckpointError: If they are no logits, are random, or depend on the other images of the batch.
    """
    with torch.inference_mode():
        first: Tensor = program(images)
        second = program(images)
        others_changed = program(torch.cat([images[:1], images[1:].flip(3) / 2]))
    if first.shape[1] < 2 or not bool(first.isfinite().all()):
        raise CheckpointError(
            f"returns {'NaN or infinite logits' if first.shape[1] > 1 else 'one logit per image'}, "
            "expected at least two finite logits for each image"
        )
    limit = OUTPUT_TOLERANCE * max(1.0, float(first.abs().max()))
    if not torch.equal(first, second) or float((first[0] - others_changed[0]).abs().max()) > limit:
        raise CheckpointError(
            "returns other logits when run again, or when the other images of a batch change: it was exported "
            "in training mode; call model.eval() before the export"
        )
    return first


def _gradient_obstacle(program: ExportedProgram, images: Tensor, outputs: Tensor) -> tuple[str, float]:
    """Returns why a program has no usable gradients, empty if it has; and how far its outputs with them differ."""
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            variables = images.clone().requires_grad_()
            logits = program(variables)
            if not logits.requires_grad:
                return "its operations have none", 0.0
            weighted_sum = (logits * torch.arange(1.0, logits.shape[1] + 1)).sum()
            (gradient,) = torch.autograd.grad(weighted_sum, variables)
    except Exception as error:
        return f"computing them fails: {first_line(error)}", 0.0
    gap = float((logits.detach() - outputs).abs().max())
    if not gap <= OUTPUT_TOLERANCE * max(1.0, float(outputs.abs().max())):
        return f"its outputs change by up to {gap:.2g} when gradients are computed", gap
    if not bool(gradient.isfinite().all()):
        return "they are not finite", gap
    if not bool(gradient.any()) and not torch.equal(outputs, outputs[:1].expand_as(outputs)):
        return "they are zero everywhere although the outputs change: an operation rounds", gap
    return "", gap


def _notes(program: ExportedProgram, loaded: LoadedProgram, gap: float) -> list[str]:
    spec = program.input_spec
    notes = []
    if program.format != ONNX:
        notes.append(
            f"The model is a {program.format} program, loaded because the user declared it as trusted."
        )
    if spec.max_batch is not None and spec.max_batch == spec.min_batch:
        count = "one image" if spec.max_batch == 1 else f"exactly {spec.max_batch} images"
        notes.append(f"The program takes {count} at a time.")
    if loaded.dynamic:
        notes.append(
            "The program is quantised dynamically: each activation is scaled by the largest of its batch, so that the "
            "logits of a batch are not those of its images one by one."
        )
    if spec.dtype != torch.float32:
        notes.append(f"The program takes its images in {str(spec.dtype).removeprefix('torch.')}.")
    if program.gradient_obstacle:
        notes.append(
            f"The model has no gradients ({program.format}: {program.gradient_obstacle}): "
            "white-box attacks cannot run."
        )
    elif loaded.gradient_source:
        notes.append(
            f"{loaded.gradient_source}; outputs differ by at most {gap:.1g} on {_TRIAL_IMAGES} images."
        )
    return notes
