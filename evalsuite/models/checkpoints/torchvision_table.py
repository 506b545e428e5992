"""The classifiers that torchvision registers, read from its source: importing torchvision takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_BUILDER = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
"""A function that builds a classifier, as the source registers it."""


@cache
def torchvision_modules() -> Mapping[str, str]:
    """Returns the names of torchvision's classifiers, sorted, each with the module that defines it.

    Where there is no source, or it registers in another way, torchvision is imported and asked.
    """
    spec = find_spec("torchvision")  # imports nothing, as the name has no parent
    folder = Path(spec.origin).parent / "models" if spec is not None and spec.origin else Path()
    modules = {
        name: f"torchvision.models.{file.stem}"
        for file in folder.glob("[a-z]*.py")
        for name in _BUILDER.findall(file.read_text("utf-8"))
    }
    return {name: modules[name] for name in sorted(modules)} if modules else registered_modules()


def registered_modules() -> Mapping[str, str]:
    """Returns what `torchvision_modules` returns, as torchvision itself says it."""
    from torchvision import models

    return {name: models.get_model_builder(name).__module__ for name in models.list_models(module=models)}
