"""What a source file imports, binds and means, read from its syntax tree."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress
from pathlib import Path

from evalsuite.errors import SuiteError
from evalsuite.runs.source_modules import Module, followed

_UNSPELLED = frozenset({"ctx", "kind", "type_comment"})  # follow from the place, or change nothing


@dataclass(frozen=True, slots=True)
class Import:
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
class Source:
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
    imports: frozenset[Import]
    members: frozenset[tuple[str, str]]
    numbered: tuple[str, ...]
    bindings: Mapping[str, tuple[Import, ...]]
    defined: frozenset[str]
    lazy: Mapping[str, Import]
    stars: tuple[str, ...]


def hashed(lines: Iterable[str]) -> str:
    """Returns the hexadecimal SHA-256 of lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@cache
def read_source(module: Module) -> Source:
    """Returns the content of a module's file.

    Raises:
        SuiteError: If the file is not valid Python.
    """
    reader = _Reader(module)
    tree = reader.visit(_parsed(module.path))
    spelling = _Spelling(dict(_places(reader.imports, module)))
    return Source(
        body=hashed([spelling.text(tree)]),
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

    def __init__(self, module: Module) -> None:
        self.imports: list[Import] = []
        self.bindings: dict[str, tuple[Import, ...]] = {}
        self.defined: set[str] = set()
        self.lazy: dict[str, Import] = {}
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

    def _typed(self, statements: list[ast.stmt]) -> Iterator[tuple[str, Import]]:
        """What a module imports for type checkers only."""
        for node in statements:
            if isinstance(node, ast.ImportFrom) and (place := _absolute(node, self._module)):
                yield from ((name.asname or name.name, Import(place, name.name)) for name in node.names)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if "__all__" in _names(node) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        """Removes what a docstring may take the place of."""

    def visit_Import(self, node: ast.Import) -> None:
        self._bind([Import(name.name, "", name.asname or "") for name in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if place := _absolute(node, self._module):
            self._bind([Import(place, name.name, name.asname or name.name) for name in node.names])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _last(node.func) == "import_module":
            match node.args:
                case [ast.Constant(value=str(place))] if place.partition(".")[0].isidentifier():
                    self.imports.append(Import(place))
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

    def _bind(self, items: list[Import]) -> None:
        self.imports += items
        for item in items if not self._depth else ():
            name = item.alias or item.module.partition(".")[0]
            self.bindings[name] = (*self.bindings.get(name, ()), item if item.alias else Import(name))

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

    def _target(self, value: ast.expr) -> Import | None:
        """The import that a string stands for, if its module is one that is followed."""
        if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
            return None
        module, colon, name = value.value.lstrip(".").partition(":")
        if not (name if colon else self._is_lazy) or not f"{module}{name}".replace(".", "").isidentifier():
            return None
        absolute = (module, f"{self._module.package}.{module}")
        return next((Import(place, name) for place in absolute if followed(place, self._module)), None)


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


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    """The name of the module that a statement imports from; nothing if there can be no such module."""
    place = f"{'.' * node.level}{node.module or ''}"
    try:
        place = importlib.util.resolve_name(place, module.package)
    except ImportError:  # relative, where there is no package, or above the outermost one
        return ""
    return "" if place == "__future__" else place


def _places(imports: Iterable[Import], importer: Module) -> Iterator[tuple[str, str]]:
    """What modules that are followed are called in a module, and their names."""
    for item in imports:
        if item.alias:
            names = [(item.alias, f"{item.module}.{item.name}" if item.name else item.module)]
        else:
            parts = item.module.split(".")
            names = [(".".join(parts[:end]),) * 2 for end in range(1, len(parts) + 1)]
        yield from ((alias, name) for alias, name in names if followed(name, importer))


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
