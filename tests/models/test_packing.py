"""A packed file is a file: every bit comes back, and zeros and shared magnitudes make it smaller."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.cost import cost, packed_size
from evalsuite.models.packing import MAGIC, pack, unpack, with_positive_zeros
from evalsuite.producers.unstructured.base import apply_masks, global_masks, magnitudes

Build = Callable[..., nn.Module]

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn)
OTHERS = (torch.int64, torch.int8, torch.uint8, torch.int16, torch.bool, torch.complex64)


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert actual[name].shape == tensor.shape
        assert bits(actual[name]) == bits(tensor)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bits of any type: NaNs with payloads, both zeros, subnormal numbers; runs, and few distinct ones."""
    dtype = draw(st.sampled_from(FLOATS + OTHERS))
    width = 1 if dtype == torch.bool else dtype.itemsize
    number = st.binary(min_size=width, max_size=width)
    shape = draw(st.sampled_from([(), (0, 3), (1,), (7,), (2, 3), (5, 2, 3, 3)]))
    count = math.prod(shape)
    zero, minus = bytes(width), bytes(width - 1) + b"\x80"
    choice = draw(st.lists(st.sampled_from([zero, minus]) | number, min_size=1, max_size=4)) if count else []
    each = number if not choice or draw(st.booleans()) else st.sampled_from(choice)
    data = b"".join(draw(st.lists(each, min_size=count, max_size=count)))
    if dtype == torch.bool:
        data = bytes(byte & 1 for byte in data)
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape)


@given(st.dictionaries(st.text(max_size=5), tensors(), max_size=4))
@pytest.mark.extensive
def test_every_bit_comes_back(state: dict[str, Tensor]) -> None:
    assert_same(unpack(pack(state)), state)


def test_zeros_with_a_sign_and_nans_with_a_payload_come_back() -> None:
    quiet = torch.tensor([0x7FC00001, -0x003FFFFF], dtype=torch.int32).view(torch.float32)
    state = {"w": torch.tensor([0.0, -0.0, 1.0, -1.0]), "nan": quiet, "count": torch.tensor(3)}
    assert_same(unpack(pack(state)), state)


def test_the_memory_format_of_a_tensor_makes_no_difference() -> None:
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert pack({"w": weight.to(memory_format=torch.channels_last)}) == pack({"w": weight})


@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_a_network_comes_back(build: Build, name: str) -> None:
    state = build(name).state_dict()
    assert_same(unpack(pack(state)), state)


def test_worked_example() -> None:
    """Four kinds of stream and nothing else: which are there, signs, repeats, magnitudes byte by byte."""
    import json
    import zlib

    data = pack({"w": torch.tensor([0.0, 1.5, -1.5, 0.0, 2.0])})
    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")
    start = len(MAGIC) + 8
    (entry,), lengths = json.loads(zlib.decompress(data[start : start + size]))
    assert entry == {"name": "w", "dtype": "float32", "shape": [5], "loose": False, "table": None}
    streams, start = {}, start + size
    for kind, length in lengths.items():
        streams[kind] = zlib.decompress(data[start : start + length])
        start += length
    # 1.5 is 0x3FC00000 and 2.0 is 0x40000000: without the sign and moved up by its bit 0x7F800000, 0x80000000
    assert streams == {
        "present": bytes([0b01101000]),
        "sign": bytes([0b01000000]),  # of 1.5, -1.5 and 2.0
        "again": bytes([0b01000000]),  # -1.5 has the magnitude of the one before
        "magnitude 4.0": b"\x7f\x80",
        "magnitude 4.1": b"\x80\x00",
        "magnitude 4.2": b"\x00\x00",
        "magnitude 4.3": b"\x00\x00",
    }


def per_weight(weight: Tensor) -> float:
    """Bits of the packed file for each weight."""
    return 8 * len(pack({"w": weight})) / weight.numel()


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return 0.05 * torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))


def test_zeros_pay_in_proportion(weight: Tensor) -> None:
    """A weight that is left costs what it did, and where it stands costs the entropy of a share of zeros."""
    dense = per_weight(weight)
    assert 26 < dense < 28  # of 32: the exponents of a normal distribution have little to say
    for share in (0.5, 0.9, 0.98):
        gone = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < share
        entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
        sizes = per_weight(weight.masked_fill(gone, 0))
        assert sizes == pytest.approx((1 - share) * dense + entropy, rel=0.03, abs=0.15)


@pytest.mark.parametrize("block", [4, 8, 16])
def test_shared_magnitudes_pay_in_proportion(weight: Tensor, block: int) -> None:
    """A sign for each weight, a magnitude for each block."""
    blocks = weight.view(len(weight), -1, block)
    shared = (blocks.sign() * blocks.abs().mean(-1, keepdim=True)).view_as(weight)
    expected = 1 + (per_weight(weight) - 1) / block
    assert per_weight(shared) == pytest.approx(expected, rel=0.15)


def test_few_distinct_magnitudes_pay(weight: Tensor) -> None:
    """Eight magnitudes and a sign are four bits at most, less what some are rarer than others."""
    levels = (weight / weight.abs().max() * 8).round() / 8
    assert per_weight(levels) < 4


def test_the_size_of_a_model_is_that_of_its_file_without_the_signs_of_zeros(build: Build) -> None:
    model = build("small-cnn")
    masks = global_masks(model, magnitudes(model), 500)
    signed, plain = copy.deepcopy(model), copy.deepcopy(model)
    apply_masks(signed, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name).masked_fill_(~mask, 0.0)
    weights = signed.get_parameter("network.linear.weight")
    assert (weights == 0).any()
    assert weights[weights == 0].signbit().any()  # the mask left negative zeros
    assert packed_size(signed) == packed_size(plain)
    assert len(pack(signed.state_dict())) > len(pack(plain.state_dict()))
    total = cost(plain, (3, 32, 32))
    assert total.packed == packed_size(plain)
    assert total.packed < total.bytes / 10


def test_positive_zeros_change_no_number() -> None:
    state = {"w": torch.tensor([-0.0, 0.0, -2.0, math.nan]), "n": torch.tensor([0, -1])}
    positive = with_positive_zeros(state)
    assert positive["w"][:3].tolist() == [0.0, 0.0, -2.0]
    assert not positive["w"][:2].signbit().any()
    assert positive["w"][3].isnan()
    assert positive["n"].tolist() == [0, -1]


def damaged(data: bytes) -> list[bytes]:
    middle = len(data) // 2
    return [data[:-1], data + b"x", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], data[:12]]


@pytest.mark.parametrize("case", range(4))
def test_a_damaged_file_is_detected(case: int) -> None:
    data = pack({"w": torch.arange(50.0)})
    with pytest.raises(CheckpointError, match=r"^packed weights are damaged \(.+\): pack them again$"):
        unpack(damaged(data)[case])


def test_another_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"packed weights start with b'PK.*expected b'EVALPACK1"):
        unpack(b"PK\x03\x04 something else")
