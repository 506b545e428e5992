"""Plug-ins from tables of a suite: a table is the keyword arguments of a registered frozen dataclass.

There is no second schema that could drift: keys, types and defaults are the dataclass's own.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from evalsuite.errors import SuiteError, UnknownNameError, UserError
from evalsuite.registry import Registry, expectation, unknown_name

T = TypeVar("T")

OPTIONAL_KEY: Mapping[str, bool] = MappingProxyType({"evalsuite_optional_key": True})
"""Metadata of a dataclass field that tables leave out at its default: for settings that are newer than results.

Digests are of tables. A setting that is in none of them where it changes nothing leaves finished results valid.
"""


@dataclass(frozen=True)
class PluginConfig(Generic[T]):
    """A plug-in with its settings, as a table of a suite configures it.

    Attributes:
        label: Its name in reports; the registered name unless the table has a label.
        name: Registered name.
        settings: All its settings, defaults included.
        plugin: The plug-in itself.
    """

    label: str
    name: str
    settings: Mapping[str, Any]
    plugin: T

    @property
    def table(self) -> dict[str, Any]:
        """Name and settings: enough to make the plug-in again."""
        return {"name": self.name, **self.settings}


def from_table(registry: Registry[type[T]], table: Mapping[str, Any] | str, *, where: str) -> PluginConfig[T]:
    """Returns the plug-in of a table, or of a bare name.

    Raises:
        SuiteError: If the table has no registered name, or a key or value that the plug-in does not take.
    """
    settings = {"name": table} if isinstance(table, str) else dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise SuiteError(
            f"{where}: found no name, expected the name of a {registry.kind}: {', '.join(registry)}"
        )
    label = settings.pop("label", name)
    if not isinstance(label, str) or not label.strip():
        raise SuiteError(f"{where}: found label = {label!r}, expected words")
    try:
        kind = registry.get(name)
    except UnknownNameError as error:
        raise SuiteError(f"{where}: {error}") from error
    if not dataclasses.is_dataclass(kind) or inspect.isabstract(kind):
        missing = ", ".join(sorted(getattr(kind, "__abstractmethods__", ()))) or "none"
        raise SuiteError(
            f"{where}, {name}: found {kind.__qualname__}, expected a frozen dataclass without abstract methods "
            f"(abstract now: {missing}); fix the plug-in"
        )
    plugin = build(kind, settings, where=f"{where}, {name}")
    values = without_defaults(plugin, dataclasses.asdict(plugin))
    return PluginConfig(label, name, json.loads(json.dumps(values, default=str)), plugin)


def without_defaults(plugin: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a plug-in's fields without those of `OPTIONAL_KEY` fields that have their default.

    Args:
        plugin: An instance of a dataclass.
        values: Its fields by name, in any form.
    """
    absent = {
        field.name
        for field in dataclasses.fields(plugin)  # type: ignore[arg-type]  # all plug-ins are dataclasses
        if OPTIONAL_KEY.items() <= field.metadata.items() and getattr(plugin, field.name) == _default(field)
    }
    return {name: value for name, value in values.items() if name not in absent}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def from_tables(
    registry: Registry[type[T]],
    tables: Iterable[Mapping[str, Any]],
    *,
    where: str,
    reserved: Mapping[str, str],
) -> tuple[PluginConfig[T], ...]:
    """Returns the plug-ins of a list of tables, whose labels must differ.

    Args:
        registry: The plug-ins of one kind.
        tables: One per plug-in.
        where: Place in a file, for error messages.
        reserved: Labels that no plug-in may have, and their use.

    Raises:
        SuiteError: If a label is there twice or reserved, or a table is not as it must be.
    """
    plugins = tuple(from_table(registry, table, where=where) for table in tables)
    labels = [plugin.label for plugin in plugins]
    for label in labels:
        if labels.count(label) > 1 or label in reserved:
            problem = f"is reserved for {reserved[label]}" if label in reserved else "is there twice"
            raise SuiteError(
                f"{where}: the label {label!r} {problem}; give each {registry.kind} a label of its own"
            )
    return plugins


def build(kind: type[T], table: Mapping[str, Any], *, where: str) -> T:
    """Returns an instance of a dataclass from a TOML table: keys known, values of the right type, settings sensible.

    Args:
        kind: A dataclass; its ``renamed_settings`` are earlier names of keys, its ``renamed_values`` those of values.
        table: Its keyword arguments, as plain JSON.
        where: Place in a file, for error messages.

    Raises:
        SuiteError: At the first mistake, with the key and the nearest known one.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all kinds are dataclasses
    table = _with_new_names(kind, table, where=where)
    for key in table:
        if key not in fields:
            raise SuiteError(f"{where}: {unknown_name('key', key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise SuiteError(f"{where}: the key {name!r} is missing; expected {field.type}")
    hints = get_type_hints(kind)
    values = {key: _typed(hints[key], value, where=f"{where}, key {key!r}") for key, value in table.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise SuiteError(f"{where}: {error}") from error


def _with_new_names(kind: type, table: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """`table` with the present names of keys and values that the last release named otherwise, with a warning."""
    new_keys: Mapping[str, str] = getattr(kind, "renamed_settings", {})
    new_values: Mapping[str, Mapping[str, str]] = getattr(kind, "renamed_values", {})
    renamed = {}
    for old_key, old_value in table.items():
        key = new_keys.get(old_key, old_key)
        if key != old_key and key in table:
            key = old_key  # both names are there: the earlier one is an unknown key
        value = new_values.get(key, {}).get(old_value, old_value) if isinstance(old_value, str) else old_value
        if (key, value) != (old_key, old_value):
            sentence = (
                f"{where}: found {old_key} = {old_value!r}, which is now {key} = {value!r}; change the table"
            )
            warnings.warn(sentence, DeprecationWarning, stacklevel=3)
        renamed[key] = value
    return renamed


def _typed(hint: Any, value: Any, *, where: str) -> Any:
    """`value` as the type of a field's annotation, strictly: no text for a number, no fraction for a count."""
    try:
        # through JSON, where strictness still takes a list for a tuple and an integer for a float
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" for part in first["loc"])
        raise SuiteError(f"{where}{place}: found {first['input']!r}, {expectation(first['msg'])}") from error
