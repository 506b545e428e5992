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

import ast
import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress
from pathlib import Path

from evalsuite._deprecated import MOVED
from evalsuite.errors import SuiteError

Entry = str | type
"""A dotted module name, ``module:attribute``, or a class with all that it inherits."""

_PACKAGE = __name__.partition(".")[0]
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_WITHOUT_COMPUTATION = frozenset(
    f"{_PACKAGE}.{name}"
    for name in (
        *("errors", "types", "registry", "plugin_config", "atomic_files"),
        *("datasets", "models", "producers", "evaluators"),  # tables of names
    )
)
"""Modules that declare, look up names or write files: no number is computed there, and new entries are frequent."""
_UNSPELLED = frozenset({"ctx", "kind", "type_comment"})  # follow from the place, or change nothing


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
class _Home:
    """A place within which imports are followed.

    Attributes:
        package: The top-level package; empty for a folder of modules that are imported by their bare names.
        folders: Where the modules lie; several for a namespace package, none for a single installed module.
    """

    package: str
    folders: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Module:
    """A source file, with the name that it is imported by."""

    name: str
    path: Path
    home: _Home

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Origin:
    """The place where an imported name is defined.

    Attributes:
        module: The module, or its dotted name if imports of it are not followed.
        name: What it defines; empty for the module as a whole.
    """

    module: _Module | str
    name: str = ""


_Passed = frozenset[tuple[_Module, str]]
"""Names that are being looked for, with the modules that they are looked for in."""


@dataclass(frozen=True, slots=True)
class _Import:
    """One imported name.

    Attributes:
        module: Absolute name of the module.
        name: What is taken from it: a name, ``*`` for all names, or nothing for the module as a whole.
        alias: What the statement calls it; empty for ``import a.b``.
    """

    module: str
    name: str = ""
    alias: str = ""


@dataclass(frozen=True, slots=True)
class _Use:
    """A name of another module, and what the importing module calls it."""

    origin: _Origin
    alias: str = ""


@dataclass(frozen=True, slots=True)
class _Source:
    """The content of a source file.

    Attributes:
        body: Digest of its syntax tree, which holds no module names.
        imports: Every import that may run.
        members: Modules and the dotted names that are looked up in them as attributes.
        numbered: Modules that the tree refers to, in order.
        bindings: Top-level names, each with the imports that bind it.
        defined: Top-level names that are bound in another way than by an import.
        lazy: Names that ``__getattr__`` imports when they are first used.
        stars: Modules of which all names are imported.
    """

    body: str
    imports: frozenset[_Import]
    members: frozenset[tuple[str, str]]
    numbered: tuple[str, ...]
    bindings: Mapping[str, tuple[_Import, ...]]
    defined: frozenset[str]
    lazy: Mapping[str, _Import]
    stars: tuple[str, ...]


# ---- entries and closures ----------------------------------------------------------------------------------------


@cache
def _digest(entries: frozenset[Entry]) -> str:
    """Digest of a closure: of its modules' digests as a multiset, so that file names have no part in it."""
    digests = {(module.path, _module_digest(module)) for module in _closure(entries)}
    return _hashed(sorted(digest for _, digest in digests))


@cache
def _closure(entries: frozenset[Entry]) -> frozenset[_Module]:
    origins = (origin for entry in entries for origin in _entry_origins(entry))
    pending = [origin.module for origin in origins if isinstance(origin.module, _Module)]
    reached: set[_Module] = set()
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            pending.extend(other for other in _neighbours(module) if other.name not in _WITHOUT_COMPUTATION)
    return frozenset(reached)


@cache
def _neighbours(module: _Module) -> frozenset[_Module]:
    return frozenset(use.origin.module for use in _uses(module) if isinstance(use.origin.module, _Module))


@cache
def _entry_origins(entry: Entry) -> frozenset[_Origin]:
    if isinstance(entry, type):
        return frozenset(_class_origins(entry))
    name, _, attribute = entry.partition(":")
    module = _entry_module(name)
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
        module = _entry_module(name)
        if module is not None and (base_top in {top, _PACKAGE} or not _is_installed(module.path)):
            yield _Origin(module)
        elif _loaded(name):  # an extension that has no source, but a version, or another package
            yield _Origin(name)
        elif base is kind:
            raise SuiteError(
                f"the class {name}.{kind.__qualname__} has no source file, so that an edit would go unnoticed; "
                "define it in a Python file"
            )


# ---- modules to files, without importing any ---------------------------------------------------------------------


@cache
def _entry_module(name: str) -> _Module | None:
    """The module of an entry: the file that it was loaded from, else the file that it would be loaded from."""
    top, _, rest = name.partition(".")
    places = _located(top) or ()
    path = next(iter(_loaded(name)), None)
    if path is None and not rest:
        path = next((place for place in places if place.suffix == ".py"), None)
    if folders := tuple(place for place in places if place.is_dir()):
        home = _Home(top, folders)
    elif path is None:
        return None
    else:
        home = _Home(top, ()) if _is_installed(path) else _Home("", (path.parent,))
    if path is None or path.is_dir():
        return _module(home, name)
    return _Module(name, path, home) if path.suffix == ".py" and path.is_file() else None


@cache
def _located(top: str) -> tuple[Path, ...] | None:
    """Folders of a top-level package or the file of a top-level module; none if built in, ``None`` if unknown."""
    if top in sys.modules:
        return _loaded(top)
    spec = importlib.util.find_spec(top)  # imports nothing, as the name has no parent
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    return _paths(folders if folders is not None else [spec.origin])


def _loaded(name: str) -> tuple[Path, ...]:
    """Folders of a package or the file of a module that has been imported; none if it has none."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None) or getattr(getattr(module, "__spec__", None), "origin", None)
    return _paths(getattr(module, "__path__", [file]))


def _paths(places: Iterable[str | None]) -> tuple[Path, ...]:
    return tuple(path.resolve() for path in map(Path, filter(None, places)) if path.exists())


def _is_installed(path: Path) -> bool:
    return not _INSTALLED.isdisjoint(path.parts)


@cache
def _module(home: _Home, name: str) -> _Module | None:
    """The module called `name` in a home; ``None`` if it has no source there."""
    parts = name.split(".")[1 if home.package else 0 :]
    for folder in home.folders:
        stem = folder.joinpath(*parts)
        for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if path.is_file():
                return _Module(name, path, home)
    return None


@cache
def _home(name: str, importer: _Module) -> _Home | None:
    """Where a module that another one imports is looked for; ``None`` if the import is not followed."""
    top = name.partition(".")[0]
    if top == _PACKAGE:
        return _Home(_PACKAGE, _located(_PACKAGE) or ())
    if importer.home.package:
        return importer.home if top == importer.home.package else None
    return importer.home if _is_beside(top, importer.home) else None


def _is_beside(top: str, home: _Home) -> bool:
    """Whether a name means what lies in a folder of plug-ins, and not an installed package that is called the same."""
    places = _located(top)
    if places is None:  # may be put on the path when it is needed
        return any((folder / file).exists() for folder in home.folders for file in (top, f"{top}.py"))
    return any(place.parent in home.folders for place in places)


# ---- imported names to where they are defined --------------------------------------------------------------------


@cache
def _uses(module: _Module) -> frozenset[_Use]:
    """What a module takes from others."""
    source = _read(module)
    uses = {_Use(origin, item.alias) for item in source.imports for origin in _origins(item, module)}
    uses |= {_Use(origin) for place, chain in source.members for origin in _members(place, chain, module)}
    # the tree numbers modules that are followed: what they are called says nothing
    return frozenset(use if _is_named(use.origin) else _Use(use.origin) for use in uses)


def _is_named(origin: _Origin) -> bool:
    return bool(origin.name) or isinstance(origin.module, str)


def _members(place: str, chain: str, importer: _Module) -> set[_Origin]:
    """Where the attributes of a module are defined; those of its submodules are looked up in turn."""
    origins: set[_Origin] = set()
    modules = {place}
    for name in chain.split("."):
        steps = {origin for item in modules for origin in _origins(_Import(item, name), importer)}
        origins |= steps
        modules = {step.module.name for step in steps if isinstance(step.module, _Module) and not step.name}
    return origins


def _origins(item: _Import, importer: _Module, passed: _Passed = frozenset()) -> frozenset[_Origin]:
    """Where an imported name is defined; several places if it depends on a condition, none without source."""
    home = _home(item.module, importer)
    if home is None:
        return frozenset({_Origin(item.module, item.name)})
    for candidate in (item, _successor(item)):
        if origins := _sought(candidate, home, passed):
            return origins
    module = _module(home, item.module)  # binds the name in a way that is not seen
    return frozenset() if module is None else frozenset({_Origin(module, item.name)})


def _sought(item: _Import, home: _Home, passed: _Passed) -> frozenset[_Origin]:
    """Where the source in a home says that an imported name is defined."""
    module = _module(home, item.module)
    if item.name in ("", "*"):
        whole = frozenset() if module is None else frozenset({_Origin(module)})
        return whole | (_lazy_origins(module) if module is not None and item.name else frozenset())
    bound = frozenset() if module is None else _bound(module, item.name, passed)
    submodule = _module(home, f"{item.module}.{item.name}")
    # if there are both, which of them is meant depends on what has been imported before
    return bound if submodule is None else bound | {_Origin(submodule)}


def _successor(item: _Import) -> _Import:
    """What an import of an old name of evalsuite's imports now; the same for other imports."""
    package, _, old = item.module.partition(".")
    if package != _PACKAGE or old not in MOVED:
        return item
    if f"{old}.{item.name}" in MOVED:
        return _Import(f"{_PACKAGE}.{MOVED[f'{old}.{item.name}'][0]}", "", item.alias)
    home, renamed = MOVED[old]
    place, _, name = renamed.get(item.name, item.name).rpartition(":")
    return _Import(f"{_PACKAGE}.{place or home}", name, item.alias)


def _lazy_origins(module: _Module) -> frozenset[_Origin]:
    """What ``import *`` makes ``__getattr__`` import."""
    return frozenset(origin for item in _read(module).lazy.values() for origin in _origins(item, module))


def _bound(module: _Module, name: str, passed: _Passed = frozenset()) -> frozenset[_Origin]:
    """Where a name is defined that the source of a module binds; nothing if it binds no such name."""
    if (module, name) in passed:  # modules that re-export from each other
        return frozenset()
    source, passed = _read(module), passed | {(module, name)}
    origins = frozenset({_Origin(module, name)}) if name in source.defined else frozenset()
    items = source.bindings.get(name, ())
    for item in items or ([source.lazy[name]] if name in source.lazy and not origins else []):
        origins |= _origins(item, module, passed)
    for star in source.stars if not origins else ():
        home = _home(star, module)
        starred = None if home is None else _module(home, star)
        origins |= frozenset() if starred is None else _bound(starred, name, passed)
    return origins


# ---- digests of single modules -----------------------------------------------------------------------------------


@cache
def _module_digest(module: _Module) -> str:
    """Digest of a module's tree and of what the names mean that it imports."""
    numbered = [
        f"{number} {_meaning(origin)}"
        for number, name in enumerate(_read(module).numbered)
        for origin in _origins(_Import(name), module)
    ]
    uses = [f"{_meaning(use.origin)} {use.origin.name} {use.alias}" for use in _uses(module)]
    return _hashed([_read(module).body, *numbered, *sorted(uses)])


def _meaning(origin: _Origin) -> str:
    if isinstance(origin.module, str):
        return origin.module
    return "" if origin.module.name in _WITHOUT_COMPUTATION else _read(origin.module).body


def _hashed(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@cache
def _read(module: _Module) -> _Source:
    reader = _Reader(module)
    tree = reader.visit(_parsed(module.path))
    spelling = _Spelling(dict(_places(reader.imports, module)))
    return _Source(
        body=_hashed([spelling.text(tree)]),
        imports=frozenset(reader.imports),
        members=frozenset(spelling.members),
        numbered=tuple(spelling.numbers.values()),
        bindings=reader.bindings,
        defined=frozenset(reader.defined),
        lazy=reader.lazy,
        stars=tuple(item.module for item in reader.imports if item.name == "*"),
    )


def _parsed(path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes: the import has warned of them
            return ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise SuiteError(
            f"{path}, line {error.lineno or 1} is not valid Python ({error.msg}); "
            "correct it, or remove the imports that lead to it"
        ) from error


class _Reader(ast.NodeTransformer):
    """Collects the imports and the top-level names of a syntax tree, and removes what is not hashed.

    Attributes:
        imports: Every import that may run.
        bindings: Top-level names, each with the imports that bind it.
        defined: Top-level names that are bound in another way than by an import.
        lazy: Names that ``__getattr__`` imports when they are first used.
    """

    def __init__(self, module: _Module) -> None:
        self.imports: list[_Import] = []
        self.bindings: dict[str, tuple[_Import, ...]] = {}
        self.defined: set[str] = set()
        self.lazy: dict[str, _Import] = {}
        self._module = module
        self._depth = 0
        self._is_lazy = False

    def visit_Module(self, node: ast.Module) -> ast.AST:
        blocks = [item for item in node.body if isinstance(item, ast.If)]
        statements = [*node.body, *(item for block in blocks for item in (*block.body, *block.orelse))]
        self._is_lazy = any("__getattr__" in _names(item) for item in statements)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        match node.test:
            case ast.UnaryOp(op=ast.Not(), operand=test) if _is_checking(test):
                node.orelse = []
                self.generic_visit(node)
                return node.body
            case test if _is_checking(test):
                self.lazy.update(self._typed(node.body) if self._is_lazy else {})
                node.body = []
                self.generic_visit(node)
                return node.orelse
        return self.generic_visit(node)

    def _typed(self, statements: list[ast.stmt]) -> Iterator[tuple[str, _Import]]:
        """What a module imports for type checkers only."""
        for node in statements:
            if isinstance(node, ast.ImportFrom) and (place := _absolute(node, self._module)):
                yield from ((name.asname or name.name, _Import(place, name.name)) for name in node.names)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if "__all__" in _names(node) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        """Removes what a docstring may take the place of."""

    def visit_Import(self, node: ast.Import) -> None:
        self._bind([_Import(name.name, "", name.asname or "") for name in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if place := _absolute(node, self._module):
            self._bind([_Import(place, name.name, name.asname or name.name) for name in node.names])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _last(node.func) == "import_module":
            match node.args:
                case [ast.Constant(value=str(place))] if place.partition(".")[0].isidentifier():
                    self.imports.append(_Import(place))
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not self._depth and isinstance(node.ctx, ast.Store):
            self.defined.add(node.id)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        self.defined.update(node.names)
        return node

    def _visit_scope(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        if not self._depth:
            self.defined.add(node.name)
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _visit_scope  # noqa: N815

    def _bind(self, items: list[_Import]) -> None:
        self.imports += items
        for item in items if not self._depth else ():
            name = item.alias or item.module.partition(".")[0]
            self.bindings[name] = (*self.bindings.get(name, ()), item if item.alias else _Import(name))

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        targets = [self._target(value) for value in node.values]
        if not all(targets):  # no table of `__getattr__`, but targets of a registry may stand beside others
            targets = [target if target and target.name else None for target in targets]
        for key, target in zip(node.keys, targets, strict=True):
            if self._is_lazy and target and isinstance(key, ast.Constant):
                self.lazy[str(key.value)] = replace(target, name=target.name or str(key.value))
        is_kept = [target is None for target in targets]
        node.keys, node.values = list(compress(node.keys, is_kept)), list(compress(node.values, is_kept))
        return node

    def _target(self, value: ast.expr) -> _Import | None:
        """The import that a string stands for, if its module is one that is followed."""
        if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
            return None
        module, colon, name = value.value.lstrip(".").partition(":")
        if not (name if colon else self._is_lazy) or not f"{module}{name}".replace(".", "").isidentifier():
            return None
        absolute = (module, f"{self._module.package}.{module}")
        return next((_Import(place, name) for place in absolute if _followed(place, self._module)), None)


def _names(node: ast.stmt) -> list[str]:
    """The names that a definition or an assignment binds."""
    if isinstance(node, ast.Assign):
        return [_last(target) for target in node.targets]
    return [node.name] if isinstance(node, ast.FunctionDef) else []


def _is_checking(test: ast.expr) -> bool:
    """Whether a condition is ``TYPE_CHECKING`` or ``typing.TYPE_CHECKING``."""
    return _last(test) == "TYPE_CHECKING"


def _last(node: ast.AST) -> str:
    """The name that a name or an attribute ends with; nothing for other code."""
    name: str = getattr(node, "attr", getattr(node, "id", ""))
    return name


def _followed(name: str, importer: _Module) -> _Module | None:
    """The module that a name means to another one; ``None`` if it is not followed or has no source."""
    home = _home(name, importer)
    return None if home is None else _module(home, name)


def _absolute(node: ast.ImportFrom, module: _Module) -> str:
    """The name of the module that a statement imports from; nothing if there can be no such module."""
    place = f"{'.' * node.level}{node.module or ''}"
    try:
        place = importlib.util.resolve_name(place, module.package)
    except ImportError:  # relative, where there is no package, or above the outermost one
        return ""
    return "" if place == "__future__" else place


def _places(imports: Iterable[_Import], importer: _Module) -> Iterator[tuple[str, str]]:
    """What modules that are followed are called in a module, and their names."""
    for item in imports:
        if item.alias:
            names = [(item.alias, f"{item.module}.{item.name}" if item.name else item.module)]
        else:
            parts = item.module.split(".")
            names = [(".".join(parts[:end]),) * 2 for end in range(1, len(parts) + 1)]
        yield from ((alias, name) for alias, name in names if _followed(name, importer))


def _parts(node: ast.AST) -> list[str]:
    """The names in ``name.attribute.attribute``; none for other code."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


class _Spelling:
    """The text of a syntax tree, without the names of modules.

    The text has all fields that are not empty, rather than those of `ast.dump`, whose defaults differ between
    versions of Python: digests then differ only where a version parses the same source into another tree.

    Args:
        places: What modules are called in the tree, and their names.

    Attributes:
        numbers: What has been met of `places`, in order: the text has numbers instead.
        members: Modules and the dotted names that are looked up in them as attributes.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self.numbers: dict[str, str] = {}
        self.members: set[tuple[str, str]] = set()
        self._places = places

    def text(self, node: object) -> str:
        """Returns the text of a node, of a list of nodes, or of a constant."""
        if isinstance(node, list):
            return f"[{','.join(map(self.text, node))}]"
        if not isinstance(node, ast.AST):
            return ascii(node)
        if self._places and (text := self._place(_parts(node))):
            return text
        fields = []
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in _UNSPELLED:
                fields.append(f"{name}={self.text(value)}")
        return f"{type(node).__name__}({','.join(fields)})"

    def _place(self, parts: list[str]) -> str:
        """The text of a module or of what is looked up in it; nothing for other names."""
        for end in range(len(parts), 0, -1):
            place = ".".join(parts[:end])
            if name := self._places.get(place):
                self.numbers.setdefault(place, name)
                member = ".".join(parts[end:])
                self.members |= {(name, member)} if member else set()
                return f"<{list(self.numbers).index(place)}>{member}"
        return ""
