"""Where numbers are computed: devices by name, and threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evalsuite.errors import UserError


def devices(names: str) -> tuple[str, ...]:
    """Returns the devices of ``cpu``, ``cuda``, ``cuda:1`` or ``cuda:0,1``.

    Raises:
        UserError: If one is no device, or not there, or named twice.
    """
    first, *rest = names.split(",")
    kind = first.partition(":")[0]
    all_names = [
        first.strip(),
        *(f"{kind}:{part.strip()}" if part.strip().isdigit() else part.strip() for part in rest),
    ]
    for name in all_names:
        device(name)
        if all_names.count(name) > 1:
            raise UserError(f"--device {names}: {name} is there twice; name each once")
    return tuple(all_names)


def device(name: str) -> torch.device:
    """Returns the device called `name`.

    Raises:
        UserError: If it is no device, or not there: there is no silent fall-back.
    """
    try:
        parsed = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: expected cpu, cuda or cuda:<number>") from None
    there = torch.cuda.device_count() if parsed.type == "cuda" else 0
    if parsed.type not in ("cpu", "cuda") or (parsed.type == "cuda" and (parsed.index or 0) >= there):
        raise UserError(
            f"device {name!r} is not there: this machine has cpu and {there} CUDA devices; use --device cpu"
        )
    return parsed


def card(place: torch.device) -> str:
    """Returns the name of the graphics card at `place`; empty for a processor."""
    return torch.cuda.get_device_name(place) if place.type == "cuda" else ""


def cores() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Computes with `count` threads inside the block: sums depend on it in the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
