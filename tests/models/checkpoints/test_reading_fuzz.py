"""Real files with bytes changed, lost and added: weights come out, or one sentence does, and nothing else."""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints import pickle_operations
from evalsuite.models.checkpoints.reading import read_weights

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
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.extensive
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
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.extensive
def test_noise_is_refused(tmp_path: Path, noise: bytes) -> None:
    for head in (b"", PICKLE[:2], b"PK\x03\x04", FILES["legacy"][:15], b"\x00\x01" + bytes(6) + b"{"):
        (tmp_path / "w.pt").write_bytes(head + noise)
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", FILES)
def test_the_undamaged_files_load(tmp_path: Path, kind: str) -> None:
    (tmp_path / "w.pt").write_bytes(archive(PICKLE) if kind == "pickle" else FILES[kind])
    assert "conv.weight" in read_weights(tmp_path / "w.pt") or kind == "safetensors"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(name: str, *arguments: bytes) -> bytes:
    """The operations that put the result of a function onto the stack."""
    module, _, function = name.encode().rpartition(b".")
    return b"c" + module + b"\n" + function + b"\n(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x05" + value.to_bytes(5, "little")


def view(items: int, *, storage: int = 4, stride: int = 1) -> bytes:
    """A tensor of float32 in the memory ``data/0``, which has 16 bytes."""
    place = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(storage) + b"tQ"
    )
    shape = b"(" + number(items) + b"t(" + number(stride) + b"t"
    return call(
        "torch._utils._rebuild_tensor_v2", place, b"K\x00", shape, b"\x89", call("collections.OrderedDict")
    )


def state(value: bytes, key: bytes = text("w")) -> bytes:
    return b"\x80\x02}" + key + value + b"s."


def nested() -> bytes:
    """A tuple that contains the one before it twice, sixty times, and ends in empty ones: it has no value at all."""
    return b")" + b"".join(b"q" + bytes([at]) + b"h" + bytes([at]) + b"\x86" for at in range(60))


def with_state(function: str, attributes: bytes) -> bytes:
    parameter = view(4), b"\x89", call("collections.OrderedDict"), attributes
    if function.endswith("state"):
        return call(function, *parameter)
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    place = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(4) + b"tQ"
    arguments = (
        b"(" + place + b"K\x00(" + number(4) + b"t(K\x01t\x89" + call("collections.OrderedDict") + b"t"
    )
    return call(function, rebuild, b"ctorch\nTensor\n", arguments, attributes)


METHODS = (
    b"}("
    + b"".join(text(n) + b"K\x05" for n in ("detach", "dim", "numel", "float", "is_floating_point"))
    + b"u"
)
BOMBS = {
    "a tuple of shared tuples as a name": b"\x80\x04" + nested() + text("x") + b"\x93.",
    "a tuple of shared tuples as a key": state(view(4), nested()),
    "bytearray of 4 GiB": state(call("builtins.bytearray", number(2**32))),
    "bytearray of a tensor": state(call("builtins.bytearray", view(2**28, stride=0))),
    "bytearray behind a rebuild": state(
        call(
            "torch._tensor._rebuild_from_type_v2",
            b"cbuiltins\nbytearray\n",
            b"ctorch\nTensor\n",
            b"(" + number(2**32) + b"t",
            b"}",
        )
    ),
    "set of a view": state(call("builtins.set", view(2**27, stride=0))),
    "a class of torch as a function": state(call("torch.FloatTensor", number(2**32))),
    "stride 0": state(view(236_000_000, stride=0)),
    "punycode": state(call("_codecs.encode", text("\u00fc" * 20_000), text("punycode"))),
    "bz2": state(call("_codecs.encode", text("a"), text("bz2"))),
    "operations": b"\x80\x02" + b"N0" * 2_450_000 + b"}.",
    "a list in itself": b"\x80\x02]q\x00(h\x00h\x00e.",
    "dimensions": state(call("torch.Size", b"(" + b"K\x01" * 65 + b"t")),
}  # fmt: skip
REASONS = {
    "a tuple of shared tuples as a name": "a tuple of more than 100,000 values",
    "a tuple of shared tuples as a key": "a tuple of more than 100,000 values",
    "bytearray of 4 GiB": "a bytearray of something else than bytes",
    "bytearray of a tensor": "a bytearray of something else than bytes",
    "bytearray behind a rebuild": "a bytearray of something else than bytes",
    "set of a view": "builtins.set of a tensor",
    "a class of torch as a function": "a call of torch.FloatTensor",
    "stride 0": "that would unpack to 944,000,",
    "punycode": "text that is encoded in another way",
    "bz2": "text that is encoded in another way",
    "operations": "more than 1,000,000 operations",
    "a list in itself": "found a list",
    "dimensions": "a tensor of 65 dimensions",
    "dimensions of safetensors": "a tensor of 1,000,000 dimensions",
    "many": "found a header of ",
}
"""What is said of each bomb: the first of the limits that it meets, not the last."""
HOSTILE = {
    "attributes of a tensor": state(with_state("torch._tensor._rebuild_from_type_v2", METHODS)),
    "attributes of a parameter": state(with_state("torch._utils._rebuild_parameter_with_state", METHODS)),
}


def small_archive(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("w/data.pkl", pickled)
        new.writestr("w/version", "3")
        new.writestr("w/byteorder", "little")
        new.writestr("w/data/0", bytes(16))
    return buffer.getvalue()


READ = """
import json, pathlib, resource, sys
from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.reading import read_weights

def peak():  # of this program alone: the system's own count starts with that of the program that started it
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

def seconds():
    return sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

answers, memory, time = [], peak(), seconds()
for file in sys.argv[1:]:
    try:
        answers.append(sorted(read_weights(pathlib.Path(file))))
    except CheckpointError as error:
        answers.append(str(error))
print(json.dumps([answers, peak() - memory, seconds() - time]))
"""


@pytest.mark.extensive
def test_bombs_cost_a_sentence(tmp_path: Path) -> None:
    """The limits are of memory and computing time: those of the clock depend on what else the machine does."""
    files = {tmp_path / f"{at}.pt": small_archive(content) for at, content in enumerate(BOMBS.values())}
    header = json.dumps(
        {f"t{at}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for at in range(300_000)}
    )
    flat = json.dumps({"a": {"dtype": "F32", "shape": [1] * 1_000_000, "data_offsets": [0, 4]}})
    for name, table in (("flat", flat), ("many", header)):
        files[tmp_path / f"{name}.safetensors"] = struct.pack("<Q", len(table)) + table.encode() + bytes(4)
    for file, content in files.items():
        file.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READ, *files], capture_output=True, text=True, check=True, timeout=300
    )
    sentences, kibibytes, seconds = json.loads(done.stdout)
    for kind, sentence in zip([*BOMBS, "dimensions of safetensors", "many"], sentences, strict=True):
        assert REASONS[kind] in sentence
        assert "\n" not in sentence
    assert kibibytes < 150 * 2**10
    assert seconds < 20


def test_the_scan_has_limits_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a pickle does to the scan, the process ends, and the reader has a sentence."""
    (tmp_path / "w.pt").write_bytes(small_archive(state(view(4))))
    program = tmp_path / "operations.py"
    source = Path(pickle_operations.__file__).read_text()
    monkeypatch.setattr(pickle_operations, "__file__", str(program))
    for bomb in ("bytearray(2**31)", "sum(iter(int, 1))"):
        limits = source.replace("CPU_SECONDS = 2**29, 30", "CPU_SECONDS = 2**29, 1")
        program.write_text(
            limits.replace("    try:\n        result", f"    {bomb}\n    try:\n        result", 1)
        )
        with pytest.raises(
            CheckpointError, match="following its pickle takes more than 30 s of computing or 512 MiB"
        ):
            read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", HOSTILE)
def test_attributes_of_tensors_in_a_pickle_change_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "w.pt").write_bytes(small_archive(HOSTILE[kind]))
    weights = read_weights(tmp_path / "w.pt")
    assert torch.equal(weights["w"], torch.zeros(4))
    assert type(weights["w"]) is torch.Tensor


ATOMS = st.sampled_from(
    [text("w"), text("latin1"), view(4), number(3), number(2**32), b"}", b")", b"]", b"\x88", b"N", METHODS]
)
FUNCTIONS = st.sampled_from(
    [
        "builtins.bytearray",
        "builtins.set",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "torch.Size",
        "_codecs.encode",
        "torch.FloatTensor",
        "torch._tensor._rebuild_from_type_v2",
        "torch.UntypedStorage",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_wrapper_subclass",
    ]
)


def calls(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda name, arguments: call(name, *arguments), FUNCTIONS, st.lists(values, max_size=4))


def spent() -> tuple[int, int, float]:
    """KiB of memory at most of this process and of those that it started, and seconds that they computed."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_maxrss, others.ru_maxrss, own.ru_utime + others.ru_utime


def read_cheaply(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file, none where there is one sentence, within limits of memory and computing time."""
    own, others, seconds = spent()
    weights: dict[str, torch.Tensor] = {}
    sentence = str(path)
    try:
        weights = read_weights(path)
    except CheckpointError as error:  # weights may come out as well
        sentence = str(error)
    assert str(path) in sentence
    assert "\n" not in sentence or "import torch" in sentence
    own_after, others_after, seconds_after = spent()
    assert own_after - own < 300 * 2**10
    assert others_after - others < 300 * 2**10
    assert seconds_after - seconds < 10
    return weights


@given(value=st.recursive(ATOMS, calls, max_leaves=6))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_calls_of_what_pickles_may_call_cost_little(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(small_archive(state(value)))
    read_cheaply(tmp_path / "w.pt")


def legacy(pickled: bytes) -> bytes:
    """The pickle as a file of torch before 1.6 has it, behind three others and before the keys of its memory."""
    stream = io.BytesIO(FILES["legacy"])
    for _ in range(3):
        pickle.load(stream)  # what torch wrote above
    return FILES["legacy"][: stream.tell()] + pickled + pickle.dumps([], protocol=2)


def listing(entry: dict[str, Any], count: int) -> bytes:
    """A safetensors file whose header describes many tensors, without any of their numbers."""
    header = json.dumps({f"t{at}": entry for at in range(count)}).encode()
    return struct.pack("<Q", len(header)) + header


def deep(depth: int) -> bytes:
    """A tuple in a tuple, and so on, each of which contains the one before it twice."""
    return b")" + b"".join(
        b"r" + struct.pack("<I", at) + b"j" + struct.pack("<I", at) + b"\x86" for at in range(depth)
    )


def tuple_of(count: int) -> bytes:
    return b"(" + b"K\x01" * count + b"t"


def shaped(shape: bytes) -> bytes:
    """A tensor of one number, whose dimensions and strides are a value of the pickle."""
    place = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(4) + b"tQ"
    nothing = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", place, b"K\x00", shape, shape, b"\x89", nothing)


EMPTY: dict[str, Any] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
SIZED: dict[str, Callable[[int], bytes]] = {
    "bytearray": lambda size: small_archive(state(call("builtins.bytearray", number(size)))),
    "a view of one number": lambda size: small_archive(state(view(size, stride=0))),
    "a view beyond its memory": lambda size: small_archive(state(view(size))),
    "memory that is not there": lambda size: small_archive(state(view(4, storage=size))),
    "set of a view": lambda size: small_archive(state(call("builtins.set", view(size, stride=0)))),
    "Size of a view": lambda size: small_archive(state(call("torch.Size", view(size, stride=0)))),
    "a storage of a size": lambda size: small_archive(state(call("torch.UntypedStorage", number(size)))),
    "nested tuples": lambda size: small_archive(state(view(4), deep(size % 5_000))),
    "operations": lambda size: small_archive(b"\x80\x02" + b"N0" * (size % 2**23) + b"}."),
    "operations in an old file": lambda size: legacy(b"\x80\x02" + b"N0" * (size % 2**23) + b"}."),
    "bytearray in an old file": lambda size: legacy(state(call("builtins.bytearray", number(size)))),
    "text": lambda size: small_archive(
        state(call("_codecs.encode", text("\u00fc" * (size % 2**16)), text("punycode")))
    ),
    "tensors in a header": lambda size: listing(EMPTY, size % 2**17),
    "dimensions in a header": lambda size: listing({**EMPTY, "shape": [0, *[1] * (size % 2**17)]}, 1),
    "dimensions of a view": lambda size: small_archive(state(shaped(tuple_of(size % 2**16)))),
    "dimensions in a list": lambda size: small_archive(
        state(shaped(b"](" + b"K\x01" * (size % 2**16) + b"e"))
    ),
    "dimensions of a Size": lambda size: small_archive(
        state(shaped(call("torch.Size", tuple_of(size % 2**16))))
    ),
    "numbers in a header": lambda size: listing({**EMPTY, "shape": [size, 0, size]}, 1),
}


@pytest.mark.parametrize("kind", SIZED)
@given(size=st.integers(2**10, 2**39))
@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_bombs_of_any_size_cost_little(tmp_path: Path, kind: str, size: int) -> None:
    (tmp_path / "w.pt").write_bytes(SIZED[kind](size))
    read_cheaply(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", HOSTILE)
@given(
    names=st.lists(st.sampled_from([name for name in dir(torch.Tensor) if name.isascii()]), max_size=9),
    value=st.sampled_from([b"K\x05", b"N", b"]", text("x"), b"\x88", view(4)]),
)
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_attributes_of_tensors_cost_little_and_change_nothing(
    tmp_path: Path, kind: str, names: list[str], value: bytes
) -> None:
    function = "torch._tensor._rebuild_from_type_v2"
    if kind == "attributes of a parameter":
        function = "torch._utils._rebuild_parameter_with_state"
    attributes = b"}(" + b"".join(text(name) + value for name in names) + b"u"
    (tmp_path / "w.pt").write_bytes(small_archive(state(with_state(function, attributes))))
    weights = read_cheaply(tmp_path / "w.pt")
    assert not weights or torch.equal(weights["w"], torch.zeros(4))
    assert all(type(tensor) is torch.Tensor for tensor in weights.values())
