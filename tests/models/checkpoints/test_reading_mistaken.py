"""Files that are mistaken for weights: each is refused with one sentence that names its kind."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.reading import read_weights

WEIGHTS = {"conv.weight": torch.arange(8.0).view(2, 1, 2, 2), "conv.bias": torch.ones(2)}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def sentence(path: Path) -> str:
    """The refusal of the file at `path`; nothing may have appeared in its folder."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert sorted(path.parent.iterdir()) == before
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "found a dictionary without tensors (keys: none), expected a state dict of named tensors"),
        ({"epoch": 1, "arch": "x"}, "(keys: epoch, arch)"),
        ({"state_dict": {}}, "without tensors (keys: state_dict)"),
        ({"state_dict": {"a": "text"}}, "without tensors (keys: state_dict)"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "(keys: a, b, c and 1 more)"),
        ({"\x1b[2Jkey": 1, "x" * 999: 2}, f"(keys: \\x1b[2Jkey, {'x' * 117}...)"),
        ([torch.ones(1)], "found a list"),
        (
            [{"a": torch.ones(1)}, {"a": torch.ones(1)}],
            "found a list of 2 networks (0, 1); --entry 0 takes one",
        ),
        ({"acc": torch.tensor(0.9)}, "a dictionary without weights (keys: acc)"),
        ({"fc._packed_params._packed_params": (1, 2)}, "fc is quantised (torch's dynamic quantisation)"),
        ("text", "found a str"),
        (torch.ones(1), "found a Tensor"),
        ({0: torch.ones(1)}, "without weights (keys: 0)"),
        ({"a": torch.tensor([1.0, float("nan"), float("inf")])}, "a holds 2 NaN or infinite values of 3"),
        ({"a": torch.tensor([float("-inf")]).half()}, "a holds 1 NaN or infinite values of 1"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is a torch.strided tensor of torch.complex64"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is a torch.sparse_coo tensor"),
        ({"a": torch.ones(2, device="meta")}, "expected dense real numbers"),
    ],
)
def test_what_is_no_weights_is_refused(tmp_path: Path, content: object, expected: str) -> None:
    assert expected in sentence(saved(content, tmp_path / "w.pt"))


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
def test_compressed_tensors_are_refused(tmp_path: Path) -> None:
    rows = torch.ones(2, 2).to_sparse_csr()
    assert "a is a torch.sparse_csr tensor" in sentence(saved({"a": rows}, tmp_path / "w.pt"))
    levels = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    assert "a is a quantised tensor" in sentence(saved({"a": levels}, tmp_path / "w.pt"))


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO(b""))
    return buffer.getvalue()


def _folder() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights/resnet.pt", b"abc")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "found an empty file"),
        (b"\n<!DOCTYPE html><html>Google Drive - Virus scan warning</html>", "an HTML page"),
        (b"<html><body>404</body></html>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a server's error message"),
        (b'{"error": "Not Found"}', "a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "fetch it with git lfs pull"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (_tar(), "a tar archive"),
        (_folder(), "found a zip archive of resnet.pt, expected one that torch.save wrote"),
        (b"hello", "truncated, damaged or of another format"),
    ],
)
def test_files_that_are_mistaken_for_weights_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    assert expected in sentence(tmp_path / "w.pth")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "found no such file" in sentence(tmp_path / "none.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "found a directory" in sentence(tmp_path / "folder.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "found a pipe, socket or device" in sentence(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    assert "cannot be read" in sentence(tmp_path / "loop.pt")
    (tmp_path / "lost.pt").symlink_to(tmp_path / "nowhere.pt")
    assert "found a link to nothing" in sentence(tmp_path / "lost.pt")
    saved(WEIGHTS, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="an impossible name"):
        read_weights(Path("a\0b"))
    with pytest.raises(CheckpointError, match="a pipe, socket or device"):
        read_weights(Path("/dev/zero"))
    with pytest.raises(CheckpointError, match="Not a directory"):
        read_weights(tmp_path / "w.pt" / "below.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = saved(WEIGHTS, tmp_path / "w.pt")
    path.chmod(0)
    assert "cannot be read: Permission denied" in sentence(path)


def test_an_error_of_the_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = saved(WEIGHTS, tmp_path / "w.pt")
    monkeypatch.setattr(torch, "load", fail)
    assert "cannot be read: Permission denied" in sentence(path)
    monkeypatch.setattr(Path, "open", fail)
    assert "cannot be read: Permission denied" in sentence(path)


def test_a_link_to_weights_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(saved(WEIGHTS, tmp_path / "w.pt"))
    weights: dict[str, Tensor] = read_weights(tmp_path / "link.pt")
    assert torch.equal(weights["conv.weight"], WEIGHTS["conv.weight"])


def test_parts_and_arrays_have_sentences_that_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(WEIGHTS, tmp_path / "model-00001-of-00002.safetensors")
    assert "found part 1 of 2, expected all weights in one file" in sentence(
        tmp_path / "model-00001-of-00002.safetensors"
    )
    torch.save(WEIGHTS, tmp_path / "pytorch_model-00002-of-00003.bin")
    assert "each part with torch.load(part, weights_only=True), join" in sentence(
        tmp_path / "pytorch_model-00002-of-00003.bin"
    )
    save_file(WEIGHTS, tmp_path / "model-00001-of-00001.safetensors")
    assert read_weights(tmp_path / "model-00001-of-00001.safetensors").keys() == WEIGHTS.keys()
    (tmp_path / "index.json").write_text('{\n  "metadata": {"total_size": 3},\n  "weight_map": {"a": "b"}}')
    assert "an index of parts, not weights: join the parts" in sentence(tmp_path / "index.json")
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    np.savez(tmp_path / "w.npz", **arrays)
    advice = sentence(tmp_path / "w.npz").partition("with ")[2]
    exec(advice, {"torch": torch, "numpy": np})  # noqa: S102  # the advice, carried out
    Path("weights.pt").rename(tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").keys() == WEIGHTS.keys()
