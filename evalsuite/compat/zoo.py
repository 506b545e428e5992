"""The networks of robustbench's model zoo, built without the downloads that some of them start."""

from __future__ import annotations

import importlib
import re
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evalsuite.compat.calling import quiet_imports, replaced
from evalsuite.compat.robustbench import robustbench
from evalsuite.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
"""Classes of the networks for each data set of the zoo."""


_MISNAMED = re.compile(r"^debenedetti2020light_xcit_([sml])_")
"""How robustbench 1.1 asks timm for networks that it registers as ``debenedetti2022light_xcit_s12_...``."""


class _Download(Exception):  # noqa: N818  # says what was tried; never leaves this module
    """Is raised instead of reaching out; not an OSError, which downloaders catch and try again."""


def zoo(dataset: str) -> dict[str, Callable[[], nn.Module]]:
    """Returns what builds each network of the zoo, by name; of a name that several threats share, the first.

    Args:
        dataset: One of `CLASSES`.
    """
    robustbench()
    with quiet_imports():
        library = importlib.import_module("robustbench.model_zoo.models")
        kinds = importlib.import_module("robustbench.model_zoo.enums")
    threats: Mapping[Any, Mapping[str, Any]] = library.model_dicts[kinds.BenchmarkDataset(dataset)]
    builders: dict[str, Callable[[], nn.Module]] = {}
    for models in threats.values():
        for name, entry in models.items():
            builders.setdefault(name, entry["model"])
    return builders


def zoo_network(name: str, *, dataset: str) -> nn.Module:
    """Returns a freshly initialised network of the zoo; it normalises by itself. Nothing is downloaded.

    Args:
        name: One of `zoo`.
        dataset: One of `CLASSES`.

    Raises:
        UserError: If the network cannot be built without a download, or at all.
    """
    build = zoo(dataset)[name]
    try:
        with quiet_imports(), offline(), _renamed():
            return build()
    except _Download as error:
        raise UserError(
            f"robustbench builds {name} from weights that it downloads ({error}), and evalsuite never "
            "downloads: name the architecture itself, torchvision:..., timm:... or file.py:function"
        ) from error
    except Exception as error:  # other people's constructors may fail in any way
        raise UserError(f"robustbench cannot build {name}: {type(error).__name__}: {error}") from error


@contextmanager
def _renamed() -> Iterator[None]:
    """Lets timm find the networks that the zoo asks for by another name, and leave their weights alone."""
    import timm

    create = timm.create_model

    def created(name: str, **settings: Any) -> nn.Module:
        found = _MISNAMED.sub(r"debenedetti2022light_xcit_\g<1>12_", name)
        own = found != name
        network: nn.Module = create(found, **(settings | ({"pretrained": False} if own else {})))
        return network

    with replaced(timm, create_model=created):
        yield


@contextmanager
def offline() -> Iterator[None]:
    """Makes every look-up of a host fail."""

    def refused(host: object, *_: object, **__: object) -> Any:
        raise _Download(f"from {host}")

    with replaced(socket, getaddrinfo=refused):
        yield
