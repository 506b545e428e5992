"""Tensors in one small file and back, bit for bit: zeros, equal magnitudes and few distinct ones take little room."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.errors import CheckpointError

MAGIC = b"EVALPACK1\n"
"""The first bytes of a packed file: what it is, and the version of its format."""
LEVEL = 9
"""Of DEFLATE: the strongest that zlib has; with another build of zlib a file may have some bytes more or less."""
BIT_STREAMS = ("present", "sign", "again")
"""Streams of single bits, which may have patterns longer than a run: those are searched for repetitions."""
PROBE = 4096
"""Magnitudes, spread from first to last, of which at most half must be distinct for a table of them to be written."""

Bits = NDArray[Any]
"""Unsigned integers, as wide as the numbers of a tensor."""
Bools = NDArray[np.bool_]


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Returns the bytes of a file from which `unpack` restores the same tensors, bit for bit.

    Of each tensor it holds: which numbers are not zero (a bit each); the signs of these; which of these have the
    magnitude of the one before (a bit each); the other magnitudes, or where few are distinct a table of them and
    their indices in it. Magnitudes are written byte by byte, the most significant first (for float32 the exponents,
    then the mantissas), each kind of byte of all tensors in one piece, compressed by DEFLATE in the way that is
    smallest for it: a Huffman code alone, with runs, or with all repetitions.

    Args:
        tensors: Of any type of number that has a fixed width, and of any shape.

    References:
        DEFLATE: RFC 1951. Bytes sorted by significance before compression: the filter "shuffle" of HDF5.
    """
    pieces: dict[str, list[bytes]] = defaultdict(list)
    entries = [_write_tensor(name, tensor, pieces) for name, tensor in tensors.items()]
    streams = {kind: _deflate(kind, b"".join(parts)) for kind, parts in pieces.items()}
    header = zlib.compress(
        json.dumps([entries, {kind: len(data) for kind, data in streams.items()}]).encode(), LEVEL
    )
    return b"".join((MAGIC, len(header).to_bytes(8, "little"), header, *streams.values()))


def unpack(data: bytes) -> dict[str, Tensor]:
    """Returns the tensors of a file that `pack` wrote, in their order.

    Raises:
        CheckpointError: If it is no packed file, or damaged.
    """
    if not data.startswith(MAGIC):
        raise CheckpointError(
            f"packed weights start with {data[: len(MAGIC)]!r}, expected {MAGIC!r}: this is another file"
        )
    try:
        entries, streams = _read_header(data[len(MAGIC) :])
        return {entry["name"]: _read_tensor(entry, streams) for entry in entries}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error) as error:
        raise CheckpointError(f"packed weights are damaged ({error}): pack them again") from error


def with_positive_zeros(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `tensors` with every zero positive: the same numbers, without bits for the signs of zeros.

    Masks leave -0.0 where they multiply a negative weight.
    """
    return {
        name: torch.where(tensor == 0, torch.zeros_like(tensor), tensor)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


@dataclass
class _Streams:
    """The uncompressed streams of a file, each read from its start to its end."""

    data: Mapping[str, bytes]
    positions: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def take(self, kind: str, count: int) -> NDArray[np.uint8]:
        """Returns the next `count` bytes of a kind."""
        start = self.positions[kind]
        self.positions[kind] = start + count
        values = np.frombuffer(self.data.get(kind, b""), np.uint8)[start : start + count]
        if len(values) < count:
            raise ValueError(f"{count - len(values)} bytes of {kind} are missing")
        return values

    def bits(self, kind: str, count: int) -> Bools:
        """Returns the next `count` bits of a kind."""
        return np.unpackbits(self.take(kind, -(-count // 8)), count=count).astype(np.bool_)

    def planes(self, kind: str, count: int, width: int) -> Bits:
        """Returns the next `count` numbers of `width` bytes each, whose bytes are in streams of their own."""
        columns = [self.take(f"{kind} {width}.{place}", count) for place in range(width)]
        return np.stack(columns, axis=-1).reshape(-1).view(f">u{width}").astype(f"<u{width}")


def _read_header(body: bytes) -> tuple[list[dict[str, Any]], _Streams]:
    """Returns the table of contents and the streams of a file."""
    size = int.from_bytes(body[:8], "little")
    entries, lengths = json.loads(zlib.decompress(body[8 : 8 + size]))
    streams, start = {}, 8 + size
    for kind, length in lengths.items():
        streams[kind] = zlib.decompress(body[start : start + length])
        start += length
    if start != len(body):
        raise ValueError(f"{len(body)} bytes, expected {start}")
    return entries, _Streams(streams)


def _deflate(kind: str, data: bytes) -> bytes:
    """Returns the smallest DEFLATE stream; in the noise of mantissas a search for repetitions is slow and in vain."""
    strategies = [zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]
    if kind in BIT_STREAMS:
        strategies.append(zlib.Z_DEFAULT_STRATEGY)
    return min((_deflate_with(data, strategy) for strategy in strategies), key=len)


def _deflate_with(data: bytes, strategy: int) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return compressor.compress(data) + compressor.flush()


def _write_tensor(name: str, tensor: Tensor, pieces: dict[str, list[bytes]]) -> dict[str, Any]:
    """Adds a tensor to the pieces, and returns its entry in the table of contents."""
    negative, magnitudes = _split(_as_bits(tensor), signed=tensor.is_floating_point())
    present = magnitudes != 0
    signed_zeros = bool(negative[~present].any())
    nonzero = magnitudes[present]
    again = np.zeros(len(nonzero), np.bool_)
    again[1:] = nonzero[1:] == nonzero[:-1]
    _add(pieces, "present", np.packbits(present))
    _add(pieces, "sign", np.packbits(negative if signed_zeros else negative[present]))
    _add(pieces, "again", np.packbits(again))
    dtype = str(tensor.dtype).removeprefix("torch.")
    entry = {"name": name, "dtype": dtype, "shape": list(tensor.shape), "loose": signed_zeros}
    return {**entry, "table": _write_magnitudes(nonzero[~again], pieces)}


def _write_magnitudes(values: Bits, pieces: dict[str, list[bytes]]) -> int | None:
    """Adds magnitudes; returns the length of the table of distinct ones, ``None`` without a table."""
    probe = values[:: -(-len(values) // PROBE) or 1]
    if 2 * len(np.unique(probe)) > len(probe):
        _add_planes(pieces, "magnitude", values)
        return None
    table, indices = np.unique(values, return_inverse=True)
    _add_planes(pieces, "table", table)
    _add_planes(pieces, "place", indices.astype(_narrowest(len(table))))
    return len(table)


def _read_tensor(entry: Mapping[str, Any], streams: _Streams) -> Tensor:
    """Returns the tensor of one entry in the table of contents."""
    dtype = getattr(torch, entry["dtype"])
    width, count = dtype.itemsize, int(np.prod(entry["shape"], dtype=np.int64))
    present = streams.bits("present", count)
    nonzero = int(present.sum())
    negative = np.zeros(count, np.bool_)
    signed = slice(None) if entry["loose"] else present
    negative[signed] = streams.bits("sign", count if entry["loose"] else nonzero)
    again = streams.bits("again", nonzero)
    distinct = int((~again).sum())
    if entry["table"] is None:
        values = streams.planes("magnitude", distinct, width)
    else:
        table = streams.planes("table", entry["table"], width)
        values = table[streams.planes("place", distinct, _narrowest(entry["table"]).itemsize)]
    magnitudes = np.zeros(count, f"<u{width}")
    magnitudes[present] = values[np.cumsum(~again) - 1]
    if not count:
        return torch.empty(entry["shape"], dtype=dtype)
    bits = _join(negative, magnitudes, signed=dtype.is_floating_point)
    return torch.from_numpy(bits.view(np.uint8)).view(dtype).reshape(entry["shape"])


def _as_bits(tensor: Tensor) -> Bits:
    """Returns the numbers of a tensor as unsigned integers of their width."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return np.frombuffer(flat.view(torch.uint8).numpy().tobytes(), f"<u{flat.element_size()}")


def _split(bits: Bits, *, signed: bool) -> tuple[Bools, Bits]:
    """Returns signs and magnitudes, those shifted by the sign bit, so that exponents fill their byte."""
    if not signed:
        return np.zeros(len(bits), np.bool_), bits
    return bits >> (8 * bits.itemsize - 1) != 0, bits << 1


def _join(negative: Bools, magnitudes: Bits, *, signed: bool) -> Bits:
    """Returns the numbers that `_split` splits into these signs and magnitudes."""
    if not signed:
        return magnitudes
    top = negative.astype(magnitudes.dtype) << (8 * magnitudes.itemsize - 1)
    return top | (magnitudes >> 1)


def _add(pieces: dict[str, list[bytes]], kind: str, values: NDArray[np.uint8]) -> None:
    pieces[kind].append(values.tobytes())


def _add_planes(pieces: dict[str, list[bytes]], kind: str, values: Bits) -> None:
    """Adds the bytes of numbers, sorted by significance, the most significant first."""
    width = values.itemsize
    columns = values.astype(f">u{width}").view(np.uint8).reshape(-1, width)
    for place in range(width):
        _add(pieces, f"{kind} {width}.{place}", np.ascontiguousarray(columns[:, place]))


def _narrowest(count: int) -> np.dtype[Any]:
    """Returns the narrowest unsigned integers that can index `count` entries."""
    return np.min_scalar_type(max(count - 1, 0)).newbyteorder("<")
