"""Digests of the code that a result depends on: the import closure of a plug-in, hashed as syntax trees.

A result stays valid as long as the code that computed it has not changed. That code is the closure of some
entries (the plug-in's class, and modules of evalsuite that every result depends on): their modules, what those
import, what that imports, and so on.

What counts as an import:
    * Every ``import`` statement, also inside functions, and ``import_module("name")`` with a literal; but none
      below ``if TYPE_CHECKING:``, which does not run. Other dynamic imports are not seen, and neither are the
      strings of registries: what is looked up by its name must be among the entries.
    * ``from package import name`` leads to the module that defines ``name``, also through re-exports. Names that a
      module's ``__getattr__`` imports are those that the module imports for type checkers, or that a table names
      (``{"Name": "module"}``). The re-exporting modules do not count, and neither do packages of which only a
      submodule is imported, although Python runs both: importing them must have no effect on results.
    * Imports are followed within evalsuite and within the importing module's own code: its top-level package, or
      the folder of a plug-in file and of modules outside packages. All else is third-party and merely named.
    * Modules of evalsuite in which no number is computed (exceptions, records, look-up of names) do not count.

What is hashed for each module:
    * Its syntax tree without docstrings and other statements that are mere constants, ``pass``, ``__all__``, blocks
      that do not run, imports and targets of registries. Comments and layout are no part of a tree. Annotations
      stay, as those of dataclass fields have a meaning.
    * What each imported name means: the digest of the tree that defines it if the import is followed, else the name
      of the module. So an import of another function with the same name is a change, but a module that moves or
      gets another name is none, as long as no function leaves it. Modules that are used as ``module.name`` are
      numbered in the order of their use, for the same reason.

Files are read and digests computed once in a process, when they are first asked for: a run asks at its start, so
that an edit during a long run does not change the digest of what was imported before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evalsuite._deprecated import MOVED
from evalsuite.errors import SuiteError
from evalsuite.runs.source_modules import (
    PACKAGE,
    Home,
    Module,
    entry_module,
    home_of,
    is_installed,
    loaded,
    module_in,
)
from evalsuite.runs.source_syntax import Import, hashed, read_source

Entry = str | type
"""A dotted module name, ``module:attribute``, or a class with all that it inherits."""

_WITHOUT_COMPUTATION = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        *("errors", "types", "registry", "plugin_config", "atomic_files"),
        *("datasets", "models", "producers", "evaluators"),  # tables of names
    )
)
"""Modules that declare, look up names or write files: no number is computed there, and new entries are frequent."""


def closure(entries: Iterable[Entry]) -> tuple[Path, ...]:
    """Returns the source files that the entries depend on, sorted.

    Raises:
        ModuleNotFoundError: If a module that is named has no source.
        SuiteError: If a file is not valid Python.
    """
    return tuple(sorted({module.path for module in _closure(frozenset(entries))}))


def code_digest(entries: Iterable[Entry]) -> str:
    """Returns the hexadecimal digest of the code that the entries depend on.

    Raises:
        ModuleNotFoundError: If a module that is named has no source.
        SuiteError: If a file is not valid Python.
    """
    return _digest(frozenset(entries))


def third_party(entries: Iterable[Entry]) -> frozenset[str]:
    """Returns the top-level names of the third-party packages that the code imports, installed or not.

    Raises:
        ModuleNotFoundError: If a module that is named has no source.
        SuiteError: If a file is not valid Python.
    """
    wanted = frozenset(entries)
    origins = {use.origin for module in _closure(wanted) for use in _uses(module)}
    origins |= {origin for entry in wanted for origin in _entry_origins(entry)}
    names = {origin.module.partition(".")[0] for origin in origins if isinstance(origin.module, str)}
    return frozenset(names - sys.stdlib_module_names)


@dataclass(frozen=True, slots=True)
class _Origin:
    """The place where an imported name is defined.

    Attributes:
        module: The module, or its dotted name if imports of it are not followed.
        name: What it defines; empty for the module as a whole.
    """

    module: Module | str
    name: str = ""


_Passed = frozenset[tuple[Module, str]]
"""Names that are being looked for, with the modules that they are looked for in."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A name of another module, and what the importing module calls it."""

    origin: _Origin
    alias: str = ""


# ---- entries and closures ----------------------------------------------------------------------------------------


@cache
def _digest(entries: frozenset[Entry]) -> str:
    """Digest of a closure: of its modules' digests as a multiset, so that file names have no part in it."""
    digests = {(module.path, _module_digest(module)) for module in _closure(entries)}
    return hashed(sorted(digest for _, digest in digests))


@cache
def _closure(entries: frozenset[Entry]) -> frozenset[Module]:
    origins = (origin for entry in entries for origin in _entry_origins(entry))
    pending = [origin.module for origin in origins if isinstance(origin.module, Module)]
    reached: set[Module] = set()
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            pending.extend(other for other in _neighbours(module) if other.name not in _WITHOUT_COMPUTATION)
    return frozenset(reached)


@cache
def _neighbours(module: Module) -> frozenset[Module]:
    return frozenset(use.origin.module for use in _uses(module) if isinstance(use.origin.module, Module))


@cache
def _entry_origins(entry: Entry) -> frozenset[_Origin]:
    if isinstance(entry, type):
        return frozenset(_class_origins(entry))
    name, _, attribute = entry.partition(":")
    module = entry_module(name)
    if module is None:
        raise ModuleNotFoundError(f"no source file of the module {name!r}", name=name)
    attribute = attribute.partition(".")[0]
    return (_bound(module, attribute) if attribute else frozenset()) or frozenset(
        {_Origin(module, attribute)}
    )


def _class_origins(kind: type) -> Iterator[_Origin]:
    """Modules of a class and its bases; installed bases of other packages are third-party, as imports would be."""
    top = kind.__module__.partition(".")[0]
    for base in kind.__mro__:
        name, base_top = base.__module__, base.__module__.partition(".")[0]
        if base_top in sys.stdlib_module_names:
            continue
        module = entry_module(name)
        if module is not None and (base_top in {top, PACKAGE} or not is_installed(module.path)):
            yield _Origin(module)
        elif loaded(name):  # an extension that has no source, but a version, or another package
            yield _Origin(name)
        elif base is kind:
            raise SuiteError(
                f"the class {name}.{kind.__qualname__} has no source file, so that an edit would go unnoticed; "
                "define it in a Python file"
            )


# ---- imported names to where they are defined --------------------------------------------------------------------


@cache
def _uses(module: Module) -> frozenset[_Use]:
    """What a module takes from others."""
    source = read_source(module)
    uses = {_Use(origin, item.alias) for item in source.imports for origin in _origins(item, module)}
    uses |= {_Use(origin) for place, chain in source.members for origin in _members(place, chain, module)}
    # the tree numbers modules that are followed: what they are called says nothing
    return frozenset(use if _is_named(use.origin) else _Use(use.origin) for use in uses)


def _is_named(origin: _Origin) -> bool:
    return bool(origin.name) or isinstance(origin.module, str)


def _members(place: str, chain: str, importer: Module) -> set[_Origin]:
    """Where the attributes of a module are defined; those of its submodules are looked up in turn."""
    origins: set[_Origin] = set()
    modules = {place}
    for name in chain.split("."):
        steps = {origin for item in modules for origin in _origins(Import(item, name), importer)}
        origins |= steps
        modules = {step.module.name for step in steps if isinstance(step.module, Module) and not step.name}
    return origins


def _origins(item: Import, importer: Module, passed: _Passed = frozenset()) -> frozenset[_Origin]:
    """Where an imported name is defined; several places if it depends on a condition, none without source."""
    home = home_of(item.module, importer)
    if home is None:
        return frozenset({_Origin(item.module, item.name)})
    for candidate in (item, _successor(item)):
        if origins := _sought(candidate, home, passed):
            return origins
    module = module_in(home, item.module)  # binds the name in a way that is not seen
    return frozenset() if module is None else frozenset({_Origin(module, item.name)})


def _sought(item: Import, home: Home, passed: _Passed) -> frozenset[_Origin]:
    """Where the source in a home says that an imported name is defined."""
    module = module_in(home, item.module)
    if item.name in ("", "*"):
        whole = frozenset() if module is None else frozenset({_Origin(module)})
        return whole | (_lazy_origins(module) if module is not None and item.name else frozenset())
    bound = frozenset() if module is None else _bound(module, item.name, passed)
    submodule = module_in(home, f"{item.module}.{item.name}")
    # if there are both, which of them is meant depends on what has been imported before
    return bound if submodule is None else bound | {_Origin(submodule)}


def _successor(item: Import) -> Import:
    """What an import of an old name of evalsuite's imports now; the same for other imports."""
    package, _, old = item.module.partition(".")
    if package != PACKAGE or old not in MOVED:
        return item
    if f"{old}.{item.name}" in MOVED:
        return Import(f"{PACKAGE}.{MOVED[f'{old}.{item.name}'][0]}", "", item.alias)
    home, renamed = MOVED[old]
    place, _, name = renamed.get(item.name, item.name).rpartition(":")
    return Import(f"{PACKAGE}.{place or home}", name, item.alias)


def _lazy_origins(module: Module) -> frozenset[_Origin]:
    """What ``import *`` makes ``__getattr__`` import."""
    return frozenset(
        origin for item in read_source(module).lazy.values() for origin in _origins(item, module)
    )


def _bound(module: Module, name: str, passed: _Passed = frozenset()) -> frozenset[_Origin]:
    """Where a name is defined that the source of a module binds; nothing if it binds no such name."""
    if (module, name) in passed:  # modules that re-export from each other
        return frozenset()
    source, passed = read_source(module), passed | {(module, name)}
    origins = frozenset({_Origin(module, name)}) if name in source.defined else frozenset()
    items = source.bindings.get(name, ())
    for item in items or ([source.lazy[name]] if name in source.lazy and not origins else []):
        origins |= _origins(item, module, passed)
    for star in source.stars if not origins else ():
        home = home_of(star, module)
        starred = None if home is None else module_in(home, star)
        origins |= frozenset() if starred is None else _bound(starred, name, passed)
    return origins


# ---- digests of single modules -----------------------------------------------------------------------------------


@cache
def _module_digest(module: Module) -> str:
    """Digest of a module's tree and of what the names mean that it imports."""
    numbered = [
        f"{number} {_meaning(origin)}"
        for number, name in enumerate(read_source(module).numbered)
        for origin in _origins(Import(name), module)
    ]
    uses = [f"{_meaning(use.origin)} {use.origin.name} {use.alias}" for use in _uses(module)]
    return hashed([read_source(module).body, *numbered, *sorted(uses)])


def _meaning(origin: _Origin) -> str:
    if isinstance(origin.module, str):
        return origin.module
    return "" if origin.module.name in _WITHOUT_COMPUTATION else read_source(origin.module).body
