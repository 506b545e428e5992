"""Architectures by reference: one line of text that says where a network's code is.

::

    resnet20, evalsuite:resnet20     one of those that ship with evalsuite or that a plug-in registered
    torchvision:resnet18             torchvision.models.get_model
    timm:resnet18                    timm.create_model
    robustbench:Standard             robustbench's zoo
    folder/file.py:function          a function (or class) in a file of one's own that returns a torch.nn.Module
    package.module:function          the same in an installed package

Weights are never downloaded. A file or a package of one's own is code, and it runs.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from evalsuite.errors import SuiteError, UnknownNameError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture, from_settings
from evalsuite.models.architectures.zoos import LibraryNetwork, built, torchvision_names
from evalsuite.registry import import_file, unknown

LIBRARIES = ("torchvision", "timm", "robustbench")
"""Origins whose networks have names of their own."""

_OWN = "evalsuite"
_COUNTS = ("num_classes", "classes", "n_classes", "nclasses", "num_labels")
"""What functions call the number of classes."""


@dataclass(frozen=True, kw_only=True)
class PythonNetwork(LibraryNetwork):
    """Network of one's own: ``file.py:function`` or ``package.module:function``; it runs that code.

    The function gets the number of classes if it has a parameter for it (``num_classes``, ``classes``, ...).
    Images reach the network as they are, in [0, 1], unless `mean` and `std` say otherwise.

    Attributes:
        target: The file, relative to the working directory, or the module; then a colon and the function.
    """

    target: str

    def __post_init__(self) -> None:
        self._default((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        super().__post_init__()
        _function(self.target)

    def network(self) -> nn.Module:
        """Returns what the function returns."""
        function = _function(self.target)
        counted = next((name for name in _COUNTS if name in _parameters(function)), None)
        count = {counted: self.classes} if counted else {}
        return built(self.target, lambda: function(**{**count, **self.options}))


def architecture(reference: str, **settings: Any) -> Architecture:
    """Returns the architecture that a reference names.

    Args:
        reference: As above. A file's path is made absolute, so that the model can be rebuilt anywhere.
        settings: Fields of the architecture, such as ``classes``, ``mean``, ``std``, ``shortcut``,
            ``options``.

    Raises:
        UnknownNameError: If the origin has no such model; the sentence has the nearest names.
        SuiteError: If a setting is wrong, or the file or function is not there.

    >>> architecture("evalsuite:resnet20", classes=100).classes
    100
    >>> architecture("resnet18")
    Traceback (most recent call last):
    evalsuite.errors.UnknownNameError: unknown model 'resnet18': did you mean 'torchvision:resnet18'?
    """
    origin, colon, name = reference.partition(":")
    if colon and origin in LIBRARIES:
        return from_settings({"name": origin, "model": name, **settings})
    if colon and origin != _OWN:
        return from_settings({"name": "python", "target": _absolute(reference), **settings})
    own = name if colon else reference
    if own in (*LIBRARIES, "python") or own.endswith(".py"):
        example = f"{own}:function" if own.endswith(".py") or own == "python" else f"{own}:resnet18"
        raise SuiteError(f"model {reference!r}: expected a name behind a colon, such as {example}")
    if own not in MODELS:
        raise UnknownNameError(_near(own))
    return from_settings({"name": own, **settings})


def _near(name: str) -> str:
    if name in torchvision_names():
        return f"unknown model {name!r}: did you mean 'torchvision:{name}'?"
    return unknown("model", name, [known for known in MODELS if known not in (*LIBRARIES, "python")])


def _absolute(target: str) -> str:
    place, _, function = target.rpartition(":")
    return f"{Path(place).resolve()}:{function}" if place.endswith(".py") else target


def _function(target: str) -> Callable[..., object]:
    place, _, name = target.rpartition(":")
    module = _module(target, place)
    function: object = vars(module).get(name)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise SuiteError(f"model {target}: {unknown('function', name, known)}")
    return function


def _module(target: str, place: str) -> ModuleType:
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise SuiteError(f"model {target}: found no file {path.resolve()}; expected file.py:function")
        import_file(path)
        return next(
            module
            for module in [*sys.modules.values()]
            if getattr(module, "__file__", None) == str(path.resolve())
        )
    try:
        return importlib.import_module(place)
    except (ImportError, ValueError) as error:
        raise SuiteError(
            f"model {target}: the module {place!r} cannot be imported ({error}); expected one of evalsuite's "
            f"names, torchvision:, timm:, robustbench:, file.py:function or package.module:function"
        ) from error


def _parameters(function: Callable[..., object]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # written in C
        return []
