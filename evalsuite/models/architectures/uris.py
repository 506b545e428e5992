"""Architecture URIs: one line of text that names a network and where its code is.

::

    resnet20, evalsuite:resnet20     an architecture that evalsuite or a plug-in registers
    torchvision:resnet18             torchvision.models.get_model
    timm:resnet18                    timm.create_model
    robustbench:Standard             robustbench's zoo
    hf:folder, folder                a model folder of transformers: config.json, weights, preprocessor_config.json
    folder/file.py:function          a function (or class) in the user's own file that returns a torch.nn.Module
    package.module:function          the same in an installed package

Weights are never downloaded. The user's own file or package is code, and it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalsuite.errors import SuiteError, UnknownNameError
from evalsuite.models import MODELS
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.architectures.zoos import torchvision_names
from evalsuite.registry import unknown_name

if TYPE_CHECKING:
    from evalsuite.models.architectures.base import Architecture

LIBRARIES = ("torchvision", "timm", "robustbench")
"""Schemes whose networks have names within a library."""

_REGISTERED = "evalsuite"
_FOLDER = "hf"
_NEED_A_TARGET = (*LIBRARIES, _FOLDER, "python")


def architecture_from_uri(uri: str, **settings: Any) -> Architecture:
    """Returns the architecture that a URI names.

    Args:
        uri: As above. A file's path is made absolute, so that the model can be rebuilt anywhere.
        settings: Fields of the architecture, such as ``classes``, ``mean``, ``std``, ``shortcut``,
            ``options``.

    Raises:
        UnknownNameError: If the library or registry has no such model; the sentence has the nearest names.
        SuiteError: If a setting is wrong, or the file or function does not exist.

    >>> architecture_from_uri("evalsuite:resnet20", classes=100).classes
    100
    >>> architecture_from_uri("resnet18")
    Traceback (most recent call last):
    evalsuite.errors.UnknownNameError: unknown model 'resnet18': did you mean 'torchvision:resnet18'?
    """
    scheme, colon, target = uri.partition(":")
    if (colon and scheme == _FOLDER) or Path(uri).is_dir():
        folder = target if scheme == _FOLDER else uri
        return from_settings({"name": _FOLDER, "model": str(Path(folder).expanduser().resolve()), **settings})
    if colon and scheme in LIBRARIES:
        return from_settings({"name": scheme, "model": target, **settings})
    if colon and scheme != _REGISTERED:
        return from_settings({"name": "python", "target": _absolute(uri), **settings})
    name = target if colon else uri
    if name in _NEED_A_TARGET or name.endswith(".py"):
        example = f"{name}:function" if name.endswith(".py") or name == "python" else f"{name}:resnet18"
        raise SuiteError(f"model {uri!r}: expected a name behind a colon, such as {example}")
    if name not in MODELS:
        raise UnknownNameError(_unknown_name(name))
    return from_settings({"name": name, **settings})


def _unknown_name(name: str) -> str:
    if name in torchvision_names():
        return f"unknown model {name!r}: did you mean 'torchvision:{name}'?"
    return unknown_name("model", name, [model for model in MODELS if model not in _NEED_A_TARGET])


def _absolute(uri: str) -> str:
    place, _, function = uri.rpartition(":")
    return f"{Path(place).resolve()}:{function}" if place.endswith(".py") else uri
