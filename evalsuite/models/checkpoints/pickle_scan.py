"""A scan of a pickle for code: its operations are followed on placeholders, and none is carried out.

A file that refers to more than plain data is refused, with a script that extracts its tensors where that is possible.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from evalsuite.errors import CheckpointError, first_few
from evalsuite.models.checkpoints.file_formats import damaged_file_error
from evalsuite.models.checkpoints.state_dict_keys import WRAPPERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from evalsuite.models.checkpoints.file_formats import CheckpointFile

MAX_OPERATIONS = 5_000_000
"""A checkpoint needs thousands; more would only keep the reader busy (this many take some ten seconds)."""

MAX_NESTED_VALUES = 100_000
"""Values in one tuple, those of the tuples in it counted as often as they occur.

A few bytes of pickle can nest a tuple in itself so often that hashing it never ends.
"""

EXTRACTION_SCRIPT = """\
import torch
class Placeholder:  # stands in for the objects in the file, so that no code of theirs runs
    def __init__(self, *values): pass
    def __setstate__(self, state): pass
names = {names}
with torch.serialization.safe_globals([(Placeholder, name) for name in names]):
    checkpoint = torch.load({path!r}, map_location="cpu", weights_only=True)
weights = checkpoint{keys}
torch.save({{name: value for name, value in weights.items() if torch.is_tensor(value)}}, "weights.pt")
"""
"""Extracts the tensors of a state dict that lies beside pickled objects, with torch 2.6 or later."""

_PREAMBLE = 3  # pickles before the content of a legacy file: magic number, version, system
_ITEM_BYTES = {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4}
_ITEM_BYTES |= {"QInt32": 4, "Half": 2, "BFloat16": 2, "Short": 2}
_SAFE_GLOBALS = frozenset(
    {"collections.OrderedDict", "collections.Counter", "_codecs.encode", "torch.Size", "torch.device"}
    | {"builtins.set", "builtins.bytearray", "builtins.complex", "torch.serialization._get_layout"}
    | {"torch.nn.parameter.Parameter", "torch._tensor._rebuild_from_type_v2"}
)
_SAFE_PATTERN = re.compile(
    r"torch\.(_utils\._rebuild_\w+|(storage\.|cuda\.|sparse\.)*\w*(Storage|Tensor)"
    r"|bool|b?float\d\w*|u?int\d+|complex\d+|q[u]?int\w+|per_(tensor|channel)_\w+|strided|sparse_\w+)"
)
_MAX_SCRIPT_NAMES = 200  # more names make no script that a person can read before running it
_ATTACK_MODULES = frozenset(
    {"asyncio", "commands", "ctypes", "importlib", "io", "nt", "os", "pickle", "posix", "pty", "runpy"}
    | {"shutil", "socket", "subprocess", "sys", "webbrowser"}
)
_ATTACK_BUILTINS = frozenset(
    {"breakpoint", "compile", "eval", "exec", "getattr", "open", "setattr", "__import__"}
)


@dataclass(frozen=True, slots=True)
class ScannedGlobal:
    """A class or function that a pickle refers to by its dotted name."""

    name: str


@dataclass(slots=True)
class ScannedDict:
    """A dictionary, of which only the entries under strings are recorded."""

    entries: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScannedTuple:
    """A tuple, with the number of values in it and in the tuples in it."""

    items: tuple[object, ...]
    weight: int


@dataclass(slots=True)
class PickleScan:
    """The content of one pickle and the code that it refers to.

    Attributes:
        content: The unpickled object; ``None`` for anything but `ScannedDict`, `ScannedTuple`, `ScannedGlobal` and
            plain values.
        unsafe_globals: Dotted names, in the order of the file, of classes and functions that are not plain data.
        storages: Keys of the tensors' memory to the bytes that the pickle declares for it.
        protocol: Of the pickle format; torch reads 2 alone as data.
        sets_items_of_dicts_only: Whether items are set on dictionaries alone, not on objects of other classes.
    """

    content: object = None
    unsafe_globals: dict[str, None] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)
    protocol: int = 0
    sets_items_of_dicts_only: bool = True


def scan_pickle(file: CheckpointFile) -> PickleScan:
    """Returns the scan of the pickle in a file that `torch.save` wrote.

    Raises:
        CheckpointError: If it is malformed, or made to keep the reader busy, or if it describes tensors whose
            memory is not in the file.
    """
    try:
        return _scan_archive(file) if file.format == "torch zip" else _scan_legacy(file)
    except OSError:
        raise
    except Exception as error:  # a malformed pickle fails in many ways, each of them a damaged file
        raise damaged_file_error(file.path, error) from error


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
    if any(_is_attack(name) for name in scan.unsafe_globals):
        return CheckpointError(
            f"{start}, and no checkpoint needs that: do not load it with anything, "
            "and ask its author for the tensors alone"
        )
    keys, inner = _state_dict_subscripts(scan.content)
    if isinstance(inner, ScannedDict) and _can_be_extracted(scan):
        script = EXTRACTION_SCRIPT.format(names=list(scan.unsafe_globals), path=str(file.path), keys=keys)
        return CheckpointError(
            f"{start}; these lines extract its tensors and run none of its code:\n{script}"
        )
    weights = f"checkpoint{keys}" + ("" if isinstance(inner, ScannedDict) else ".state_dict()")
    return CheckpointError(
        f"{start}; convert it where you trust it and can import that: checkpoint = torch.load({str(file.path)!r}, "
        f"map_location='cpu', weights_only=False), then torch.save({weights}, 'weights.pt')"
    )


def _scan_archive(file: CheckpointFile) -> PickleScan:
    with zipfile.ZipFile(file.path) as archive:
        scan = _scan_stream(io.BytesIO(archive.read(f"{file.folder}data.pkl")))
    for key, size in scan.storages.items():
        available = file.records.get(f"data/{key}", 0)
        if available < size:
            raise ValueError(f"storage {key} should have {size:,} bytes and has {available:,}")
    return scan


def _scan_legacy(file: CheckpointFile) -> PickleScan:
    with file.path.open("rb") as stream:
        for _ in range(_PREAMBLE):
            _scan_stream(stream)
        scan = _scan_stream(stream)
        if not scan.unsafe_globals:
            _scan_stream(stream)  # the keys, in the order of what follows: each a length and the bytes
            expected = stream.tell() + sum(8 + size for size in scan.storages.values())
            if file.size < expected:
                raise ValueError(f"it should have {expected:,} bytes and has {file.size:,}")
    return scan


def _scan_stream(stream: IO[bytes]) -> PickleScan:
    """Returns the scan of the pickle at the position of `stream`, which then is behind that pickle."""
    interpreter = _Interpreter()
    for count, (operation, argument) in enumerate(_operations(stream)):
        if count > MAX_OPERATIONS:
            raise ValueError(f"more than {MAX_OPERATIONS:,} operations")
        interpreter.step(operation, argument)
    return interpreter.scan


def _operations(stream: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, object]]:
    try:
        for operation, argument, _ in pickletools.genops(stream):
            yield operation, argument
    except ValueError as error:
        if stream.read(1):
            raise
        raise ValueError("its pickle ends in the middle") from error


class _Interpreter:
    """An interpreter of pickle operations whose stack holds placeholders."""

    def __init__(self) -> None:
        self.scan = PickleScan()
        self.stack: list[object] = []
        self.marked_stacks: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def step(self, operation: pickletools.OpcodeInfo, argument: object) -> None:
        """Changes the stack as `operation` would."""
        name = operation.name
        if name == "MARK":
            self.marked_stacks.append(self.stack)
            self.stack = []
        elif name in {"BINPUT", "LONG_BINPUT", "PUT"} and isinstance(argument, int):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in {"BINGET", "LONG_BINGET", "GET"} and isinstance(argument, int):
            self.stack.append(self.memo[argument])
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "PROTO" and isinstance(argument, int):
            self.scan.protocol = argument
        elif name == "STOP":
            self.scan.content = self.stack.pop()
        else:
            operands = self._pop_operands(operation)
            self.stack += [self._result(name, argument, operands)] * len(operation.stack_after)

    def _pop_operands(self, operation: pickletools.OpcodeInfo) -> list[object]:
        """Takes the operands of `operation` from the stack, lowest first."""
        before = operation.stack_before
        above_mark: list[object] = []
        count = len(before)
        if pickletools.markobject in before:
            above_mark, self.stack = self.stack, self.marked_stacks.pop()
            count = before.index(pickletools.markobject)
        operands = [self.stack.pop() for _ in range(count)]
        return operands[::-1] + above_mark

    def _result(self, name: str, argument: object, operands: list[object]) -> object:
        """Returns the placeholder for the value that an operation puts onto the stack."""
        if name in {"GLOBAL", "INST"}:
            return self._global(*str(argument).split(" ", 1))
        if name == "STACK_GLOBAL":
            return self._global(*map(str, operands))
        if name in {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}:
            return _tuple(operands)
        if name in {"EMPTY_DICT", "DICT"} or (name == "REDUCE" and _is_ordered_dict(operands[0])):
            return ScannedDict()
        if name in {"SETITEM", "SETITEMS"}:
            return self._set_items(operands)
        if name == "BINPERSID":
            return self._record_storage(operands[0])
        if name == "BUILD":
            return operands[0]
        return argument if not operands else None

    def _global(self, module: str, name: str) -> ScannedGlobal:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in _SAFE_GLOBALS and not _SAFE_PATTERN.fullmatch(full):
            self.scan.unsafe_globals[full] = None
        return ScannedGlobal(full)

    def _set_items(self, operands: list[object]) -> object:
        target, *items = operands
        if isinstance(target, ScannedDict):
            pairs = zip(items[::2], items[1::2], strict=False)
            target.entries |= {key: value for key, value in pairs if isinstance(key, str)}
        else:
            self.scan.sets_items_of_dicts_only = False
        return target

    def _record_storage(self, identifier: object) -> object:
        """Records memory that is referred to as ``("storage", type, key, place, number)``; it has no placeholder."""
        if isinstance(identifier, ScannedTuple) and len(identifier.items) >= 5:
            _, kind, key, _, number, *_ = identifier.items
            if isinstance(kind, ScannedGlobal) and isinstance(number, int):
                item_bytes = _ITEM_BYTES.get(kind.name.rpartition(".")[2].removesuffix("Storage"), 1)
                size = max(number * item_bytes, self.scan.storages.get(str(key), 0))
                self.scan.storages[str(key)] = size
        return None


def _tuple(items: list[object]) -> ScannedTuple:
    weight = sum(item.weight if isinstance(item, ScannedTuple) else 1 for item in items)
    if weight > MAX_NESTED_VALUES:
        raise ValueError(f"a tuple of more than {MAX_NESTED_VALUES:,} values")
    return ScannedTuple(tuple(items), weight)


def _is_ordered_dict(function: object) -> bool:
    return isinstance(function, ScannedGlobal) and function.name == "collections.OrderedDict"


def _state_dict_subscripts(content: object, wrappers: Iterable[str] = WRAPPERS) -> tuple[str, object]:
    """Returns the subscripts that lead to the state dict or model in `content`, and that."""
    if isinstance(content, ScannedDict):
        entries = {name: content.entries[name] for name in wrappers if name in content.entries}
        dicts = [name for name, value in entries.items() if isinstance(value, ScannedDict)]
        objects = [name for name, value in entries.items() if value is None]
        for wrapper in (dicts + objects)[:1]:
            keys, inner = _state_dict_subscripts(
                entries[wrapper], [name for name in wrappers if name != wrapper]
            )
            return f"[{wrapper!r}]{keys}", inner
    return "", content


def _can_be_extracted(scan: PickleScan) -> bool:
    """Returns whether `EXTRACTION_SCRIPT` can load the file."""
    names = scan.unsafe_globals
    are_identifiers = all(part.isidentifier() for name in names for part in name.split("."))
    return scan.sets_items_of_dicts_only and are_identifiers and len(names) <= _MAX_SCRIPT_NAMES


def _is_attack(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return module.partition(".")[0] in _ATTACK_MODULES or (
        module == "builtins" and attribute in _ATTACK_BUILTINS
    )
