"""Architectures as tables of settings, and back: what a suite contains and what is saved beside weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from evalsuite.errors import SuiteError
from evalsuite.models import MODELS
from evalsuite.plugin_config import without_defaults
from evalsuite.registry import expectation, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalsuite.models.architectures.base import Architecture


def from_settings(settings: Mapping[str, Any]) -> Architecture:
    """Returns the architecture that a table such as ``{"name": "resnet20", "shortcut": "B"}`` describes.

    Args:
        settings: ``name`` is a registered model; the other keys are its fields.

    Raises:
        SuiteError: If the table has no name, an unknown key or a value of the wrong type.
        UnknownNameError: If no model has the name.

    >>> from_settings({"name": "resnet20", "classes": 100}).classes
    100
    """
    values = dict(settings)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise SuiteError(f"model: found name = {name!r}, expected one of {', '.join(MODELS)}")
    kind = MODELS.get(name)
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in values:
        if key not in fields:
            raise SuiteError(unknown_name(f"key of model {name}", key, fields))
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise SuiteError(f"model {name}: the key {key!r} is missing") from error
        raise SuiteError(
            f"model {name}: key {key!r}: found {first['input']!r}, {expectation(first['msg'])}"
        ) from error


def to_settings(architecture: Architecture) -> dict[str, Any]:
    """Returns the table from which `from_settings` builds `architecture` again, ready for JSON.

    Raises:
        SuiteError: If its class is not registered.

    >>> from evalsuite.models.architectures.cnn import SmallCNN
    >>> from_settings(to_settings(SmallCNN(classes=5))) == SmallCNN(classes=5)
    True
    """
    kind = type(architecture)
    name = next((name for name in MODELS if MODELS.get(name) is kind), None)
    if name is None:
        raise SuiteError(
            f"model {kind.__name__}: it is not registered; decorate it with @evalsuite.plugins.register_architecture"
        )
    values = TypeAdapter(kind).dump_python(architecture, mode="json")
    return {"name": name, **without_defaults(architecture, values)}
