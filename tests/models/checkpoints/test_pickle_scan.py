"""A corpus of malicious and broken files: each refused with one sentence, none run, nothing written."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints import file_formats
from evalsuite.models.checkpoints.reading import read_weights

WEIGHTS = {"conv.weight": torch.arange(8.0).view(2, 1, 2, 2), "conv.bias": torch.ones(2)}


class Bait:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Fails the test, instead of hanging it, when reading does not end."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def saved(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def repacked(path: Path, change: Callable[[str, bytes], bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    """Rewrites an archive, with sums that are right for the changed records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


def sentence(path: Path) -> str:
    """The refusal of the file at `path`; nothing may have appeared in its folder."""
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    with limit(20), pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert sorted(path.parent.iterdir()) == before
    text = str(caught.value)
    assert str(path) in text
    return text


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["bare", "wrapped", "beside", "inside", "key"])
def test_a_pickle_that_would_write_a_file_does_not(tmp_path: Path, legacy: bool, place: str) -> None:
    proof = tmp_path / "proof"
    bait = Bait(open, str(proof), "w")
    content = {
        "bare": bait,
        "wrapped": {"state_dict": bait},
        "beside": {"state_dict": WEIGHTS, "optimizer": bait},
        "inside": {"state_dict": {**WEIGHTS, "x": bait}},
        "key": {"state_dict": WEIGHTS, bait: 1},
    }[place]
    text = sentence(saved(content, tmp_path / "w.pt", legacy=legacy))
    module = open.__module__  # _io from Python 3.12 on
    assert f"would run {module}.open, but a checkpoint is data, never code" in text
    assert "no checkpoint needs that" in text
    assert not proof.exists()
    if place == "bare":  # the attack works in an ordinary unpickler
        torch.load(tmp_path / "w.pt", weights_only=False).close()
        assert proof.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("io.open", "_io.open", "_io.FileIO", "_pyio.open", "posix.system", "_posixsubprocess.fork_exec"),
        *("_winapi.CreateProcess", "_ctypes.dlopen", "_pickle.loads", "_socket.socket", "asyncio._io.open"),
    ],
)
def test_no_advice_to_load_what_a_module_of_the_interpreter_would_run(tmp_path: Path, name: str) -> None:
    """Every release of Python pickles ``open`` and others under the module that implements them there."""
    module, _, attribute = name.rpartition(".")
    call = f"c{module}\n{attribute}\n(tR".encode()
    path = saved({"state_dict": WEIGHTS, "optimizer": 1}, tmp_path / "w.pt")
    repacked(
        path, lambda record, content: content.replace(b"K\x01", call) if record.endswith(".pkl") else content
    )
    text = sentence(path)
    assert f"would run {name}, but a checkpoint is data, never code, and no checkpoint needs that" in text
    assert "torch.load" not in text


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles_of_every_protocol_are_refused(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Bait(open, str(tmp_path / "proof"), "w"), protocol))
    assert ("a bare pickle" if protocol > 1 else "of another format") in sentence(tmp_path / "w.pkl")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_baits_are_named_in_every_protocol(tmp_path: Path, protocol: int, legacy: bool) -> None:
    content = {"state_dict": WEIGHTS, "x": Bait(os.system, f"touch {tmp_path / 'proof'}")}
    path = tmp_path / "w.pt"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert "would run posix.system" in sentence(path)
    assert not (tmp_path / "proof").exists()


def test_a_newer_protocol_is_named(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "w.pt", pickle_protocol=4)
    assert "pickle protocol 4, of which only 2 is read as data" in sentence(tmp_path / "w.pt")


def test_all_unsafe_globals_are_named(tmp_path: Path) -> None:
    content = {"model": WEIGHTS, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.9)}
    text = sentence(saved(content, tmp_path / "w.pt"))
    assert "argparse.Namespace" in text
    assert "multiarray.scalar" in text
    assert "numpy.dtype" in text


def test_a_whole_model_is_refused_and_loads_after_the_advice(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    for content, advice in (
        (network, "torch.save(checkpoint.state_dict(), 'weights.pt')"),
        ({"model": network, "epoch": 1}, "torch.save(checkpoint['model'].state_dict(), 'weights.pt')"),
    ):
        path = saved(content, tmp_path / "w.pt")
        text = sentence(path)
        assert "would run torch.nn.modules.container.Sequential" in text
        assert text.endswith(advice)
        checkpoint = torch.load(path, weights_only=False)
        torch.save((checkpoint["model"] if content is not network else checkpoint).state_dict(), path)
        assert read_weights(path).keys() == network.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_whole_programs_are_refused(tmp_path: Path) -> None:
    module, image = nn.Linear(2, 2), torch.ones(1, 2)
    torch.jit.save(torch.jit.trace(module, image), tmp_path / "w.pt")  # type: ignore[no-untyped-call]  # torch's
    assert "is a whole program" in sentence(tmp_path / "w.pt")
    torch.export.save(torch.export.export(module, (image,)), tmp_path / "w.pt2")
    text = sentence(tmp_path / "w.pt2")
    assert "is a whole program" in text
    assert "check takes such candidates with --trust-program" in text
    (tmp_path / "w.onnx").write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(40))
    assert "is a whole program (ONNX)" in sentence(tmp_path / "w.onnx")


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved({"a": torch.zeros(2**22)}, tmp_path / "w.pt")
    repacked(path, lambda _, content: content, method=zipfile.ZIP_DEFLATED)
    assert read_weights(path)["a"].shape == (2**22,)  # 16 MiB are no bomb
    monkeypatch.setattr(file_formats, "MAX_UNPACKED_BYTES", 2**20)
    monkeypatch.setattr(torch, "load", None)
    assert "would unpack to 16,777," in sentence(path)


def test_an_archive_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    path = saved({"a": torch.zeros(100)}, tmp_path / "w.pt")
    content = path.read_bytes()
    honest = struct.pack("<II", 400, 400)  # packed and unpacked bytes of the tensor
    assert content.rfind(honest) > content.find(b"PK\x01\x02")
    lie = struct.pack("<II", 400, 2**31)
    path.write_bytes(content[: content.rfind(honest)] + lie + content[content.rfind(honest) + 8 :])
    assert "would unpack to 2,147,48" in sentence(path)


def test_deflated_archives_that_are_honest_load(tmp_path: Path) -> None:
    path = saved({"a": torch.zeros(10_000)}, tmp_path / "w.pt")
    repacked(path, lambda _, content: content, method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2_000
    assert torch.equal(read_weights(path)["a"], torch.zeros(10_000))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_view_that_repeats_one_number_for_ever_is_refused(tmp_path: Path, legacy: bool) -> None:
    endless = torch.ones(1).expand(2**20, 2**20)
    text = sentence(saved({"a": endless}, tmp_path / "w.pt", legacy=legacy))
    assert "would unpack to 4,398,046,511,104" in text


@pytest.mark.parametrize("legacy", [False, True])
def test_storages_that_claim_more_than_the_file_has_are_refused(tmp_path: Path, legacy: bool) -> None:
    path = saved({"a": torch.arange(4.0)}, tmp_path / "w.pt", legacy=legacy)

    def lie(_: str, content: bytes) -> bytes:
        return content.replace(b"K\x04", b"J" + struct.pack("<i", 2**30))

    if legacy:
        path.write_bytes(lie("", path.read_bytes()))
        assert "it should have 4,294,967," in sentence(path)
    else:
        repacked(path, lie)
        assert "storage 0 should have 4,294,967,296 bytes and has 16" in sentence(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tuple_that_nests_itself_for_ever_does_not_hang(tmp_path: Path, legacy: bool) -> None:
    key: Any = ("a",)
    for _ in range(60):
        key = (key, key)

    def swap(_: str, content: bytes) -> bytes:
        return content.replace(marker, pickle.dumps(key, 2)[2:-1])

    marker = b"X\x03\x00\x00\x00keyq\x01"
    path = saved({"key": torch.ones(1)}, tmp_path / "w.pt", legacy=legacy)
    path.write_bytes(swap("", path.read_bytes())) if legacy else repacked(path, swap)
    assert "a tuple of more than 100,000 values" in sentence(path)


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved(WEIGHTS, tmp_path / "w.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("w/DATA.pkl", b"\x80\x02}.")
    assert "two entries of the archive have the same name" in sentence(path)


def tensors(header: dict[str, Any], data: bytes, *, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        tensors({"a": A}, bytes(8), length=2**63),
        tensors({"a": A}, bytes(8), length=1000),
        tensors({"a": A}, bytes(7)),
        tensors({"a": A}, bytes(9)),
        tensors({"a": A, "b": {**A, "data_offsets": [4, 12]}}, bytes(12)),
        tensors({"a": {**A, "data_offsets": [8, 16]}}, bytes(16)),
        tensors({"a": {**A, "data_offsets": [8, 0]}}, bytes(8)),
        tensors({"a": {**A, "shape": [2**62, 4]}}, bytes(8)),
        tensors({"a": {**A, "shape": [2**40]}}, bytes(8)),
        tensors({"a": {**A, "data_offsets": [0, 2**62], "shape": [2**60]}}, bytes(8)),
        tensors({"a": {**A, "dtype": "PYTHON"}}, bytes(8)),
        tensors({"a": {**A, "dtype": "C64", "shape": [1]}}, bytes(8)),
        tensors({"a": {"b": {}}}, b""),
        tensors({"__metadata__": {"format": "pt"}}, b""),
        tensors({}, b""),
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        struct.pack("<Q", 20_000) + b'{"a":' * 4_000,
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_that_lie_are_refused(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert len(sentence(tmp_path / name)) < 500


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.extensive
def test_a_file_is_refused_wherever_it_was_cut(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    save_file(WEIGHTS, path) if kind == "safetensors" else saved(WEIGHTS, path, legacy=kind == "legacy")
    content = path.read_bytes()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        text = sentence(path)
        if length == 0:
            assert "an empty file" in text
        elif kind == "legacy" and length < 14:  # not yet the number that torch.save writes first
            assert "a bare pickle" in text
        else:
            assert "truncated, damaged or of another format" in text
        if kind == "legacy" and length >= 14:  # in words, wherever: inside a number, a name, the tensors
            assert "its pickle ends in the middle" in text or "bytes and has" in text


def test_noise_behind_the_head_of_a_format_is_refused(tmp_path: Path) -> None:
    for head in (b"PK\x03\x04", bytes.fromhex("80028a0a6cfc9c46f9206aa850192e"), b"\x10" + bytes(7) + b"{"):
        (tmp_path / "w.pt").write_bytes(head + bytes(range(256)) * 4)
        assert "truncated, damaged" in sentence(tmp_path / "w.pt")
