"""Networks and conditions for the calls into other libraries."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

from evalsuite.compat.robustbench import robustbench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Holds a test to an empty working directory, silence, no network and untouched modules."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network")

    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    library = robustbench()
    modules = [library.eval, library.utils, library.data, sys.modules["pyautoattack.checks"]]
    before = [dict(vars(module)) for module in modules]
    yield
    assert tuple(capfd.readouterr()) == ("", "")
    assert list(place.iterdir()) == []
    assert [dict(vars(module)) for module in modules] == before
    assert "autoattack" not in sys.modules
    assert "pkg_resources" not in sys.modules or hasattr(sys.modules["pkg_resources"], "get_distribution")
