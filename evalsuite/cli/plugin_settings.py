"""The settings of a plug-in in words: name, type, default and meaning, from its fields and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_ENTRY = re.compile(r"(\w+): (.*)")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a plug-in's table.

    Attributes:
        name: The key.
        type: Type of its value in words.
        default: Its default as TOML and JSON write it; empty for a key that is required.
        required: Whether it has no default.
        meaning: What it does; empty where no docstring says so.
    """

    name: str
    type: str
    default: str
    required: bool
    meaning: str


def settings_of(plugin: type) -> tuple[Setting, ...]:
    """Returns the settings of a registered dataclass, those that it inherits included, in the order of its fields.

    >>> from evalsuite.evaluators.noise import Noise
    >>> settings_of(Noise)[2].name, settings_of(Noise)[2].default, settings_of(Noise)[2].meaning
    ('draws', '1', 'Number of draws per kind and epsilon; each is a forward pass.')
    """
    if not dataclasses.is_dataclass(plugin):
        return ()
    meanings: dict[str, str] = {}
    for kind in reversed(plugin.__mro__):
        meanings |= documented_attributes(kind.__doc__ or "")
    hints = get_type_hints(plugin)
    return tuple(
        _setting(field, type_text(hints[field.name]), meanings.get(field.name, ""))
        for field in dataclasses.fields(plugin)
        if field.init
    )


def documented_attributes(docstring: str) -> dict[str, str]:
    """Returns the entries of the section ``Attributes:`` of a docstring, each on one line.

    >>> documented_attributes("A thing." + chr(10) + "Attributes:" + chr(10) + "    size: How large.")
    {'size': 'How large.'}
    """
    entries: dict[str, str] = {}
    name, inside, indent = "", False, 0
    for line in inspect.cleandoc(docstring).splitlines():
        depth = len(line) - len(line.lstrip())
        if not depth and line:
            inside, name = line == "Attributes:", ""
            continue
        if not inside or not line:
            continue
        entry = _ENTRY.match(line.strip())
        if entry and (not name or depth <= indent):
            name, indent = entry[1], depth
            entries[name] = entry[2]
        elif name:
            entries[name] += f" {line.strip()}"
    return entries


def type_text(hint: Any) -> str:
    """Returns a type as a reader of a suite would call it.

    >>> type_text(tuple[float, ...]), type_text(float | None), type_text(Literal["a", "b"])
    ('list of float', 'float or none', '"a" or "b"')
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(_toml, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(type_text, parts))
    if origin is tuple:
        repeated = len(parts) == 2 and parts[1] is Ellipsis
        return f"list of {type_text(parts[0])}" if repeated else f"list of {len(parts)} {type_text(parts[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "table"
    if hint is NoneType:
        return "none"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _setting(field: dataclasses.Field[Any], kind: str, meaning: str) -> Setting:
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return Setting(field.name, kind, "" if required else _toml(default), required, meaning)


def _toml(value: object) -> str:
    """A default as a suite would write it; TOML has no null."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list | frozenset):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
