from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from evalsuite.models.inference import keep_large_blocks

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

FAULTS = """
import ctypes, resource, sys
from evalsuite.models.inference import keep_large_blocks
if sys.argv[1] == "kept":
    assert keep_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def touch():
    block = libc.malloc(48 << 20)
    ctypes.memset(block, 1, 48 << 20)
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Returns how many pages are fetched anew when a block of 48 MiB is freed and asked for again."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAULTS, mode], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(not GLIBC, reason="only glibc has these switches")
def test_large_blocks_stay() -> None:
    default, keeping = faults("default"), faults("kept")
    assert default > 50
    assert keeping < default / 10


class Library:
    """A C library that refuses, accepts or lacks things."""

    def __init__(self, largest: int, *, glibc: bool = True) -> None:
        self.seen: list[tuple[int, int]] = []
        if glibc:
            self.gnu_get_libc_version = object()

        def mallopt(name: int, value: int) -> int:
            self.seen.append((name, value))
            return int(name == -1 or value <= largest)

        self.mallopt = mallopt


@pytest.mark.parametrize(
    ("largest", "taken", "calls"),
    [
        (2**30, True, [(-3, 2**30), (-1, 2**31 - 1)]),
        (2**25, True, [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]),
        (0, False, [(-3, 2**30), (-3, 2**25)]),
    ],
    ids=["any size", "32 MiB at most", "refused"],
)
def test_what_is_asked_of_the_library(
    largest: int, taken: bool, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(largest)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert keep_large_blocks() is taken
    assert library.seen == calls


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    musl = Library(2**30, glibc=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: musl)
    assert keep_large_blocks() is False
    assert musl.seen == []


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_no_library_at_all(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_large_blocks() is False
