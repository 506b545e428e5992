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

from typing import TYPE_CHECKING, Any

from evalsuite.errors import UnknownNameError
from evalsuite.models import MODELS
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.architectures.zoos import torchvision_names
from evalsuite.models.uri_tables import NEED_A_TARGET, settings_of_uri
from evalsuite.registry import unknown_name

if TYPE_CHECKING:
    from evalsuite.models.architectures.base import Architecture


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
    table = settings_of_uri(uri)
    if table["name"] not in MODELS:
        raise UnknownNameError(_unknown_name(table["name"]))
    return from_settings({**table, **settings})


def _unknown_name(name: str) -> str:
    if name in torchvision_names():
        return f"unknown model {name!r}: did you mean 'torchvision:{name}'?"
    return unknown_name("model", name, [model for model in MODELS if model not in NEED_A_TARGET])
