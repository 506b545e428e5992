"""Keeps large blocks of memory in the process, so that activations do not fault in anew after every layer.

The C library of most Linux systems hands blocks of more than a few megabytes back to the kernel as soon as
they are freed, and each page of the next one is a fault: for a small network a third of the time.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_NEVER = 2**31 - 1
_LARGEST_BLOCKS = (2**30, 2**25)  # some releases refuse more than 32 MiB


def keep_large_blocks() -> bool:
    """Makes freed memory stay with the process; call it once, before the first large allocation.

    The process then never shrinks: its peak is what it holds. Nothing that it computes changes.

    Returns:
        Whether the C library took it; False where that is not glibc (musl, macOS, Windows).
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # only glibc has it, and only its mallopt is meant
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):  # no such symbol; no such library; Windows takes no None
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mapped = any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in _LARGEST_BLOCKS)
    return mapped and mallopt(_TRIM_THRESHOLD, _NEVER) == 1
