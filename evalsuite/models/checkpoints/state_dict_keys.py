"""Keys of state dicts: under which keys training scripts save one, and what wrapping modules put before its keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

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

PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What DataParallel, torch.compile, Lightning and this package put before every key."""

ALIASES = {"fc": "linear", "linear": "fc", "shortcut": "downsample", "downsample": "shortcut"}
"""Names of a head and of a shortcut that mean the same; applied to whole parts of a dotted key."""

COUNTER = "num_batches_tracked"
"""A buffer of batch norms, absent from checkpoints older than torch 0.4.1 and unused in evaluation."""

_WRAPPING_MODULES = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # also inside a key
_AVERAGED = "n_averaged"  # beside the keys of torch.optim.swa_utils.AveragedModel, which start with "module."
_MAX_DEPTH = 4  # of wrappers in wrappers; a pickled dictionary may contain itself


def find_state_dict(
    content: object, wrappers: Iterable[str] = WRAPPERS
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Returns the keys that lead to the state dict in `content`, and its tensors; none of either if it has none.

    >>> import torch
    >>> find_state_dict({"epoch": 3, "model": {"state_dict": {"bias": torch.ones(1)}}})
    (('model', 'state_dict'), {'bias': tensor([1.])})
    """
    return _search(content, tuple(wrappers), ()) or ((), {})


def find_averaged(content: object) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Returns the keys that lead to averaged weights in `content`, and these; none of either if it has none.

    They are a second set of the same network: every weight of the other set has its average.
    """
    if not isinstance(content, Mapping):
        return (), {}
    rest = {key: value for key, value in content.items() if key not in AVERAGED_WRAPPERS}
    names = set(strip_prefixes(find_state_dict(rest)[1])[1])
    for wrapper in AVERAGED_WRAPPERS:
        path, tensors = _search(content.get(wrapper), WRAPPERS, (wrapper,)) or ((), {})
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
    """Returns the `PREFIXES` that all `names` have, joined, and each name with its remainder."""
    full = list(names)
    if _AVERAGED in full and all(name == _AVERAGED or name.startswith("module.") for name in full):
        full.remove(_AVERAGED)
    short = full
    prefix = ""
    while short and (first := short[0].partition(".")[0] + ".") in PREFIXES:
        if not all(name.startswith(first) and name != first for name in short):
            break
        prefix += first
        short = [name.removeprefix(first) for name in short]
    return prefix, dict(zip(full, _without_wrapping_modules(short), strict=True))


def _search(
    content: object, wrappers: tuple[str, ...], path: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, Tensor]] | None:
    if not isinstance(content, Mapping) or len(path) > _MAX_DEPTH:
        return None
    for wrapper in wrappers:
        if inner := _search(content.get(wrapper), wrappers, (*path, wrapper)):
            return inner
    tensors = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    return (path, tensors) if tensors else None


def _without_wrapping_modules(names: list[str]) -> list[str]:
    """Returns the names without the parts that wrapping modules insert, unless two names would become one."""
    short = [".".join(part for part in name.split(".") if part not in _WRAPPING_MODULES) for name in names]
    return short if len(set(short)) == len(names) and all(short) else names


def match_keys(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Returns `weights` under those of `names` that they mean; other keys stay as they are without prefixes.

    >>> import torch
    >>> sorted(match_keys({"fc.bias": torch.zeros(1), "extra": torch.zeros(1)}, ["linear.bias"]))
    ['extra', 'linear.bias']
    """
    full_names = {short: name for name, short in stripped_names(names)[1].items()}
    short_weights = strip_prefixes(weights)[1]
    renamed: dict[str, Tensor] = {}
    for key, tensor in short_weights.items():
        alias = ".".join(ALIASES.get(part, part) for part in key.split("."))
        use_alias = key not in full_names and alias in full_names and alias not in short_weights
        renamed[full_names.get(alias if use_alias else key, key)] = tensor
    return renamed
