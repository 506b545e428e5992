from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
import torch

from evalsuite.errors import UserError
from evalsuite.models.architectures.robustbench import CLASSES, offline, zoo_builders, zoo_network


@pytest.mark.parametrize("dataset", CLASSES)
def test_the_zoo_is_listed(dataset: str) -> None:
    assert len(zoo_builders(dataset)) > 10


def test_a_network_of_the_zoo_is_built_without_its_weights() -> None:
    torch.manual_seed(0)
    first = zoo_network("Wong2020Fast", dataset="cifar10").eval()
    second = zoo_network("Wong2020Fast", dataset="cifar10").eval()
    images = torch.rand(2, 3, 32, 32)
    assert first(images).shape == (2, CLASSES["cifar10"])
    assert not torch.equal(first(images), second(images))  # as initialised, not as published


def test_a_network_that_downloads_is_refused_before_it_reaches_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"weights that it downloads \(from download\.pytorch\.org\)"):
        zoo_network("Standard_R50", dataset="imagenet")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_network_that_cannot_be_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("half a network")

    monkeypatch.setattr(
        "evalsuite.models.architectures.robustbench.zoo_builders", lambda _: {"Broken": broken}
    )
    with pytest.raises(UserError, match="cannot build Broken: ZeroDivisionError: half a network"):
        zoo_network("Broken", dataset="cifar10")


def test_offline_refuses_every_host_and_gives_the_network_back() -> None:
    before = socket.getaddrinfo
    with pytest.raises(Exception, match=r"from example\.org"), offline():
        urllib.request.urlopen("http://example.org", timeout=1)
    assert socket.getaddrinfo is before
