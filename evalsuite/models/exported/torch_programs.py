"""Loads programs of torch.export and TorchScript onto the processor. Both may run code: see `load_program`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import zipfile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.exported.input_spec import InputSpec, Loaded, input_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_DEVICE = {"type", "index"}  # keys of a device in the tables of an archive
_CPU = {"type": "cpu", "index": None}
_UNBOUNDED = 2**62


class Script(nn.Module):
    """Runs TorchScript without its profiler, which may fuse operations, and change digits, after a few calls."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script

    def forward(self, images: Tensor) -> object:
        """Returns what the script returns."""
        with torch.jit.optimized_execution(should_optimize=False):  # type: ignore[attr-defined]  # not in __all__
            return self.script(images)


def load_scripted(path: Path) -> Loaded:
    """Returns a TorchScript program, wherever it was saved.

    Raises:
        CheckpointError: If it does not take images alone.
    """
    script = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]  # torch has no types here
    needed = [given.name for given in script.forward.schema.arguments[1:] if not given.has_default_value()]
    if len(needed) != 1:
        raise CheckpointError(
            f"takes {len(needed)} inputs ({', '.join(needed)}), expected one batch of images"
        )
    dtypes = {weight.dtype for weight in script.parameters() if weight.is_floating_point()}
    return Loaded(Script(script), InputSpec(dtype=dtypes.pop() if len(dtypes) == 1 else torch.float32))


def load_exported(path: Path) -> Loaded:
    """Returns a program of torch.export, wherever it was saved.

    Raises:
        CheckpointError: If it does not take images alone and return logits alone.
    """
    with _logged() as messages:
        try:
            program = torch.export.load(_on_processor(path))
        except RuntimeError as error:
            raise RuntimeError(messages[-1] if messages else str(error)) from error
    inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise CheckpointError(
            f"takes {len(inputs)} inputs and returns {len(outputs)} outputs, expected images and their logits"
        )
    node = next(node for node in program.graph.nodes if node.name == inputs[0])
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise CheckpointError(f"takes a {type(value).__name__}, expected images (N, C, H, W)")
    ranges = {str(symbol): (found.lower, found.upper) for symbol, found in program.range_constraints.items()}
    sizes = [_size(size, ranges) for size in value.shape]
    return Loaded(program.module(), input_spec(sizes, value.dtype))


def _size(size: int | torch.SymInt, ranges: Mapping[str, tuple[object, object]]) -> int | range:
    """A dimension as a number, or as the range of a symbol."""
    if isinstance(size, int):
        return size
    text = str(size)
    if text not in ranges or not text.isidentifier():
        raise CheckpointError(
            f"takes images in numbers or sizes of {text} only, expected any number of them: export it with a "
            "free batch size"
        )
    low, high = (str(end) for end in ranges[text])
    return range(int(low), int(high) + 1 if high.isdecimal() else _UNBOUNDED)


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """Collects what torch.export says in its log about a failure, instead of printing it."""
    logger, messages = logging.getLogger("torch.export"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        messages.append((record.getMessage().strip() or record.levelname).splitlines()[-1])
        return False

    logger.addFilter(keep)
    try:
        yield messages
    finally:
        logger.removeFilter(keep)


def _on_processor(path: Path) -> io.BytesIO:
    """The archive with every device in its tables replaced: torch.export.load has no ``map_location``."""
    result = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(result, "w") as moved:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".json"):
                content = json.dumps(_without_devices(json.loads(content))).encode()
            elif "/sample_inputs/" in name:
                content = _moved(content)
            moved.writestr(name, content)
    result.seek(0)
    return result


def _without_devices(table: Any) -> Any:
    if isinstance(table, list):
        return [_without_devices(item) for item in table]
    if not isinstance(table, dict):
        return table
    if table.keys() == _DEVICE:
        return _CPU
    return {key: _without_devices(value) for key, value in table.items()}


def _moved(content: bytes) -> bytes:
    """A saved table of tensors with all of them on the processor."""
    result = io.BytesIO()
    torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), result)
    return result.getvalue()
