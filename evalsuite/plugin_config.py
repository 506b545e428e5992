"""Tables to plug-ins: a table is the keyword arguments of a registered frozen dataclass.

There is no second schema that could drift: keys, types and defaults are the dataclass's own.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from evalsuite.errors import SuiteError, UnknownNameError, UserError
from evalsuite.registry import Registry, unknown, wanted

T = TypeVar("T")


@dataclass(frozen=True)
class PluginConfig(Generic[T]):
    """Is a plug-in that a suite chose.

    Attributes:
        label: What reports call it; the name unless the suite says otherwise.
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
    """Returns the plug-in that a table (or a bare name) chooses.

    Raises:
        SuiteError: If the table has no name, or a key or value that the plug-in does not take.
        UnknownNameError: If no plug-in has the name.
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
            f"(abstract now: {missing}); mend the plug-in"
        )
    plugin = build(kind, settings, where=f"{where}, {name}")
    return PluginConfig(label, name, json.loads(json.dumps(dataclasses.asdict(plugin), default=str)), plugin)


def from_tables(
    registry: Registry[type[T]],
    tables: Iterable[Mapping[str, Any]],
    *,
    where: str,
    reserved: Mapping[str, str],
) -> tuple[PluginConfig[T], ...]:
    """Returns what a list of tables chooses, with labels that tell the choices apart.

    Args:
        registry: Where the names are looked up.
        tables: One per choice.
        where: Place in a file, for error messages.
        reserved: Labels that are taken, and by what.

    Raises:
        SuiteError: If a label is there twice or reserved, or a table chooses nothing.
    """
    choices = tuple(from_table(registry, table, where=where) for table in tables)
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1 or label in reserved:
            what = f"is kept for {reserved[label]}" if label in reserved else "is there twice"
            raise SuiteError(
                f"{where}: the label {label!r} {what}; give each {registry.kind} a label of its own"
            )
    return choices


def build(kind: type[T], table: Mapping[str, Any], *, where: str) -> T:
    """Returns an instance of a dataclass from a TOML table: keys known, values of the right type, settings sensible.

    Args:
        kind: A dataclass.
        table: Its keyword arguments, as plain JSON.
        where: Place in a file, for error messages.

    Raises:
        SuiteError: At the first mistake, with the key and the nearest known one.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all kinds are dataclasses
    for key in table:
        if key not in fields:
            raise SuiteError(f"{where}: {unknown('key', key, fields)}")
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


def _typed(hint: Any, value: Any, *, where: str) -> Any:
    """`value` as what a field's annotation says, strictly: no text for a number, no fraction for a count."""
    try:
        # through JSON, where strictness still takes a list for a tuple and an integer for a float
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" for part in first["loc"])
        raise SuiteError(f"{where}{place}: found {first['input']!r}, {wanted(first['msg'])}") from error
