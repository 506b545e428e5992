"""Names that a module imports when they are first used, so that importing the module itself costs nothing."""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def attach(module: str, file: str) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of a module: it imports what type checkers see under ``if TYPE_CHECKING``.

    Args:
        module: ``__name__`` of the module.
        file: Its ``__file__``.
    """

    @cache
    def homes() -> dict[str, str]:
        tree = ast.parse(Path(file).read_text("utf-8"))
        blocks = (
            node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        imports = (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom))
        return {alias.name: node.module for node in imports if node.module for alias in node.names}

    def get(name: str) -> Any:
        if name not in homes():
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(homes()[name]), name)

    return get
