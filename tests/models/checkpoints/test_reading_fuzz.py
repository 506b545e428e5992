"""Real files with bytes changed, lost and added: weights come out, or one sentence does, and nothing else."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.reading import read_weights

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = {
    "state_dict": {
        "module.conv.weight_orig": torch.arange(8.0).view(2, 1, 2, 2),
        "module.conv.weight_mask": torch.ones(2, 1, 2, 2),
        "module.fc.bias": torch.nn.Parameter(torch.ones(3, dtype=torch.float16)),
    },
    "optimizer": {"state": {0: {"step": 3, "rate": 0.1}}, "groups": [{"params": [0, 1], "name": None}]},
    "epoch": 70_000,
}


def saved(*, legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def archive(pickled: bytes) -> bytes:
    """The zip file with another pickle in it, and sums that are right for that."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ZIP)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


ZIP = saved(legacy=False)
with zipfile.ZipFile(io.BytesIO(ZIP)) as _archive:
    PICKLE = _archive.read("archive/data.pkl")
TENSORS = save(
    {"module.conv.weight": torch.ones(2, 3, dtype=torch.bfloat16), "n": torch.tensor(3)}, {"format": "pt"}
)
HEADER = 8 + struct.unpack("<Q", TENSORS[:8])[0]
FILES = {"zip": ZIP, "legacy": saved(legacy=True), "pickle": PICKLE, "safetensors": TENSORS}


@st.composite
def damage(draw: st.DrawFn, original: bytes, head: int) -> bytes:
    """`original` after a few changes, half of them in its first `head` bytes."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        last = len(content) - 1
        at = draw(st.one_of(st.integers(0, max(0, min(head, last))), st.integers(0, max(0, last))))
        kind = draw(st.sampled_from(["set", "flip", "insert", "cut", "drop", "repeat"]))
        if not content or kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "set":
            content[at] = draw(st.integers(0, 255))
        elif kind == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at:]
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 9))]
        else:
            content[at:at] = content[at : at + draw(st.integers(1, 40))]
    return bytes(content)


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_damaged_files_give_weights_or_one_sentence(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    original = FILES[kind]
    content = data.draw(damage(original, HEADER if kind == "safetensors" else len(original)))
    path = tmp_path / "w.pt"
    path.write_bytes(archive(content) if kind == "pickle" else content)
    try:
        weights = read_weights(path)
    except CheckpointError as error:
        text = str(error)
        assert str(path) in text
        assert "\n" not in text or "import torch" in text  # one line, or the lines of the conversion below it
    else:
        assert weights
        assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
        assert not any(tensor.dtype in {torch.float16, torch.bfloat16} for tensor in weights.values())
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.pt"]


@given(noise=st.binary(max_size=300))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused(tmp_path: Path, noise: bytes) -> None:
    for head in (b"", PICKLE[:2], b"PK\x03\x04", FILES["legacy"][:15], b"\x00\x01" + bytes(6) + b"{"):
        (tmp_path / "w.pt").write_bytes(head + noise)
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", FILES)
def test_the_undamaged_files_load(tmp_path: Path, kind: str) -> None:
    (tmp_path / "w.pt").write_bytes(archive(PICKLE) if kind == "pickle" else FILES[kind])
    assert "conv.weight" in read_weights(tmp_path / "w.pt") or kind == "safetensors"
