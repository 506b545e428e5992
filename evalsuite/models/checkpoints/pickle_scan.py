"""A scan of a pickle for code, in a process of its own with limits: no operation in the file is carried out.

A file that refers to more than plain data is refused, with a script that extracts its tensors where that is possible.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalsuite.errors import CheckpointError, first_few
from evalsuite.models.checkpoints import pickle_operations
from evalsuite.models.checkpoints.file_formats import damaged_file_error
from evalsuite.models.checkpoints.state_dict_keys import WRAPPERS
from evalsuite.models.limited_program import answer_of

if TYPE_CHECKING:
    from evalsuite.models.checkpoints.file_formats import CheckpointFile

EXTRACTION_SCRIPT = """\
import torch
import pickle, types, numpy
class Placeholder(dict):  # stands in for the objects in the file, so that no code of theirs runs
    __hash__ = object.__hash__
    def __init__(self, *values, **named): pass
    def __call__(self, *values, **named): return Placeholder()
    def __setstate__(self, state): pass
    def append(self, value): pass
    def extend(self, values): pass
    def add(self, value): pass
def look_up(*names): return Placeholder  # stands in for what the file looks up in a class
DATA = {{"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "OrderedDict", "encode"}}
DATA |= {{"_reconstruct", "ndarray", "dtype"}}
HOMES = {{"torch._utils", "collections", "_codecs", "numpy", "numpy.core.multiarray", "numpy._core.multiarray"}}
class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if name in DATA and module in HOMES:
            return super().find_class(module, name)
        return look_up if name == "getattr" else Placeholder
reader = types.ModuleType("reader")
reader.Unpickler, reader.load = Reader, lambda file, **options: Reader(file, **options).load()
checkpoint = torch.load({path!r}, map_location="cpu", pickle_module=reader, weights_only=False)
weights = {weights}
weights = {{name: value for name, value in weights.items() if isinstance(value, (torch.Tensor, numpy.ndarray))}}
torch.save({{name: torch.as_tensor(value).detach() for name, value in weights.items()}}, "weights.pt")
"""
"""Extracts the tensors and arrays of a state dict that lies beside pickled objects."""

_MODULES = (
    '{f"{layer}.{name}".lstrip("."): value for layer, module in CONTENT["full_state_dict"].items() '
    'for kind in ("_parameters", "_buffers") for name, value in module[kind].items()}'
)
"""The weights in what Torch-Pruning's ``state_dict`` returns: the attributes of each module."""

_SECONDS = 120  # of the clock; the process itself has a limit of computing time


@dataclass(slots=True)
class PickleScan:
    """What the pickle of a file contains, and the code that it refers to.

    Attributes:
        unsafe_globals: Dotted names, in the order of the file, of classes and functions that are not plain data.
        protocol: Of the pickle format; torch reads 2 alone as data.
        keys: Subscripts that lead to the state dict or model in the content.
        is_dict: Whether that is a dictionary.
        has_modules: Whether what the keys lead to is what Torch-Pruning's ``state_dict`` returns.
        is_attack: Whether it refers to code that no checkpoint needs.
        networks: Places of a list, or keys of a dictionary, under which the file may hold networks.
    """

    unsafe_globals: list[str] = field(default_factory=list)
    protocol: int = 0
    keys: str = ""
    is_dict: bool = False
    has_modules: bool = False
    is_attack: bool = False
    networks: list[str] = field(default_factory=list)


def scan_pickle(file: CheckpointFile) -> PickleScan:
    """Returns the scan of the pickle in a file that `torch.save` wrote.

    Raises:
        CheckpointError: If it is malformed, or made to keep the reader busy or to take its memory, or if it describes
            tensors whose memory is not in the file.
    """
    question = {
        "path": str(file.path),
        "folder": file.folder,
        "size": file.size,
        "records": file.records,
        "wrappers": WRAPPERS,
        "pickle_bytes": file.records.get("data.pkl", 0),
    }
    answer = _ask(file, question)
    if "error" not in answer:
        return PickleScan(**answer)
    if answer.get("errno") is not None and answer["errno"] != errno.EINVAL:
        raise CheckpointError(f"weights {file.path} cannot be read: {answer['error']}")
    raise damaged_file_error(file.path, answer["error"])


def _ask(file: CheckpointFile, question: dict[str, Any]) -> dict[str, Any]:
    answered = answer_of(pickle_operations.__file__, question, seconds=_SECONDS, options=("-S",))
    if answered is None:
        raise CheckpointError(
            f"weights {file.path}: following its pickle takes more than {pickle_operations.CPU_SECONDS} s of computing "
            f"or {pickle_operations.MEMORY_BYTES // 2**20} MiB, and a checkpoint takes a fraction of it: it is damaged "
            "or made to exhaust the machine"
        )
    answer: dict[str, Any] = json.loads(answered)
    return answer


def unsafe_pickle_error(file: CheckpointFile, scan: PickleScan) -> CheckpointError:
    """Returns the error for a file whose pickle holds more than plain data, with a way to extract its tensors.

    Args:
        file: As `identify_file` returns it.
        scan: As `scan_pickle` returns it; has unsafe globals, or a protocol that is not read as data.
    """
    if not scan.unsafe_globals:
        return CheckpointError(
            f"weights {file.path} is written with pickle protocol {scan.protocol}, of which only 2 is read as "
            "data: save it again without pickle_protocol"
        )
    start = f"weights {file.path} would run {first_few(scan.unsafe_globals, 8)}, but a checkpoint is data, never code"
    if scan.is_attack:
        return CheckpointError(
            f"{start}, and no checkpoint needs that: do not load it with anything, "
            "and ask its author for the tensors alone"
        )
    if scan.is_dict:
        content = f"checkpoint{scan.keys}"
        weights = _MODULES.replace("CONTENT", content) if scan.has_modules else content
        script = EXTRACTION_SCRIPT.format(path=str(file.path), weights=weights)
        several = len(scan.networks) > 1 and scan.keys.startswith(f"[{scan.networks[0]}]")
        whose = (
            f"the tensors of entry {scan.networks[0]} of {len(scan.networks)}" if several else "its tensors"
        )
        return CheckpointError(f"{start}; these lines extract {whose} and run none of its code:\n{script}")
    return CheckpointError(
        f"{start}; convert it where you trust it and can import that: checkpoint = torch.load({str(file.path)!r}, "
        f"map_location='cpu', weights_only=False), then torch.save(checkpoint{scan.keys}.state_dict(), 'weights.pt')"
    )
