"""What a pickle would do, worked out on paper: its operations are followed with stand-ins, none is carried out."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from evalsuite.models.checkpoints.containers import damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.models.checkpoints.containers import Container

MOST_OPERATIONS = 5_000_000
"""A checkpoint needs thousands; more would only keep the reader busy (this many take some ten seconds)."""

MOST_NESTED = 100_000
"""Values in one tuple, those of the tuples in it counted as often as they occur.

A few bytes of pickle can nest a tuple in itself so often that hashing it never ends.
"""

_PREAMBLE = 3  # pickles before the content of a legacy file: magic number, version, system
_ITEM = {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4, "QInt32": 4}
_ITEM |= {"Half": 2, "BFloat16": 2, "Short": 2}
_DATA = frozenset(
    {"collections.OrderedDict", "collections.Counter", "_codecs.encode", "torch.Size", "torch.device"}
    | {"builtins.set", "builtins.bytearray", "builtins.complex", "torch.serialization._get_layout"}
    | {"torch.nn.parameter.Parameter", "torch._tensor._rebuild_from_type_v2"}
)
_DATA_PATTERN = re.compile(
    r"torch\.(_utils\._rebuild_\w+|(storage\.|cuda\.|sparse\.)*\w*(Storage|Tensor)"
    r"|bool|b?float\d\w*|u?int\d+|complex\d+|q[u]?int\w+|per_(tensor|channel)_\w+|strided|sparse_\w+)"
)


@dataclass(frozen=True, slots=True)
class Global:
    """Is a class or function that a pickle asks for by its dotted name."""

    name: str


@dataclass(slots=True)
class Table:
    """Is a dictionary, of which only the entries under strings are kept."""

    entries: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """Is a tuple, with the number of values in it and in the tuples in it."""

    items: tuple[object, ...]
    weight: int


@dataclass(slots=True)
class Survey:
    """Is what one pickle would do.

    Attributes:
        content: What it describes; ``None`` for anything but `Table`, `Row`, `Global` and plain values.
        wanted: Dotted names, in the order of the file, of classes and functions that are not plain data.
        storages: Keys of the tensors' memory to the bytes that they are said to have.
        protocol: Of the pickle format; torch reads 2 alone as data.
        fillable: Whether only dictionaries are filled like dictionaries, not objects of a wanted class.
    """

    content: object = None
    wanted: dict[str, None] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)
    protocol: int = 0
    fillable: bool = True


def survey(file: Container) -> Survey:
    """Returns what the pickle in a file that `torch.save` wrote would do.

    Raises:
        CheckpointError: If it is malformed, or made to keep the reader busy, or if it describes tensors whose
            memory is not in the file.
    """
    try:
        return _surveyed_archive(file) if file.format == "torch zip" else _surveyed_legacy(file)
    except OSError:
        raise
    except Exception as error:  # a malformed pickle fails in many ways, each of them a damaged file
        raise damaged(file.path, error) from error


def _surveyed_archive(file: Container) -> Survey:
    with zipfile.ZipFile(file.path) as archive:
        found = _followed(io.BytesIO(archive.read(f"{file.folder}data.pkl")))
    for key, size in found.storages.items():
        there = file.records.get(f"data/{key}", 0)
        if there < size:
            raise ValueError(f"storage {key} should have {size:,} bytes and has {there:,}")
    return found


def _surveyed_legacy(file: Container) -> Survey:
    with file.path.open("rb") as stream:
        for _ in range(_PREAMBLE):
            _followed(stream)
        found = _followed(stream)
        if not found.wanted:
            _followed(stream)  # the keys, in the order of what follows: each a length and the bytes
            expected = stream.tell() + sum(8 + size for size in found.storages.values())
            if file.size < expected:
                raise ValueError(f"it should have {expected:,} bytes and has {file.size:,}")
    return found


def _followed(stream: IO[bytes]) -> Survey:
    """The survey of the pickle that starts at the position of `stream`, which is left behind it."""
    machine = _Machine()
    for count, (operation, argument) in enumerate(_operations(stream)):
        if count > MOST_OPERATIONS:
            raise ValueError(f"more than {MOST_OPERATIONS:,} operations")
        machine.step(operation, argument)
    return machine.found


def _operations(stream: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, object]]:
    try:
        for operation, argument, _ in pickletools.genops(stream):
            yield operation, argument
    except ValueError as error:
        if stream.read(1):
            raise
        raise ValueError("its pickle ends in the middle") from error


class _Machine:
    """Follows the operations of a pickle on a stack of stand-ins."""

    def __init__(self) -> None:
        self.found = Survey()
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def step(self, operation: pickletools.OpcodeInfo, argument: object) -> None:
        """Changes the stack as `operation` would."""
        name = operation.name
        if name == "MARK":
            self.marked.append(self.stack)
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
            self.found.protocol = argument
        elif name == "STOP":
            self.found.content = self.stack.pop()
        else:
            items = self._popped(operation)
            self.stack += [self._made(name, argument, items)] * len(operation.stack_after)

    def _popped(self, operation: pickletools.OpcodeInfo) -> list[object]:
        """What `operation` takes from the stack, lowest first."""
        before = operation.stack_before
        above: list[object] = []
        count = len(before)
        if pickletools.markobject in before:
            above, self.stack = self.stack, self.marked.pop()
            count = before.index(pickletools.markobject)
        taken = [self.stack.pop() for _ in range(count)]
        return taken[::-1] + above

    def _made(self, name: str, argument: object, items: list[object]) -> object:
        """The stand-in for what an operation puts onto the stack."""
        if name in {"GLOBAL", "INST"}:
            return self._named(*str(argument).split(" ", 1))
        if name == "STACK_GLOBAL":
            return self._named(*map(str, items))
        if name in {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}:
            return _row(items)
        if name in {"EMPTY_DICT", "DICT"} or (name == "REDUCE" and _is_table(items[0])):
            return Table()
        if name in {"SETITEM", "SETITEMS"}:
            return self._filled(items)
        if name == "BINPERSID":
            return self._noted(items[0])
        if name == "BUILD":
            return items[0]
        return argument if not items else None

    def _named(self, module: str, name: str) -> Global:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in _DATA and not _DATA_PATTERN.fullmatch(full):
            self.found.wanted[full] = None
        return Global(full)

    def _filled(self, items: list[object]) -> object:
        table, *rest = items
        if isinstance(table, Table):
            pairs = zip(rest[::2], rest[1::2], strict=False)
            table.entries |= {key: value for key, value in pairs if isinstance(key, str)}
        else:
            self.found.fillable = False
        return table

    def _noted(self, identity: object) -> object:
        """The stand-in for memory that is asked for as ``("storage", type, key, place, number)``, noted."""
        if isinstance(identity, Row) and len(identity.items) >= 5:
            _, kind, key, _, number, *_ = identity.items
            if isinstance(kind, Global) and isinstance(number, int):
                item = _ITEM.get(kind.name.rpartition(".")[2].removesuffix("Storage"), 1)
                self.found.storages[str(key)] = max(number * item, self.found.storages.get(str(key), 0))
        return None


def _row(items: list[object]) -> Row:
    weight = sum(item.weight if isinstance(item, Row) else 1 for item in items)
    if weight > MOST_NESTED:
        raise ValueError(f"a tuple of more than {MOST_NESTED:,} values")
    return Row(tuple(items), weight)


def _is_table(function: object) -> bool:
    return isinstance(function, Global) and function.name == "collections.OrderedDict"
