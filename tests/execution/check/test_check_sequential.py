"""A sequential check: the verdicts of all images from as few as they need, on real networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

Answer = Callable[..., int]
SIZES = [225, 450, 899]


def checked(answer: Answer, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the document of a check."""
    capsys.readouterr()
    code = answer("--json", *words)
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, document


def table(document: dict[str, Any], candidate: str) -> pd.DataFrame:
    rows = pd.DataFrame(document["checks"])
    return rows[rows["candidate"] == candidate].set_index("condition")


def test_clear_verdicts_are_those_of_all_images_and_take_fewer(
    answer: Answer, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [
        word for name in ("light", "heavy") for word in ("--candidate", str(shelf / f"{name}.safetensors"))
    ]
    whole, full = checked(answer, capsys, *models, "--out", str(tmp_path / "full"))
    code, document = checked(answer, capsys, *models, "--sequential", "--out", str(tmp_path / "run"))
    assert (code, document["outcome"]) == (whole, full["outcome"])
    heavy, every = table(document, "heavy"), table(full, "heavy")
    assert heavy["verdict"].to_dict() == every["verdict"].to_dict()
    assert set(heavy["verdict"]) == {"inferior"}
    assert heavy["images"].tolist() == [225, 225]
    assert set(heavy["images_available"]) == {899}
    assert set(heavy["stopping"]) == {"decided early"}
    assert "stopped early" in heavy["flags"].iloc[0]
    assert set(every["images"]) == {899}
    assert set(every["stopping"]) == {""}
    light = table(document, "light")
    assert set(light["images"]) <= set(SIZES)
    assert (np.abs(heavy["parent"] - heavy["value"] - heavy["drop"]) < 1e-12).all()
