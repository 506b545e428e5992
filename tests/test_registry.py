from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from textwrap import dedent
from typing import ClassVar

import pytest

from evalsuite.errors import SuiteError, UnknownNameError, UserError
from evalsuite.plugin_config import build
from evalsuite.producers import PRODUCERS
from evalsuite.registry import Registry, RegistryEntry, import_plugin_file, unknown_name

BUILTIN = {
    "counter": "collections:Counter",
    "decimal": "decimal:Decimal",
    "nowhere": "evalsuite_has_no_such:Thing",
    "gone": "collections:NoSuchThing",
}


@pytest.fixture
def things(monkeypatch: pytest.MonkeyPatch) -> Registry[type]:
    """A registry with built-in plug-ins and two of another package, one under a name that is taken."""
    points = EntryPoints(
        [
            EntryPoint("fraction", "fractions:Fraction", "evalsuite.things"),
            EntryPoint("decimal", "fractions:Fraction", "evalsuite.things"),
        ]
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points.select(group=group))
    return Registry("thing", builtin=BUILTIN, group="evalsuite.things")


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "mine.py"
    for name in [name for name in sys.modules if name.startswith("evalsuite_plugin_")]:
        del sys.modules[name]


def test_plugins_come_from_the_package_other_packages_and_decorators(things: Registry[type]) -> None:
    @things.register("mine")
    class Mine:
        """A plug-in of the user.

        At length.
        """

    assert list(things) == ["counter", "decimal", "fraction", "gone", "mine", "nowhere"]
    assert things.get("counter").__name__ == "Counter"
    assert things.get("fraction").__name__ == "Fraction"
    assert things.get("decimal").__name__ == "Decimal"  # the plug-ins of evalsuite come first
    assert things.get("mine") is Mine
    assert "mine" in things
    assert "fraction" in things
    assert "other" not in things
    assert (
        RegistryEntry("mine", "A plug-in of the user.", f"{Mine.__module__}:{Mine.__qualname__}")
        in things.entries()
    )


def test_a_listing_reads_sources_and_imports_nothing(
    things: Registry[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"imports {name}"))
    lines = {entry.name: entry for entry in things.entries()}
    assert lines["counter"].text.startswith("Dict subclass for counting hashable items.")
    assert lines["counter"].defined == "collections:Counter"
    assert lines["gone"].text == ""
    assert lines["nowhere"].text == "(cannot be found: is its package installed?)"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("countr", "unknown thing 'countr': did you mean 'counter'? Known: counter, decimal, fraction"),
        ("zzz", "unknown thing 'zzz'; known: counter, decimal, fraction"),
    ],
    ids=["near", "far"],
)
def test_unknown_names_are_refused_with_near_misses(things: Registry[type], name: str, sentence: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        things.get(name)
    assert str(caught.value).startswith(sentence)
    assert isinstance(caught.value, KeyError)


def test_a_long_list_of_names_does_not_follow_a_suggestion() -> None:
    """Beside a near miss the other names only hide it; without one they are what a reader needs."""
    many = [f"method-{index}" for index in range(40)] + ["magnitude"]
    assert unknown_name("producer", "magnitud", many) == (
        "unknown producer 'magnitud': did you mean 'magnitude'? (41 names are known)"
    )
    assert unknown_name("producer", "zzz", many).endswith("; known: " + ", ".join(sorted(many)))


def test_an_empty_registry_has_no_names() -> None:
    assert unknown_name("thing", "x", []) == "unknown thing 'x'; known: none"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nowhere", "No module named 'evalsuite_has_no_such'"), ("gone", "has no attribute 'NoSuchThing'")],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_module(
    things: Registry[type], name: str, reason: str
) -> None:
    with pytest.raises(
        UserError, match=f"^the thing '{name}' cannot be loaded from {BUILTIN[name]} .*{reason}"
    ):
        things.get(name)


@pytest.mark.parametrize("imported", [False, True], ids=["not yet imported", "imported"])
def test_a_name_cannot_be_taken_twice(things: Registry[type], imported: bool) -> None:
    if imported:
        things.get("counter")
    with pytest.raises(
        UserError, match=r"^the thing name 'counter' is taken by collections:Counter; register .*Mine"
    ):

        @things.register("counter")
        class Mine:
            pass


def test_a_file_that_is_read_again_may_register_again(things: Registry[type]) -> None:
    for _ in range(2):

        @things.register("mine")
        class Mine:
            pass

    assert things.get("mine") is Mine


def test_a_plugin_file_runs_once_however_it_is_named(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.write_text(
        dedent("""
        from __future__ import annotations
        import dataclasses, pathlib
        @dataclasses.dataclass(frozen=True)
        class Settings:  # dataclasses look their module up in sys.modules
            size: int = 3
        with (pathlib.Path(__file__).parent / "ran").open("a") as file:
            file.write("x")
        """)
    )
    monkeypatch.chdir(plugin.parent)
    for path in (plugin, Path("mine.py"), plugin.parent / "." / "mine.py"):
        import_plugin_file(path)
    assert (plugin.parent / "ran").read_text() == "x"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, r"^plug-in file .*mine\.py: no such Python file; give its path relative to the suite$"),
        ("1 / 0", r"^plug-in file .*mine\.py does not run: ZeroDivisionError: division by zero$"),
        ("def (", r"^plug-in file .*mine\.py does not run: SyntaxError: "),
    ],
    ids=["missing", "raises", "no Python"],
)
def test_a_plugin_file_that_does_not_run(plugin: Path, source: str | None, sentence: str) -> None:
    if source is not None:
        plugin.write_text(source)
    for _ in range(2):  # the second attempt must run the file again
        with pytest.raises(SuiteError, match=sentence):
            import_plugin_file(plugin)


def test_a_users_mistake_inside_a_plugin_file_keeps_its_own_sentence(plugin: Path) -> None:
    plugin.write_text("from evalsuite.errors import UserError\nraise UserError('the name is taken')")
    with pytest.raises(UserError, match=r"^plug-in file .*mine\.py: the name is taken$"):
        import_plugin_file(plugin)


@dataclass(frozen=True)
class Renamed:
    """A plug-in with a setting and a value that the last release named otherwise."""

    renamed_settings: ClassVar[Mapping[str, str]] = {"amount": "count"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"schedule": {"cascade": "iterative"}}
    count: int = 1
    schedule: str = "one-shot"


def test_renamed_settings_and_values_still_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="is now") as warnings:
        plugin = build(Renamed, {"amount": 3, "schedule": "cascade"}, where="suite.toml")
    assert plugin == Renamed(3, "iterative")
    assert [str(warning.message) for warning in warnings] == [
        "suite.toml: found amount = 3, which is now count = 3; change the table",
        "suite.toml: found schedule = 'cascade', which is now schedule = 'iterative'; change the table",
    ]


def test_a_setting_under_both_names_is_refused() -> None:
    with pytest.raises(SuiteError, match=r"^x: unknown key 'amount'"):
        build(Renamed, {"amount": 3, "count": 3}, where="x")


@pytest.mark.parametrize("name", list(PRODUCERS))
def test_the_new_names_of_settings_are_fields(name: str) -> None:
    kind = PRODUCERS.get(name)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    renamed: Mapping[str, str] = getattr(kind, "renamed_settings", {})
    assert set(renamed.values()) <= fields
    assert set(getattr(kind, "renamed_values", {})) <= fields
    assert not set(renamed) & fields
