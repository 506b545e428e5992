"""Every setting of every registered plug-in has a meaning, and the command prints it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from evalsuite.cli.commands.listing import registries
from evalsuite.cli.plugin_settings import documented_attributes, settings_of

PLUGINS = [(kind, name) for kind, registry in registries().items() for name in registry]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_setting_has_a_meaning(kind: str, name: str) -> None:
    plugin: Any = registries()[kind].get(name)
    settings = settings_of(plugin)
    assert [setting.name for setting in settings] == [field.name for field in dataclasses.fields(plugin)]
    without = [setting.name for setting in settings if len(setting.meaning) < 5]
    assert not without, f"{kind} {name}: add {without} to the section Attributes of {plugin.__qualname__}"
    assert all(setting.type and (setting.required or setting.default) for setting in settings)


def test_inherited_settings_have_the_meaning_of_the_nearest_docstring() -> None:
    @dataclasses.dataclass
    class Base:
        """A base.

        Attributes:
            size: Of the base,
                over two lines.
            other: Kept: as it is.

        References:
            Somebody: a paper.
        """

        size: int
        other: float | None = None

    @dataclasses.dataclass
    class Derived(Base):
        """A derived one.

        Attributes:
            size: Of the derived one.
        """

    size, other = settings_of(Derived)
    assert (size.meaning, size.required, size.type) == ("Of the derived one.", True, "int")
    assert (other.meaning, other.default, other.type) == ("Kept: as it is.", "none", "float or none")
    assert documented_attributes(Base.__doc__ or "")["size"] == "Of the base, over two lines."
