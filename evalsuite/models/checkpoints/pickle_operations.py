"""The operations of a pickle, followed on placeholders: a program of its own that imports nothing but Python's library.

``python -I -S pickle_operations.py`` reads a question (JSON) from its input and writes the answer to its output, under
limits of memory and computing time that it sets for itself before it opens the file.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field

TYPE_CHECKING = False  # typing alone takes longer to import than most files take to scan
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO, Any

MAX_OPERATIONS = 1_000_000
"""A checkpoint needs thousands, one with the state of an optimizer a hundred thousand."""

MAX_NESTED_VALUES = 100_000
"""Values in one tuple, those of the tuples in it counted as often as they occur.

A few bytes of pickle can nest a tuple in itself so often that hashing or printing it never ends.
"""

MAX_DIMENSIONS = 64
"""Of a tensor, ten times those of a layer; with a hundred thousand its loader takes minutes."""

MAX_NETWORKS = 1000
"""Networks of one file that are listed."""

MEMORY_BYTES, CPU_SECONDS = 2**29, 30
"""Limits of the process, beside four times the bytes of the pickle."""

_PREAMBLE = 3  # pickles before the content of a legacy file: magic number, version, system
_ITEM_BYTES = {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4}
_ITEM_BYTES |= {"QInt32": 4, "Half": 2, "BFloat16": 2, "Short": 2}
_DATA = frozenset({"collections.OrderedDict", "collections.Counter", "builtins.set", "torch.Size"})
_DICTS = frozenset({"collections.OrderedDict", "collections.defaultdict"})
_FACTORIES = frozenset(
    {"builtins.dict", "builtins.float", "builtins.int", "builtins.list"}
)  # of a defaultdict
_SAFE_GLOBALS = _DATA | {
    "collections.defaultdict",
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2",
}
_SAFE_PATTERN = re.compile(
    r"torch\.(_utils\._rebuild_\w+|(storage\.|cuda\.|sparse\.)*\w*(Storage|Tensor)"
    r"|bool|b?float\d\w*|u?int\d+|complex\d+|q[u]?int\w+|per_(tensor|channel)_\w+|strided|sparse_\w+)"
)
_REBUILD = re.compile(r"torch\.(_utils|_tensor)\._rebuild_\w+")
_ATTACK_MODULES = frozenset(
    {"asyncio", "commands", "ctypes", "importlib", "io", "nt", "os", "pickle", "posix", "pty", "runpy"}
    | {"posixsubprocess", "pyio", "shutil", "socket", "subprocess", "sys", "webbrowser", "winapi"}
)
"""Without leading underscores: Python 3.12 pickles ``open`` as ``_io.open``, earlier ones as ``io.open``."""
_ATTACK_BUILTINS = frozenset(
    {"breakpoint", "compile", "eval", "exec", "getattr", "open", "setattr", "__import__"}
)
_GETATTR = "builtins.getattr"


@dataclass(frozen=True)
class ScannedGlobal:
    """A class or function that a pickle refers to by its dotted name."""

    name: str


@dataclass(frozen=True)
class ScannedCall:
    """What a class or function returned, which was not called."""

    name: str


@dataclass
class ScannedDict:
    """A dictionary, of which only the entries under strings are recorded."""

    entries: dict[str, object] = field(default_factory=dict)


@dataclass
class ScannedList:
    """A list, of which only the dictionaries are recorded, by their places."""

    length: int = 0
    dicts: dict[int, ScannedDict] = field(default_factory=dict)

    def extend(self, items: Iterable[object]) -> None:
        """Records further items."""
        for item in items:
            if isinstance(item, ScannedDict):
                self.dicts[self.length] = item
            self.length += 1


@dataclass(frozen=True)
class ScannedTuple:
    """A tuple, with the number of values in it and in the tuples in it, itself included."""

    items: tuple[object, ...]
    weight: int


_PLAIN = (str, bytes, int, float, ScannedDict, ScannedList, ScannedTuple)
"""Values whose attributes and methods do nothing but to look at them."""


@dataclass
class Scan:
    """The content of one pickle and the code that it refers to.

    Attributes:
        content: The unpickled object; ``None`` for anything but the placeholders above and plain values.
        unsafe_globals: Dotted names, in the order of the file, of classes and functions that are not plain data.
        storages: Keys of the tensors' memory to the bytes that the pickle declares for it.
        protocol: Of the pickle format.
        looks_up: Whether `getattr` is called for anything but an attribute of a harmless object.
        looked_up: How often `getattr` is called for one.
    """

    content: object = None
    unsafe_globals: dict[str, None] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)
    protocol: int = 0
    looks_up: bool = False
    looked_up: int = 0


def scan_archive(path: str, folder: str, records: dict[str, int]) -> Scan:
    """Returns the scan of the pickle in a zip archive.

    Args:
        path: Of the archive.
        folder: The archive's own folder, with its slash.
        records: Names in it to unpacked sizes in bytes.
    """
    with zipfile.ZipFile(path) as archive:
        scan = scan_stream(io.BytesIO(archive.read(f"{folder}data.pkl")))
    for key, size in scan.storages.items():
        available = records.get(f"data/{key}", 0)
        if available < size:
            raise ValueError(f"storage {key} should have {size:,} bytes and has {available:,}")
    return scan


def scan_legacy(path: str, file_size: int) -> Scan:
    """Returns the scan of the pickle in a file of torch before 1.6, of `file_size` bytes."""
    with open(path, "rb") as stream:  # noqa: PTH123  # pathlib takes longer to import than the scan
        for _ in range(_PREAMBLE):
            scan_stream(stream)
        scan = scan_stream(stream)
        if not scan.unsafe_globals:
            scan_stream(stream)  # the keys, in the order of what follows: each a length and the bytes
            expected = stream.tell() + sum(8 + size for size in scan.storages.values())
            if file_size < expected:
                raise ValueError(f"it should have {expected:,} bytes and has {file_size:,}")
    return scan


def scan_stream(stream: IO[bytes]) -> Scan:
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
        self.scan = Scan()
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
        if name == "GLOBAL":
            return self._global(*str(argument).split(" ", 1))
        if name == "STACK_GLOBAL":
            module, attribute = operands
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise ValueError("a class or function whose name is no text")
            return self._global(module, attribute)
        if name in {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}:
            return _tuple(operands)
        if name in {"REDUCE", "NEWOBJ", "NEWOBJ_EX"}:
            return self._call(operands[0], operands[1])
        if name in {"INST", "OBJ"}:
            raise ValueError(f"the operation {name}, which torch never writes")
        if name in {"EMPTY_DICT", "DICT"}:
            return ScannedDict()
        if name in {"EMPTY_LIST", "LIST"}:
            return _list(operands)
        if name in {"APPEND", "APPENDS"} and isinstance(operands[0], ScannedList):
            operands[0].extend(operands[1:])
            return operands[0]
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
        if full not in _SAFE_GLOBALS | _FACTORIES and not _SAFE_PATTERN.fullmatch(full):
            self.scan.unsafe_globals[full] = None
        return ScannedGlobal(full)

    def _set_items(self, operands: list[object]) -> object:
        target, *items = operands
        if isinstance(target, ScannedCall) and target.name in self.scan.unsafe_globals:
            target = ScannedDict()  # of a class of its own that is filled like a dictionary
        if isinstance(target, ScannedDict):
            pairs = zip(items[::2], items[1::2], strict=False)
            target.entries |= {key: value for key, value in pairs if isinstance(key, str)}
        return target

    def _call(self, function: object, arguments: object) -> object:
        """Returns the placeholder of a result; refuses calls that take memory or time out of proportion."""
        if isinstance(function, ScannedCall):
            return function  # an object of a class that was looked up, or what a function that was looked up returned
        name = function.name if isinstance(function, ScannedGlobal) else ""
        items = arguments.items if isinstance(arguments, ScannedTuple) else ()
        if name == _GETATTR:
            return self._attribute(items)
        if name in self.scan.unsafe_globals or not name:
            return ScannedCall(name)
        _check_call(name, arguments)
        return ScannedDict() if name in _DICTS else ScannedCall(name)

    def _attribute(self, items: tuple[object, ...]) -> object:
        """Returns the placeholder of an attribute, and records whether looking it up is harmless."""
        owner, attribute = items if len(items) == 2 else (None, None)
        if isinstance(attribute, str):
            name = owner.name if isinstance(owner, ScannedGlobal | ScannedCall) else ""
            if isinstance(owner, _PLAIN):
                name = type(owner).__name__
            full = f"{name}.{attribute}"
            if name and not attribute.startswith("_") and not _is_attack(full):
                self.scan.looked_up += 1
                return ScannedCall(full)
        self.scan.looks_up = True
        return None

    def _record_storage(self, identifier: object) -> object:
        """Records memory that is referred to as ``("storage", type, key, place, number)``; it has no placeholder."""
        if isinstance(identifier, ScannedTuple) and len(identifier.items) >= 5:
            _, kind, key, _, number, *_ = identifier.items
            if isinstance(kind, ScannedGlobal) and isinstance(number, int):
                item_bytes = _ITEM_BYTES.get(kind.name.rpartition(".")[2].removesuffix("Storage"), 1)
                size = max(number * item_bytes, self.scan.storages.get(str(key), 0))
                self.scan.storages[str(key)] = size
        return None


def _check_call(name: str, arguments: object) -> None:
    """Refuses a call of a function that is data in itself with arguments that no checkpoint gives it.

    A few bytes ask for gigabytes: ``bytearray(2**32)``, ``encode(text, "bz2")``, a set of all numbers of a view.
    """
    items = arguments.items if isinstance(arguments, ScannedTuple) else (None,)
    if name == "torch.Size" or _REBUILD.fullmatch(name):
        dimensions = max(map(_length, items), default=0)
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions:,} dimensions")
    if name == "torch._tensor._rebuild_from_type_v2":
        if len(items) < 3 or not isinstance(items[0], ScannedGlobal):
            raise ValueError(f"a call of {name} that torch never writes")
        _check_call(items[0].name, items[2])
        return
    if name in _DATA and any(
        isinstance(item, ScannedCall) and _REBUILD.fullmatch(item.name) for item in items
    ):
        raise ValueError(f"{name} of a tensor, which torch never writes")
    if name == "collections.defaultdict" and not all(
        item is None or (isinstance(item, ScannedGlobal) and item.name in _FACTORIES) for item in items
    ):
        raise ValueError("a defaultdict whose values are made by something else than a type of Python")
    if name == "builtins.bytearray" and not all(
        isinstance(item, str | bytes) or item == ScannedCall("_codecs.encode") for item in items
    ):
        raise ValueError("a bytearray of something else than bytes, which torch never writes")
    if name == "_codecs.encode" and (len(items) != 2 or items[1] not in ("latin1", "latin-1")):
        raise ValueError("text that is encoded in another way than pickle encodes bytes")
    if name not in _SAFE_GLOBALS and not _REBUILD.fullmatch(name):
        raise ValueError(f"a call of {name}, which torch never writes")


def _length(item: object) -> int:
    """Returns how many values a list or tuple has, 0 for anything else."""
    return len(item.items) if isinstance(item, ScannedTuple) else getattr(item, "length", 0)


def _list(items: list[object]) -> ScannedList:
    result = ScannedList()
    result.extend(items)
    return result


def networks_in(content: object) -> list[str]:
    """Returns places of a list, or keys of a dictionary, under which networks may lie."""
    if isinstance(content, ScannedList | ScannedTuple):
        return [str(place) for place in _dicts_of(content)][:MAX_NETWORKS]
    if not isinstance(content, ScannedDict):
        return []
    lists = [value for value in content.entries.values() if isinstance(value, ScannedList) and value.dicts]
    keys = [key for key, value in content.entries.items() if isinstance(value, ScannedDict)]
    return (networks_in(lists[0]) if len(lists) == 1 else []) + keys[:MAX_NETWORKS]


def _dicts_of(content: ScannedList | ScannedTuple) -> dict[int, ScannedDict]:
    """The dictionaries in a list or tuple, by their places."""
    if isinstance(content, ScannedList):
        return content.dicts
    return {place: item for place, item in enumerate(content.items) if isinstance(item, ScannedDict)}


def _tuple(items: list[object]) -> ScannedTuple:
    weight = 1 + sum(item.weight if isinstance(item, ScannedTuple) else 1 for item in items)
    if weight > MAX_NESTED_VALUES:
        raise ValueError(f"a tuple of more than {MAX_NESTED_VALUES:,} values")
    return ScannedTuple(tuple(items), weight)


def state_dict_subscripts(content: object, wrappers: Iterable[str]) -> tuple[str, object]:
    """Returns the subscripts that lead to the state dict or model in `content`, and that."""
    if isinstance(content, ScannedDict):
        entries = {name: content.entries[name] for name in wrappers if name in content.entries}
        dicts = [name for name, value in entries.items() if isinstance(value, ScannedDict)]
        objects = [name for name, value in entries.items() if isinstance(value, ScannedCall)]
        for wrapper in (dicts + objects)[:1]:
            keys, inner = state_dict_subscripts(
                entries[wrapper], [name for name in wrappers if name != wrapper]
            )
            return f"[{wrapper!r}]{keys}", inner
    if isinstance(content, ScannedList | ScannedTuple):
        for place, network in list(_dicts_of(content).items())[:1]:
            keys, inner = state_dict_subscripts(network, wrappers)
            return f"[{place}]{keys}", inner
    return "", content


def is_attack(scan: Scan) -> bool:
    """Returns whether a pickle refers to code that no checkpoint needs.

    An attribute that is looked up for a harmless object (a function of torch, a nested class) is none.
    """
    harmless = not scan.looks_up and scan.looked_up > 0
    return any(_is_attack(name) and not (harmless and name == _GETATTR) for name in scan.unsafe_globals)


def _is_attack(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return bool(_ATTACK_MODULES & {part.lstrip("_") for part in module.split(".")}) or (
        module == "builtins" and attribute in _ATTACK_BUILTINS
    )


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Returns what the scan of a file says, for `evalsuite.models.checkpoints.pickle_scan.PickleScan`."""
    if question["folder"]:
        scan = scan_archive(question["path"], question["folder"], question["records"])
    else:
        scan = scan_legacy(question["path"], question["size"])
    keys, inner = state_dict_subscripts(scan.content, question["wrappers"])
    modules = inner.entries.get("full_state_dict") if isinstance(inner, ScannedDict) else None
    return {
        "unsafe_globals": [*scan.unsafe_globals],
        "protocol": scan.protocol,
        "keys": keys,
        "is_dict": isinstance(inner, ScannedDict),
        "has_modules": isinstance(modules, ScannedDict),
        "is_attack": is_attack(scan),
        "networks": networks_in(scan.content),
    }


def _limit(pickle_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    memory = MEMORY_BYTES + 4 * pickle_bytes
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
    ):
        highest = resource.getrlimit(kind)[1]
        if highest == resource.RLIM_INFINITY or value < highest:
            resource.setrlimit(kind, (value, highest))


def main() -> None:
    """Answers the question on the standard input."""
    question = json.load(sys.stdin)
    _limit(question["pickle_bytes"])
    try:
        result = answer(question)
    except MemoryError:
        raise
    except OSError as error:
        result = {"errno": error.errno, "error": str(error)}
    except Exception as error:  # a malformed pickle fails in many ways, each of them a damaged file
        result = {"error": str(error).strip().partition("\n")[0][:200] or type(error).__name__}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
