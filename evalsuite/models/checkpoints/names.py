"""Where training scripts keep a state dict, and what they put before its keys."""

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

MASK_WRAPPERS = ("masks_dict", "mask_dict", "masks", "mask")
"""Keys under which pruning tools keep masks."""

PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What DataParallel, torch.compile, Lightning and this package put before every key."""

ALIASES = {"fc": "linear", "linear": "fc", "shortcut": "downsample", "downsample": "shortcut"}
"""Names of a head and of a shortcut that mean the same; applied to whole parts of a dotted key."""

_CLEAR = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # may stand inside a key, too
_AVERAGED = "n_averaged"  # beside the keys of torch.optim.swa_utils.AveragedModel, which start with "module."
_DEPTH = 4  # wrappers in wrappers; a pickled dictionary may contain itself


def unwrapped(
    content: object, wrappers: Iterable[str] = WRAPPERS
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Returns the keys that lead to the state dict in `content`, and its tensors; none of either if not found.

    >>> import torch
    >>> unwrapped({"epoch": 3, "model": {"state_dict": {"bias": torch.ones(1)}}})
    (('model', 'state_dict'), {'bias': tensor([1.])})
    """
    return _unwrapped(content, tuple(wrappers), ()) or ((), {})


def without_prefixes(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Returns the `PREFIXES` that every key has, joined, and the weights without them.

    >>> import torch
    >>> without_prefixes({"module.model.bias": torch.ones(1)})
    ('module.model.', {'bias': tensor([1.])})
    """
    prefix, keys = stripped(weights)
    return prefix, {keys[key]: tensor for key, tensor in weights.items() if key in keys}


def stripped(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Returns the `PREFIXES` that all `names` have, joined, and each name with what is left of it."""
    whole = list(names)
    if _AVERAGED in whole and all(name == _AVERAGED or name.startswith("module.") for name in whole):
        whole.remove(_AVERAGED)
    short = whole
    prefix = ""
    while short and (first := short[0].partition(".")[0] + ".") in PREFIXES:
        if not all(name.startswith(first) and name != first for name in short):
            break
        prefix += first
        short = [name.removeprefix(first) for name in short]
    return prefix, dict(zip(whole, _cleared(short), strict=True))


def some(names: Iterable[object], limit: int = 3) -> str:
    """Returns the first few of `names` as text: short, and without what a terminal would obey.

    >>> some("abcde")
    'a, b, c and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(_printed(name) for name in listed[:limit]) + more


def _unwrapped(
    content: object, wrappers: tuple[str, ...], path: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, Tensor]] | None:
    if not isinstance(content, Mapping) or len(path) > _DEPTH:
        return None
    for wrapper in wrappers:
        if found := _unwrapped(content.get(wrapper), wrappers, (*path, wrapper)):
            return found
    tensors = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    return (path, tensors) if tensors else None


def _cleared(names: list[str]) -> list[str]:
    """The names without the parts that wrapped modules leave in them, unless two would become one."""
    short = [".".join(part for part in name.split(".") if part not in _CLEAR) for name in names]
    return short if len(set(short)) == len(names) and all(short) else names


def _printed(name: object) -> str:
    text = str(name) if isinstance(name, str | int | float) else type(name).__name__
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 120 else f"{text[:117]}..."
