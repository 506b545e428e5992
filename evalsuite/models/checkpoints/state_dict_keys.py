"""Keys of state dicts: under which keys training scripts save one, and what wrapping modules put before its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from evalsuite.errors import first_few

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema",
)
"""Keys under which training scripts keep a state dict; the first that holds tensors counts."""

AVERAGED_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
"""Keys of weights that were averaged along the training; timm's loader prefers them to the others."""

MASK_WRAPPERS = ("masks_dict", "mask_dict", "masks", "mask")
"""Keys under which pruning tools keep masks."""

PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "timm_model.", "student.")
"""What DataParallel, torch.compile, Lightning, mmpretrain, distillation and this package put before every key."""

_OF_FRAMEWORKS = PREFIXES[
    :5
]  # of DataParallel, torch.compile, Lightning and this package: the network is the same

ALIASES = {"fc": "linear", "linear": "fc", "shortcut": "downsample", "downsample": "shortcut"}
"""Names of a head and of a shortcut that mean the same; applied to whole parts of a dotted key."""

COUNTER = "num_batches_tracked"
"""A buffer of batch norms, absent from checkpoints older than torch 0.4.1 and unused in evaluation."""

# Also inside a key: DataParallel around one layer, NNI's wrappers, torch.compile, FSDP.
_WRAPPING_MODULES = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# thop's counts, APEX's masks (which its weights contain already), averages beside weights, states of optimizers.
_STRAY_ANYWHERE = re.compile(
    r"total_ops|total_params|__\w+_mma_\w+|n_averaged|\w+_shadow|momentum_buffer|exp_avg|exp_avg_sq"
)
# A Lightning module's loss and metrics, and what training keeps beside its network.
_STRAY_FIRST = re.compile(
    r"criterion\w*|loss(_\w+)?|\w+_loss|(\w+_)?metrics?(_\w+)?|(\w+_)?acc(uracy)?(_?\d+)?|(\w+_)?auroc|(\w+_)?f1(_\w+)?"
    r"|confmat|confusion_matrix|optimi[sz]er\w*|(lr_)?scheduler|shadow(_\w+)?|teacher(_\w+)?"
)
_AVERAGED = "n_averaged"  # beside the keys of torch.optim.swa_utils.AveragedModel, which start with "module."
_MAX_DEPTH = 4  # of wrappers in wrappers; a pickled dictionary may contain itself


@dataclass(frozen=True, slots=True)
class KeyMatch:
    """A state dict under the names of a network.

    Attributes:
        weights: By names of the network; what is no part of it keeps its key.
        ignored: Keys that no forward pass reads, left out.
        prefix: What was taken from the keys of the network, beside the prefixes that all keys have.
        renamed: Keys with another name of the same layer, and that of the network.
    """

    weights: dict[str, Tensor]
    ignored: tuple[str, ...]
    prefix: str = ""
    renamed: tuple[tuple[str, str], ...] = ()

    def note(self) -> str:
        """Returns a sentence on what was ignored and renamed; empty if nothing was."""
        parts = []
        if self.prefix:
            parts.append(f"the weights were taken from {self.prefix}*")
        if self.renamed:
            parts.append(_renamed_text(self.renamed))
        if self.ignored:
            count = len(self.ignored)
            parts.append(
                f"{count} tensors that the network does not have were ignored ({first_few(self.ignored)})"
            )
        text = " and ".join(parts)
        return f"{text[:1].upper()}{text[1:]}." if text else ""


def renamed_note(weights: Mapping[str, Tensor], prefix: str) -> str:
    """Returns sentences on what `strip_prefixes` takes out of keys; empty if it takes what frameworks put there.

    Args:
        weights: A state dict as it is in its file.
        prefix: What all its keys begin with.
    """
    notes = []
    if not {f"{part}." for part in prefix.split(".")[:-1]} <= {*_OF_FRAMEWORKS}:
        notes.append(f"The weights were taken from {prefix}*.")
    names = stripped_names(weights)[1]
    pairs = [(key, name) for key, name in names.items() if name != key.removeprefix(prefix)]
    if pairs:
        notes.append(f"{_renamed_text(pairs)}.")
    return " ".join(notes)


def _renamed_text(pairs: Sequence[tuple[str, str]]) -> str:
    """What was renamed, with an example, without its full stop."""
    (key, name), count = pairs[0], len(pairs)
    tensors = "1 tensor was" if count == 1 else f"{count} tensors were"
    return f"{tensors} renamed ({first_few([key])} is {first_few([name])}{' ...' if count > 1 else ''})"


def is_stray(key: str) -> bool:
    """Returns whether no forward pass reads the tensor under a key: counts of a profiler, a loss, metrics, a teacher.

    >>> is_stray("layer1.total_ops"), is_stray("criterion.weight"), is_stray("layer1.weight")
    (True, True, False)
    """
    parts = key.split(".")
    return any(map(_STRAY_ANYWHERE.fullmatch, parts)) or (
        len(parts) > 1 and _STRAY_FIRST.fullmatch(parts[0]) is not None
    )


def find_state_dict(
    content: object, wrappers: Iterable[str] = WRAPPERS
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Returns the keys that lead to the state dict in `content`, and its tensors; none of either if it has none.

    >>> import torch
    >>> find_state_dict({"epoch": 3, "model": {"state_dict": {"bias": torch.ones(1)}}})
    (('model', 'state_dict'), {'bias': tensor([1.])})
    """
    return _search(content, tuple(wrappers), (), set()) or ((), {})


def find_averaged(content: object) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Returns the keys that lead to averaged weights in `content`, and these; none of either if it has none.

    They are a second set of the same network: every weight of the other set has its average.
    """
    if not isinstance(content, Mapping):
        return (), {}
    rest = {key: value for key, value in content.items() if key not in AVERAGED_WRAPPERS}
    names = set(strip_prefixes(find_state_dict(rest)[1])[1])
    for wrapper in AVERAGED_WRAPPERS:
        path, tensors = _search(content.get(wrapper), WRAPPERS, (wrapper,), set()) or ((), {})
        if names and names <= set(strip_prefixes(tensors)[1]):
            return path, tensors
    return (), {}


def strip_prefixes(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Returns the `PREFIXES` that every key has, joined, and the weights without them.

    >>> import torch
    >>> strip_prefixes({"module.model.bias": torch.ones(1)})
    ('module.model.', {'bias': tensor([1.])})
    """
    prefix, keys = stripped_names(weights)
    return prefix, {keys[key]: tensor for key, tensor in weights.items() if key in keys}


def stripped_names(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Returns the `PREFIXES` that all `names` have but the stray ones, joined, and each name with its remainder."""
    full = list(names)
    if _AVERAGED in full and all(name == _AVERAGED or name.startswith("module.") for name in full):
        full.remove(_AVERAGED)
    short = [name for name in full if not is_stray(name)] or full
    prefix = ""
    while short and (first := short[0].partition(".")[0] + ".") in PREFIXES:
        if not all(name.startswith(first) and name != first for name in short):
            break
        prefix += first
        short = [name.removeprefix(first) for name in short]
    remainders = [name.removeprefix(prefix) for name in full]
    if len(set(remainders)) != len(full):
        remainders = full
    return prefix, dict(zip(full, _without_wrapping_modules(remainders), strict=True))


def _search(
    content: object, wrappers: tuple[str, ...], path: tuple[str, ...], seen: set[int]
) -> tuple[tuple[str, ...], dict[str, Tensor]] | None:
    """The keys that lead to the state dict in a content, and its tensors; `seen` are dictionaries searched before."""
    if not isinstance(content, Mapping) or len(path) > _MAX_DEPTH or id(content) in seen:
        return None
    seen.add(id(content))  # one that contains itself a hundred times is not searched as often
    for wrapper in wrappers:
        if inner := _search(content.get(wrapper), wrappers, (*path, wrapper), seen):
            return inner
    tensors = _tensors_of(content)
    if any(tensor.dim() for tensor in tensors.values()):
        return path, tensors
    names = [key for key in content if isinstance(key, str) and key not in wrappers]
    inside = [_search(content[name], wrappers, (*path, name), seen) for name in names]
    found = [result for result in inside if result]
    return found[0] if len(found) == 1 else None  # under a key of another name, perhaps beside single numbers


def _tensors_of(content: object) -> dict[str, Tensor]:
    pairs = content.items() if isinstance(content, Mapping) else ()
    return {key: value for key, value in pairs if isinstance(key, str) and isinstance(value, Tensor)}


def _without_wrapping_modules(names: list[str]) -> list[str]:
    """Returns the names without the parts that wrapping modules insert, unless two names would become one."""
    short = [".".join(_without_wrapping_parts(name.split("."))) for name in names]
    return short if len(set(short)) == len(names) and all(short) else names


def _without_wrapping_parts(parts: list[str]) -> list[str]:
    """Returns the parts of a key without those of wrapping modules; a first ``module`` is a prefix and no such part."""
    first = [parts[0]] if parts[0] not in _WRAPPING_MODULES or parts[0] == "module" else []
    return first + [part for part in parts[1:] if part not in _WRAPPING_MODULES]


def match_keys(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Returns `weights` under those of `names` that they mean; other keys stay as they are without prefixes.

    Stray keys are left out where `names` does not have them.

    >>> import torch
    >>> sorted(match_keys({"fc.bias": torch.zeros(1), "extra": torch.zeros(1)}, ["linear.bias"]))
    ['extra', 'linear.bias']
    """
    return key_match(weights, names).weights


def key_match(weights: Mapping[str, Tensor], names: Iterable[str]) -> KeyMatch:
    """Returns `weights` under the names of a network, with what was ignored.

    Where the whole network lies under one prefix and nothing but stray keys lies beside it, the prefix is removed.

    Args:
        weights: As `read_weights` returns them.
        names: Of the network's tensors.
    """
    full_names = {short: name for name, short in stripped_names(names)[1].items()}
    short_weights = strip_prefixes(weights)[1]
    renamed = _renamed(short_weights, full_names)
    wanted = {name for name in full_names.values() if not name.endswith(COUNTER)}
    prefix = ""
    if not wanted <= renamed.keys():
        complete = {
            prefix: inner
            for prefix in _prefixes_of(short_weights, full_names)
            if wanted <= (inner := _renamed(_below(short_weights, prefix), full_names)).keys()
            and all(key.startswith(prefix) or is_stray(key) for key in short_weights)
        }
        if len(complete) == 1:
            ((prefix, renamed),) = complete.items()
    beside = [key for key in short_weights if prefix and not key.startswith(prefix)]
    ignored = [key for key in renamed if key not in full_names.values() and is_stray(key)]
    kept = {key: tensor for key, tensor in renamed.items() if key not in ignored}
    aliases = _aliases(_below(short_weights, prefix), full_names)
    return KeyMatch(kept, (*ignored, *beside), prefix, tuple(aliases.items()))


def _renamed(weights: Mapping[str, Tensor], full_names: Mapping[str, str]) -> dict[str, Tensor]:
    aliases = _aliases(weights, full_names)
    names = {key: aliases.get(key, key) for key in weights}
    return {full_names.get(names[key], key): tensor for key, tensor in weights.items()}


def _aliases(weights: Mapping[str, Tensor], full_names: Mapping[str, str]) -> dict[str, str]:
    """Keys that are called by one of `ALIASES` in a network, with that name."""
    aliases = {key: ".".join(ALIASES.get(part, part) for part in key.split(".")) for key in weights}
    return {
        key: alias
        for key, alias in aliases.items()
        if key not in full_names and alias in full_names and alias not in weights
    }


def _prefixes_of(weights: Mapping[str, Tensor], full_names: Mapping[str, str]) -> list[str]:
    """Returns what stands before the first name of a network in the keys that end in it."""
    first = next((name for name in full_names if not name.endswith(COUNTER)), None)
    return [key.removesuffix(first) for key in weights if first and key.endswith(f".{first}")]


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
