"""The precision of trainings that leave it open (``precision = "auto"``): bfloat16 where the device computes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from evalsuite.training.recipe import Recipe

AUTOMATIC = "auto"
_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # of x86 and of ARM, as Linux calls them


def with_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """Returns the recipe with its precision on a device; one that states its precision stays as it is."""
    if recipe.precision != AUTOMATIC:
        return recipe
    return replace(recipe, precision="bfloat16" if computes_bfloat16(device) else "float32")


def computes_bfloat16(device: torch.device) -> bool:
    """Returns whether a device has units for products in bfloat16: others emulate it and lose time.

    Asks the hardware and takes no time, so that the answer is the same at every start. Processors of systems that do
    not list their units in ``/proc/cpuinfo`` count as having none.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(_FLAGS & _processor_flags())


def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(flags, "").split())
