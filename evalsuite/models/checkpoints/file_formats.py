"""Formats of checkpoint files, identified by content, and the sizes that a file declares, before anything loads it."""

from __future__ import annotations

import contextlib
import json
import re
import stat
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evalsuite.errors import CheckpointError, first_line
from evalsuite.models.checkpoints.pickle_operations import MAX_DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Format = Literal["safetensors", "torch zip", "torch legacy", "model folder"]

MAX_UNPACKED_BYTES = 2**28
MAX_INFLATION = 50
"""A file may unpack to `MAX_UNPACKED_BYTES`, or to `MAX_INFLATION` times its own size if that is more.

`torch.save` and safetensors do not compress; deflating a network of which 99 % is zero gains less than 50.
"""

MAX_HEADER_BYTES = 2**22
"""Of a safetensors file: some 50,000 tensors, ten times those of the largest classifiers."""

_LISTS = re.compile(rb"\[[^\[\]]*\]")  # in JSON: shapes, places in the file, and texts that look like such
_SHARD = re.compile(r"-(\d{3,})-of-(\d{3,})\.\w+")  # of transformers' names

_LEGACY = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # the number that torch.save wrote first before 1.6
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: fetch it with git lfs pull"),
    (b"<!doctype", "an HTML page, not weights: the download link needs a login or another address"),
    (b"<html", "an HTML page, not weights: the download link needs a login or another address"),
    (b"<?xml", "an XML text, not weights: it may be a server's error message, download it again"),
    (b'{"metadata"', "an index of parts, not weights: join the parts that it names into one file"),
    (b'{"weight_map"', "an index of parts, not weights: join the parts that it names into one file"),
    (b"{", "a JSON text, not weights: it may be a server's error message or a configuration"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x89hdf", "an HDF5 file (Keras): load it there and save the arrays as safetensors"),
    (b"\x93numpy", "a NumPy array: put the arrays into a state dict and save it with torch.save"),
)
"""First bytes, in lower case, of files that are often mistaken for weights, and what to do about them."""


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A regular file whose format is that of a checkpoint.

    Attributes:
        path: The file.
        format: How it is written.
        size: Bytes on disk.
        records: Names in a zip archive, without the archive's own folder, to their unpacked sizes in bytes.
        folder: That folder, with its slash; empty where there is no archive.
    """

    path: Path
    format: Format
    size: int
    records: dict[str, int]
    folder: str = ""


def identify_file(path: Path) -> CheckpointFile:
    """Returns the format and size of the file at `path`, without loading any of it.

    Raises:
        CheckpointError: If it is no regular file, cannot be opened, is empty, of another format, a whole
            program, or an archive that would unpack to more than it may.
    """
    if (shard := _SHARD.search(path.name)) and int(shard[2]) > 1:
        load, save = "safetensors.torch.load_file", "save_file"
        if path.suffix != ".safetensors":
            load, save = "torch.load(part, weights_only=True)", "torch.save"
        raise CheckpointError(
            f"weights {path}: found part {int(shard[1])} of {int(shard[2])}, expected all weights in one file: load "
            f"each part with {load}, join the dictionaries and save them with {save}"
        )
    try:
        size = _size(path)
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"weights {path} cannot be read: {error.strerror or error}") from error
    if not size:
        raise CheckpointError(f"weights {path}: found an empty file, expected weights: copy it again")
    if head.startswith(b"PK\x03\x04"):
        return _zip_archive(path, size)
    if _LEGACY in head[:32]:
        return CheckpointFile(path, "torch legacy", size, {})
    _check_safetensors(path, head)
    if MAX_HEADER_BYTES < (length := int.from_bytes(head[:8], "little")) <= size - 8:
        raise CheckpointError(
            f"weights {path}: found a header of {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}: it lists more "
            "tensors than a network has, and is damaged or made to keep the reader busy"
        )
    _check_dimensions(path, length)
    return CheckpointFile(path, "safetensors", size, {})


def check_unpacked_size(path: Path, size: int, declared: int) -> None:
    """Refuses a file of `size` bytes whose content would take `declared` bytes of memory.

    Raises:
        CheckpointError: If that is more than `MAX_UNPACKED_BYTES` and more than `MAX_INFLATION` times `size`.
    """
    if declared > max(MAX_UNPACKED_BYTES, MAX_INFLATION * size):
        raise CheckpointError(
            f"weights {path}: found {size:,} bytes that would unpack to {declared:,}, expected at most "
            f"{MAX_INFLATION} times the file's size or {MAX_UNPACKED_BYTES // 2**20} MiB: it is damaged or made to "
            "exhaust the memory"
        )


def damaged_file_error(path: Path, reason: object) -> CheckpointError:
    """Returns the error for a file whose content does not follow its format."""
    return CheckpointError(
        f"weights {path} is truncated, damaged or of another format ({first_line(reason)}); "
        "expected safetensors or what torch.save writes: copy or download it again"
    )


def _size(path: Path) -> int:
    """Returns the bytes of a regular file; opening another kind could wait for ever or never end."""
    expected = "expected a safetensors file or a state dict"
    try:
        status = path.stat()
    except FileNotFoundError:
        problem = "a link to nothing" if path.is_symlink() else "no such file"
        raise CheckpointError(f"weights {path}: found {problem}, {expected}") from None
    except ValueError as error:  # a zero byte in the name
        raise CheckpointError(f"weights {path}: found an impossible name ({error})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a pipe, socket or device"
        if stat.S_ISDIR(status.st_mode):
            kind = "a directory without config.json"
            expected += ", or a model folder as save_pretrained writes it"
        raise CheckpointError(f"weights {path}: found {kind}, {expected}")
    return status.st_size


def _check_safetensors(path: Path, head: bytes) -> None:
    """Refuses files that do not start as safetensors: the length of a JSON header, then the header's brace."""
    start = head.lstrip().removeprefix(b"\xef\xbb\xbf").lower()
    if start.startswith(b"{"):
        start = b"".join(start.split())
    for magic, description in _OTHER_FORMATS:
        if start.startswith(magic):
            raise CheckpointError(f"weights {path} is {description}")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"weights {path} is a tar archive: unpack it first")
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and head[8:9] != b"{":
        raise CheckpointError(
            f"weights {path} is a bare pickle, which is a program and not data: "
            "load it where you trust it and save the tensors with torch.save"
        )
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"weights {path} is a whole program (ONNX), not a state dict; check takes such candidates as they are, "
            "and for anything else save module.state_dict() with torch.save"
        )
    if path.suffix != ".safetensors" and head[8:9] != b"{":
        raise damaged_file_error(path, f"it starts with {head[:8]!r}")


def _check_dimensions(path: Path, length: int) -> None:
    """Refuses a safetensors header of `length` bytes with tensors of more than `MAX_DIMENSIONS` dimensions."""

    def check(pairs: list[tuple[str, object]]) -> None:
        for key, value in pairs:
            if key == "shape" and isinstance(value, list) and len(value) > MAX_DIMENSIONS:
                raise damaged_file_error(path, f"a tensor of {len(value):,} dimensions")

    with path.open("rb") as file:
        header = file.read(8 + min(length, MAX_HEADER_BYTES))[8:]
    if any(part[0].count(b",") >= MAX_DIMENSIONS for part in _LISTS.finditer(header)):
        with contextlib.suppress(ValueError, RecursionError):  # the format's own reader says what is wrong
            json.loads(header, object_pairs_hook=check)


def _zip_archive(path: Path, size: int) -> CheckpointFile:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a malformed directory of the archive fails in many ways
        raise damaged_file_error(path, error) from error
    check_unpacked_size(path, size, sum(entry.file_size for entry in entries))
    names = [entry.filename for entry in entries]
    if len({name.lower() for name in names}) != len(names):
        raise damaged_file_error(path, "two entries of the archive have the same name")
    folder = names[0].partition("/")[0] + "/" if names else ""
    records = {entry.filename.removeprefix(folder): entry.file_size for entry in entries}
    _check_records(path, list(records))
    return CheckpointFile(path, "torch zip", size, records, folder)


def _check_records(path: Path, names: Sequence[str]) -> None:
    exported = any(name.startswith("models/") or name == "serialized_exported_program.json" for name in names)
    if exported or "constants.pkl" in names:
        raise CheckpointError(
            f"weights {path} is a whole program (TorchScript or torch.export), not a state dict; check takes such "
            "candidates with --trust-program, and for anything else load it where you trust it and save "
            "module.state_dict() with torch.save"
        )
    if "data.pkl" not in names:
        listed = ", ".join(names[:3])
        if names and all(name.endswith(".npy") for name in names):
            raise CheckpointError(
                f"weights {path} is an archive of NumPy arrays (.npz): save it as a state dict with torch.save("
                f"{{name: torch.from_numpy(array) for name, array in numpy.load({str(path)!r}).items()}}, 'weights.pt')"
            )
        raise CheckpointError(
            f"weights {path}: found a zip archive of {listed or 'nothing'}, expected one that torch.save wrote: "
            "unpack it first if the weights are inside"
        )
