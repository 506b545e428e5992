"""Weights from files that somebody else made: data, never code."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architecture import core

if TYPE_CHECKING:
    from pathlib import Path

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "model_ema",
    "ema",
)
"""Keys under which training scripts keep a state dict; the first that is there counts."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""

ALIASES = {"fc": "linear", "linear": "fc", "shortcut": "downsample", "downsample": "shortcut"}
"""Names of a head and of a shortcut that mean the same; applied to whole parts of a dotted key."""

_OWN_PREFIX = "network."  # before every key of a state dict of `Normalized`
_COUNTER = "num_batches_tracked"  # absent from checkpoints older than torch 0.4.1, and unused in evaluation
_GLOBAL = re.compile(r"GLOBAL ([\w.<>]+)")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a state dict in a file, without ever running what is in it.

    Args:
        path: safetensors, or what ``torch.save`` wrote (``.pt``, ``.pth``, ``.th``, ``.tar``): a state dict,
            bare or under one of `WRAPPERS`, beside whatever else. Told apart by content.

    Returns:
        Keys without `PREFIXES`, tensors on the processor in the file's dtype.

    Raises:
        CheckpointError: If there is no such file, it is damaged, it wants to run code, it holds no tensors,
            or one of them is NaN or infinite.
    """
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no such file"
        raise CheckpointError(f"weights {path}: found {found}, expected a safetensors file or a state dict")
    try:
        content = safetensors.torch.load_file(path) if _is_safetensors(path) else _unpickled(path)
    except OSError as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    weights = _without_prefixes(_state_dict(path, content))
    _check_values(path, weights)
    return weights


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies `weights` into `module`, which they must fit exactly.

    `ALIASES`, a leading ``network.`` and missing ``num_batches_tracked`` are forgiven; half precision widens.

    Args:
        module: A network, or one that `assemble` put behind its preprocessing.
        weights: As `read_weights` returns them.

    Raises:
        CheckpointError: If a key is missing or unexpected, or a shape or kind of number differs.
    """
    network = core(module)
    expected: dict[str, Tensor] = network.state_dict()
    found = matched(weights, expected)
    for name, tensor in expected.items():
        if name.endswith(_COUNTER):
            found.setdefault(name, tensor)
    _check_fit(found, expected)
    network.load_state_dict(found)


def matched(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Returns `weights` under the keys of `names` that they mean; keys that mean none of them stay.

    >>> sorted(matched({"fc.bias": torch.zeros(1), "extra": torch.zeros(1)}, ["linear.bias"]))
    ['extra', 'linear.bias']
    """
    known = set(names)
    if not any(name.startswith(_OWN_PREFIX) for name in known):
        weights = _without(weights, _OWN_PREFIX)
    renamed: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        alias = ".".join(ALIASES.get(part, part) for part in key.split("."))
        free = key not in known and alias in known and alias not in weights
        renamed[alias if free else key] = tensor
    return renamed


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts with the length of a JSON header and the header's brace."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:] == b"{" and length <= path.stat().st_size)


def _unpickled(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here is refused below, in one sentence
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a malformed pickle fails in many ways, each of them a damaged file
        if _is_program(path):
            raise CheckpointError(
                f"weights {path} is a whole program (TorchScript or torch.export), not a state dict; "
                "load it where you trust it and save module.state_dict() with torch.save"
            ) from error
        if isinstance(error, pickle.UnpicklingError) and (wanted := _GLOBAL.search(str(error))):
            raise CheckpointError(
                f"weights {path} wants to run {wanted[1]}, but a checkpoint is data, never code; convert it "
                "where you trust it: checkpoint = torch.load(file, map_location='cpu', weights_only=False), "
                "then torch.save({'state_dict': checkpoint['state_dict']}, 'weights.pt'), or "
                "checkpoint.state_dict() if it holds a whole model"
            ) from error
        raise _damaged(path, error) from error


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return False
    return "constants.pkl" in members or any(name.startswith("models/") for name in members)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(
        f"weights {path} is truncated, damaged or of another format ({reason}); "
        "expected safetensors or what torch.save writes: copy or download it again"
    )


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """The tensors of `content`, or of the first wrapper inside it that has some."""
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                return _state_dict(path, content[wrapper])
        tensors = {key: value.detach() for key, value in content.items() if _is_weight(key, value)}
        if tensors:
            return tensors
    raise CheckpointError(
        f"weights {path}: found {_summary(content)}, expected a state dict of named tensors, "
        f"bare or under one of {', '.join(WRAPPERS)}"
    )


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _summary(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"a dictionary without tensors (keys: {_some(map(str, content)) or 'none'})"


def _without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stripped = dict(weights)
    while (prefix := next(iter(stripped)).partition(".")[0] + ".") in PREFIXES:
        shorter = _without(stripped, prefix)
        if shorter.keys() == stripped.keys():
            break
        stripped = shorter
    return stripped


def _without(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """`weights` without `prefix` if every key has it, else as they are."""
    if all(key.startswith(prefix) and key != prefix for key in weights):
        return {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return dict(weights)


def _check_values(path: Path, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            kind = "quantised" if tensor.is_quantized else tensor.layout
            raise CheckpointError(
                f"weights {path}: {name} is a {kind} tensor of {tensor.dtype} on {tensor.device}, "
                "expected dense real numbers: convert it before saving"
            )
        if broken := tensor.numel() - int(torch.isfinite(tensor).sum()):
            raise CheckpointError(
                f"weights {path}: {name} holds {broken} NaN or infinite values of {tensor.numel()}; "
                "the training diverged or the file is damaged"
            )


def _check_fit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    shared = [name for name in expected if name in found]
    complaints = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} (file {tuple(found[name].shape)}, model {tuple(expected[name].shape)})"
            for name in shared
            if found[name].shape != expected[name].shape
        ],
        "of another kind of number": [
            f"{name} (file {found[name].dtype}, model {expected[name].dtype})"
            for name in shared
            if found[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    if any(complaints.values()):
        text = "; ".join(f"{kind}: {_some(names)}" for kind, names in complaints.items() if names)
        raise CheckpointError(
            f"the weights do not fit the model: {text}; "
            "name the architecture and the settings that the weights were trained with"
        )


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
