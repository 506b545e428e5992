"""Where modules lie on the disk, and which of their imports are followed: found without importing any."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Home:
    """A place within which imports are followed.

    Attributes:
        package: The top-level package; empty for a folder of modules that are imported by their bare names.
        folders: Where the modules lie; several for a namespace package, none for a single installed module.
    """

    package: str
    folders: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """A source file, with the name that it is imported by."""

    name: str
    path: Path
    home: Home

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@cache
def entry_module(name: str) -> Module | None:
    """The module of an entry: the file that it was loaded from, else the file that it would be loaded from."""
    top, _, rest = name.partition(".")
    places = located(top) or ()
    path = next(iter(loaded(name)), None)
    if path is None and not rest:
        path = next((place for place in places if place.suffix == ".py"), None)
    if folders := tuple(place for place in places if place.is_dir()):
        home = Home(top, folders)
    elif path is None:
        return None
    else:
        home = Home(top, ()) if is_installed(path) else Home("", (path.parent,))
    if path is None or path.is_dir():
        return module_in(home, name)
    return Module(name, path, home) if path.suffix == ".py" and path.is_file() else None


@cache
def located(top: str) -> tuple[Path, ...] | None:
    """Folders of a top-level package or the file of a top-level module; none if built in, ``None`` if unknown."""
    if top in sys.modules:
        return loaded(top)
    spec = importlib.util.find_spec(top)  # imports nothing, as the name has no parent
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    return _paths(folders if folders is not None else [spec.origin])


def loaded(name: str) -> tuple[Path, ...]:
    """Folders of a package or the file of a module that has been imported; none if it has none."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None) or getattr(getattr(module, "__spec__", None), "origin", None)
    return _paths(getattr(module, "__path__", [file]))


def _paths(places: Iterable[str | None]) -> tuple[Path, ...]:
    return tuple(path.resolve() for path in map(Path, filter(None, places)) if path.exists())


def is_installed(path: Path) -> bool:
    """Whether a file belongs to an installed package."""
    return not _INSTALLED.isdisjoint(path.parts)


@cache
def module_in(home: Home, name: str) -> Module | None:
    """The module called `name` in a home; ``None`` if it has no source there."""
    parts = name.split(".")[1 if home.package else 0 :]
    for folder in home.folders:
        stem = folder.joinpath(*parts)
        for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if path.is_file():
                return Module(name, path, home)
    return None


@cache
def home_of(name: str, importer: Module) -> Home | None:
    """Where a module that another one imports is looked for; ``None`` if the import is not followed."""
    top = name.partition(".")[0]
    if top == PACKAGE:
        return Home(PACKAGE, located(PACKAGE) or ())
    if importer.home.package:
        return importer.home if top == importer.home.package else None
    return importer.home if _is_beside(top, importer.home) else None


def _is_beside(top: str, home: Home) -> bool:
    """Whether a name means what lies in a folder of plug-ins, and not an installed package that is called the same."""
    places = located(top)
    if places is None:  # may be put on the path when it is needed
        return any((folder / file).exists() for folder in home.folders for file in (top, f"{top}.py"))
    return any(place.parent in home.folders for place in places)


def followed(name: str, importer: Module) -> Module | None:
    """The module that a name means to another one; ``None`` if it is not followed or has no source."""
    home = home_of(name, importer)
    return None if home is None else module_in(home, name)
