"""Architectures of torchvision, timm and robustbench's zoo; their weights are never downloaded."""

from __future__ import annotations

import difflib
import importlib
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from evalsuite.compat.calls import quiet_imports, replaced
from evalsuite.compat.robustbench import robustbench
from evalsuite.errors import SuiteError, UnknownNameError, UserError
from evalsuite.models.architectures.base import Architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation that torchvision's weights expect."""


@dataclass(frozen=True, kw_only=True)
class LibraryNetwork(Architecture):
    """Is a network that somebody else's code builds.

    Attributes:
        mean: Empty for the origin's own preprocessing.
        std: Empty for the origin's own preprocessing.
        options: Further arguments of the function that builds the network.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def _default(self, mean: Iterable[float], std: Iterable[float]) -> None:
        """Fills in the preprocessing of the origin if the settings give none."""
        if not self.mean and not self.std:
            object.__setattr__(self, "mean", tuple(mean))
            object.__setattr__(self, "std", tuple(std))


@dataclass(frozen=True, kw_only=True)
class TorchvisionNetwork(LibraryNetwork):
    """Classifier of torchvision: ``torchvision:resnet18``; normalised as its weights for ImageNet expect.

    Attributes:
        model: One of ``torchvision.models.list_models(module=torchvision.models)``.
    """

    model: str

    def __post_init__(self) -> None:
        known = torchvision_names()
        if self.model not in known:
            raise _unknown("torchvision", self.model, known)
        self._default(IMAGENET_MEAN, IMAGENET_STD)
        super().__post_init__()
        if len(self.mean) != 3:
            raise SuiteError(
                f"model torchvision:{self.model}: found mean and std of {len(self.mean)} channels, expected 3: "
                "torchvision's networks take colour images"
            )

    def network(self) -> nn.Module:
        """Returns the network with `classes` logits."""
        from torchvision import models

        settings = {"weights": None, "num_classes": self.classes, **self.options}
        return built(f"torchvision:{self.model}", lambda: models.get_model(self.model, **settings))


@dataclass(frozen=True, kw_only=True)
class TimmNetwork(LibraryNetwork):
    """Classifier of timm: ``timm:resnet18``; normalised as its default weights expect.

    Attributes:
        model: One of ``timm.list_models()``, with or without the tag of its weights.
    """

    model: str

    def __post_init__(self) -> None:
        with quiet_imports():
            import timm
            from timm.models import get_pretrained_cfg
        if not timm.is_model(self.model):
            raise _unknown("timm", self.model, timm.list_models())
        config = get_pretrained_cfg(self.model)
        if config is None:
            self._default(IMAGENET_MEAN, IMAGENET_STD)
        else:
            self._default(config.mean, config.std)
        super().__post_init__()

    def network(self) -> nn.Module:
        """Returns the network with `classes` logits and as many input channels as `mean` has numbers."""
        import timm

        settings = {"num_classes": self.classes, "in_chans": len(self.mean), **self.options}
        return built(
            f"timm:{self.model}", lambda: timm.create_model(self.model, pretrained=False, **settings)
        )


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

        known = zoo(self.dataset)
        if self.model not in known:
            raise _unknown(f"robustbench {self.dataset}", self.model, known)
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


def torchvision_names() -> list[str]:
    """Returns the names of torchvision's classifiers."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def built(label: str, build: Callable[[], object]) -> nn.Module:
    """Returns what `build` makes, or says in one sentence that it is no network.

    Args:
        label: What the sentence calls it.
        build: Other people's code.

    Raises:
        SuiteError: If it fails or makes something else.
    """
    try:
        with quiet_imports():
            network = build()
    except Exception as error:  # other people's constructors may fail in any way
        raise SuiteError(f"model {label} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise SuiteError(f"model {label}: found a {type(network).__name__}, expected a torch.nn.Module")
    return network


def _unknown(origin: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The near misses; the whole list would be too long."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    guess = f"did you mean {' or '.join(map(repr, near))}?" if near else f"none of its {len(names)} is near"
    return UnknownNameError(f"unknown {origin} model {name!r}: {guess}")


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
