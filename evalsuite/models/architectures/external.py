"""Architectures whose network is built by code outside evalsuite: a library, or the user's own function."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import SuiteError, UnknownNameError
from evalsuite.models.architectures.base import Architecture
from evalsuite.registry import import_plugin_file, unknown_name

CLASS_COUNT_PARAMETERS = ("num_classes", "classes", "n_classes", "nclasses", "num_labels")
"""Names under which functions take the number of classes."""


@dataclass(frozen=True, kw_only=True)
class ExternalArchitecture(Architecture):
    """Settings of a network that external code builds.

    Attributes:
        mean: Empty for the preprocessing that the library documents.
        std: Empty for the preprocessing that the library documents.
        options: Further arguments of the function that builds the network.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def _set_default_preprocessing(self, mean: Iterable[float], std: Iterable[float]) -> None:
        """Fills in mean and std if the settings have neither."""
        if not self.mean and not self.std:
            object.__setattr__(self, "mean", tuple(mean))
            object.__setattr__(self, "std", tuple(std))


@dataclass(frozen=True, kw_only=True)
class PythonNetwork(ExternalArchitecture):
    """Network of the user's own code: ``file.py:function`` or ``package.module:function``; it runs that code.

    The function gets the number of classes if it has a parameter for it (``num_classes``, ``classes``, ...).
    Images reach the network as they are, in [0, 1], unless `mean` and `std` are set.

    Attributes:
        target: The file, relative to the working directory, or the module; then a colon and the function.
    """

    target: str

    def __post_init__(self) -> None:
        self._set_default_preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        super().__post_init__()
        imported_function(self.target)

    def network(self) -> nn.Module:
        """Returns the module that the function returns."""
        function = imported_function(self.target)
        parameters = _parameter_names(function)
        name = next((name for name in CLASS_COUNT_PARAMETERS if name in parameters), None)
        arguments = {name: self.classes} if name else {}
        return build_network(self.target, lambda: function(**{**arguments, **self.options}))


def build_network(label: str, build: Callable[[], object]) -> nn.Module:
    """Returns the network that `build` returns, without the warnings of the code that builds it.

    Args:
        label: Name of the model in error messages.
        build: A function of external code.

    Raises:
        SuiteError: If it fails or returns anything but a module.
    """
    try:
        with quiet_imports():
            network = build()
    except Exception as error:  # external constructors may fail in any way
        raise SuiteError(f"model {label} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise SuiteError(f"model {label}: found a {type(network).__name__}, expected a torch.nn.Module")
    return network


def unknown_model(library: str, name: str, names: Iterable[str]) -> UnknownNameError:
    """Returns the error for a model that a library does not have; it lists the nearest names, not all of them."""
    listed = sorted(names)
    near = difflib.get_close_matches(name, listed, n=3)
    guess = f"did you mean {' or '.join(map(repr, near))}?" if near else f"none of its {len(listed)} is near"
    return UnknownNameError(f"unknown {library} model {name!r}: {guess}")


def imported_function(target: str, *, label: str = "model") -> Callable[..., object]:
    """Returns the function ``file.py:function`` or ``package.module:function``; it runs that code.

    Args:
        target: As above.
        label: What it is, in errors.

    Raises:
        SuiteError: If there is no such file, module or function.
    """
    place, _, name = target.rpartition(":")
    module = _module(target, place, label)
    function: object = vars(module).get(name)
    if not callable(function):
        callables = [
            key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
        ]
        raise SuiteError(f"{label} {target}: {unknown_name('function', name, callables)}")
    return function


def _module(target: str, place: str, label: str) -> ModuleType:
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise SuiteError(f"{label} {target}: found no file {path.resolve()}; expected file.py:function")
        import_plugin_file(path)
        return next(
            module
            for module in [*sys.modules.values()]
            if getattr(module, "__file__", None) == str(path.resolve())
        )
    try:
        return importlib.import_module(place)
    except (ImportError, ValueError) as error:
        raise SuiteError(
            f"{label} {target}: the module {place!r} cannot be imported ({error}); expected one of evalsuite's "
            f"names, torchvision:, timm:, robustbench:, file.py:function or package.module:function"
        ) from error


def _parameter_names(function: Callable[..., object]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # written in C
        return []
