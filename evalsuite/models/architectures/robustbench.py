"""Architectures of robustbench's model zoo; their weights are never downloaded."""

from __future__ import annotations

import importlib
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evalsuite.compat.calls import quiet_imports, replaced
from evalsuite.compat.robustbench import robustbench
from evalsuite.errors import SuiteError, UserError
from evalsuite.models.architectures.base import Architecture
from evalsuite.models.architectures.external import unknown_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
"""Classes of the networks for each data set of the zoo."""

_MISNAMED = re.compile(r"^debenedetti2020light_xcit_([sml])_")
"""How robustbench 1.1 asks timm for networks that it registers as ``debenedetti2022light_xcit_s12_...``."""


class _DownloadRefused(Exception):  # noqa: N818  # never leaves this module
    """An attempt to reach a host; not an OSError, which downloaders catch and try again."""


@dataclass(frozen=True, kw_only=True)
class RobustBenchNetwork(Architecture):
    """Network of robustbench's zoo: ``robustbench:Standard``; it normalises by itself, if at all.

    Attributes:
        classes: As many as the data set has: the zoo's networks have no other heads.
        model: Name in the zoo.
        dataset: Which of the zoo's data sets.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    model: str
    dataset: Literal["cifar10", "cifar100", "imagenet"] = "cifar10"

    def __post_init__(self) -> None:
        names = zoo_builders(self.dataset)
        if self.model not in names:
            raise unknown_model(f"robustbench {self.dataset}", self.model, names)
        super().__post_init__()
        if self.classes != CLASSES[self.dataset]:
            raise SuiteError(
                f"model robustbench:{self.model}: found classes = {self.classes}, but the zoo's networks for "
                f"{self.dataset} have {CLASSES[self.dataset]}: choose that, or another dataset"
            )

    def network(self) -> nn.Module:
        """Returns the network, freshly initialised."""
        try:
            return zoo_network(self.model, dataset=self.dataset)
        except UserError as error:
            raise SuiteError(f"model robustbench:{self.model}: {error}") from error


def zoo_builders(dataset: str) -> dict[str, Callable[[], nn.Module]]:
    """Returns the function that builds each network of the zoo, by name; of a name under several threats, the first.

    Args:
        dataset: One of `CLASSES`.
    """
    robustbench()
    with quiet_imports():
        library = importlib.import_module("robustbench.model_zoo.models")
        enums = importlib.import_module("robustbench.model_zoo.enums")
    threats: Mapping[Any, Mapping[str, Any]] = library.model_dicts[enums.BenchmarkDataset(dataset)]
    builders: dict[str, Callable[[], nn.Module]] = {}
    for models in threats.values():
        for name, entry in models.items():
            builders.setdefault(name, entry["model"])
    return builders


def zoo_network(name: str, *, dataset: str) -> nn.Module:
    """Returns a freshly initialised network of the zoo; it normalises by itself. Nothing is downloaded.

    Args:
        name: One of `zoo_builders`.
        dataset: One of `CLASSES`.

    Raises:
        UserError: If the network cannot be built without a download, or at all.
    """
    build = zoo_builders(dataset)[name]
    try:
        with quiet_imports(), offline(), _corrected_timm_names():
            return build()
    except _DownloadRefused as error:
        raise UserError(
            f"robustbench builds {name} from weights that it downloads ({error}), and evalsuite never "
            "downloads: name the architecture itself, torchvision:..., timm:... or file.py:function"
        ) from error
    except Exception as error:  # external constructors may fail in any way
        raise UserError(f"robustbench cannot build {name}: {type(error).__name__}: {error}") from error


@contextmanager
def offline() -> Iterator[None]:
    """Makes every look-up of a host fail."""

    def refuse(host: object, *_: object, **__: object) -> Any:
        raise _DownloadRefused(f"from {host}")

    with replaced(socket, getaddrinfo=refuse):
        yield


@contextmanager
def _corrected_timm_names() -> Iterator[None]:
    """Lets timm find the networks that the zoo asks for by a wrong name, without their weights."""
    import timm

    create = timm.create_model

    def create_corrected(name: str, **settings: Any) -> nn.Module:
        corrected = _MISNAMED.sub(r"debenedetti2022light_xcit_\g<1>12_", name)
        weights = {} if corrected == name else {"pretrained": False}
        network: nn.Module = create(corrected, **(settings | weights))
        return network

    with replaced(timm, create_model=create_corrected):
        yield
