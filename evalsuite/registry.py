"""Registries of plug-ins by name: those of evalsuite, those of other packages, and those of a user's file.

Built-in plug-ins and those of other packages (entry points) are kept as ``module:attribute`` until they are
used, so that listing names imports nothing heavy.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from evalsuite.errors import SuiteError, UnknownNameError, UserError

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One line of a listing of plug-ins.

    Attributes:
        name: Registered name.
        text: First line of the plug-in's docstring.
        defined: ``module:attribute``.
    """

    name: str
    text: str
    defined: str


class Registry(Generic[T]):
    """The plug-ins of one kind, by name.

    Args:
        kind: Its name in error messages, for example ``producer``.
        builtin: Name to ``module:attribute`` of the plug-ins of evalsuite.
        group: Entry-point group under which other packages register theirs.
    """

    def __init__(self, kind: str, *, builtin: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self._group = group
        self._targets: dict[str, str] = dict(builtin)
        self._loaded: dict[str, T] = {}
        self._searched = False

    def register(self, name: str) -> Callable[[P], P]:
        """Returns a decorator that registers a plug-in under `name`.

        Raises:
            UserError: If another plug-in has the name already.
        """

        def add(plugin: P) -> P:
            registered = self._loaded.get(name)
            is_taken = registered is not None or name in self._targets
            if is_taken and _address(registered) != _address(plugin):
                where = self._targets.get(name) or _address(registered)
                raise UserError(
                    f"the {self.kind} name {name!r} is taken by {where}; "
                    f"register {_address(plugin)} under another name"
                )
            self._loaded[name] = plugin  # type: ignore[assignment]  # T is the kind, P keeps the class's own type
            return plugin

        return add

    def get(self, name: str) -> T:
        """Returns the plug-in called `name`, importing it if need be.

        Raises:
            UnknownNameError: If there is none; the message has the nearest names.
            UserError: If it cannot be imported.
        """
        if name not in self._loaded:
            target = self._all_targets().get(name)
            if target is None:
                raise UnknownNameError(unknown_name(self.kind, name, self))
            module, _, attribute = target.partition(":")
            try:
                self._loaded[name] = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"the {self.kind} {name!r} cannot be loaded from {target} ({error}); "
                    "fix or remove the package that registers it"
                ) from error
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._all_targets(), *self._loaded}))

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self._all_targets()

    def entries(self) -> list[RegistryEntry]:
        """Returns a line for each name, without importing the plug-ins."""
        return [self._entry(name) for name in self]

    def _entry(self, name: str) -> RegistryEntry:
        if name in self._loaded:
            plugin = self._loaded[name]
            return RegistryEntry(name, _first_line(inspect.getdoc(plugin)), _address(plugin))
        target = self._all_targets()[name]
        return RegistryEntry(name, _described(target), target)

    def _all_targets(self) -> dict[str, str]:
        if not self._searched:
            from importlib.metadata import entry_points

            self._searched = True
            for point in entry_points(group=self._group):
                self._targets.setdefault(point.name, point.value)
        return self._targets


LISTED_BESIDE_NEAR = 12
"""Most names that are listed after near misses."""
_PLAIN = {"a valid tuple": "a list of values (0.5,0.5 on a command line)"}


def expectation(message: str) -> str:
    """Returns the expectation in a message of pydantic.

    >>> expectation("Input should be 'A' or 'B'")
    "expected 'A' or 'B'"
    >>> expectation("Input should be a valid number, unable to parse string as a number")
    'expected a valid number'
    >>> expectation("Input should be a valid tuple")
    'expected a list of values (0.5,0.5 on a command line)'
    >>> expectation("Field required")
    'field required'
    """
    if message.startswith("Input should be "):
        expected = message.removeprefix("Input should be ").partition(", unable")[0]
        return f"expected {_PLAIN.get(expected, expected)}"
    return message[:1].lower() + message[1:]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns the error message for a `name` that is not among the `known` ones, with near misses.

    Beside near misses a list of more than `LISTED_BESIDE_NEAR` names is left out: it would hide them.

    >>> unknown_name("producer", "magnitud", ["magnitude", "random"])
    "unknown producer 'magnitud': did you mean 'magnitude'? Known: magnitude, random"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2)
    if not near:
        return f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}"
    question = f"unknown {kind} {name!r}: did you mean {' or '.join(map(repr, near))}?"
    if len(names) > LISTED_BESIDE_NEAR:
        return f"{question} ({len(names)} names are known)"
    return f"{question} Known: {', '.join(names)}"


def import_plugin_file(path: Path) -> None:
    """Runs a user's plug-in file, the first time that it is named.

    Raises:
        SuiteError: If there is no such file or it does not run.
    """
    resolved = path.resolve()
    name = f"evalsuite_plugin_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, resolved)
    if not resolved.is_file() or spec is None or spec.loader is None:
        raise SuiteError(f"plug-in file {path}: no such Python file; give its path relative to the suite")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before running it: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, UserError):
            raise SuiteError(f"plug-in file {path}: {error}") from error
        raise SuiteError(f"plug-in file {path} does not run: {type(error).__name__}: {error}") from error


def _address(plugin: object) -> str:
    return f"{getattr(plugin, '__module__', '?')}:{getattr(plugin, '__qualname__', plugin)}"


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _described(target: str) -> str:
    """First line of the docstring of ``module:attribute``, read from the source without running it."""
    module, _, attribute = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return "(cannot be found: is its package installed?)"
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return _first_line(ast.get_docstring(node))
    return ""
