"""What an architecture URI means, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalsuite.errors import SuiteError
from evalsuite.models.uri_tables import settings_of_uri


def test_every_form(tmp_path: Path) -> None:
    (tmp_path / "net.py").touch()
    (tmp_path / "vit").mkdir()
    assert settings_of_uri("evalsuite:resnet20") == {"name": "resnet20"}
    assert settings_of_uri("torchvision:vit_b_16") == {"name": "torchvision", "model": "vit_b_16"}
    assert settings_of_uri("net.py:f", base=tmp_path) == {
        "name": "python",
        "target": f"{tmp_path / 'net.py'}:f",
    }
    assert settings_of_uri("package.module:f") == {"name": "python", "target": "package.module:f"}
    folder = {"name": "hf", "model": str(tmp_path / "vit")}
    assert settings_of_uri("hf:vit", base=tmp_path) == folder
    assert settings_of_uri(str(tmp_path / "vit")) == folder


@pytest.mark.parametrize("uri", ["timm", "hf", "net.py", "python"])
def test_a_library_alone_is_no_network(uri: str) -> None:
    with pytest.raises(SuiteError, match="expected a name behind a colon"):
        settings_of_uri(uri)
