"""Keys beside the weights of a network in one state dict: numbers of its training, and an average of all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from evalsuite.models.checkpoints.state_dict_keys import is_stray, key_match, strip_prefixes

_AVERAGED = re.compile(r"(model_)?ema(_\w+)?|\w+_ema|swa_\w+|averaged_\w+|\w+_averaged")
"""First parts of keys under which training keeps averaged weights in the state dict of the raw ones."""
_ANYWHERE = re.compile(r"__\w+__|confmat")  # counts of ptflops; torchmetrics
# A loss and metrics of Lightning's templates, and a teacher.
_FIRST = re.compile(
    r"loss_\w+|(\w+_)?acc(uracy)?(_?\d+)?(_\w+)?|(\w+_)?(precision|recall|specificity)(_?\d+)?"
    r"|(\w+_)?teacher(_\w+)?|(model|net)_t"
)
# A number by itself.
_ALONE = re.compile(
    r"(best_|last_|current_|global_|train_|val_|valid_|test_)?(epochs?|steps?|iter(ation)?s?|lr|learning_rate"
    r"|acc(uracy)?|prec(ision)?|top|err(or)?|loss)(_?\d+)?|initted"
)


def is_training_state(key: str) -> bool:
    """Returns whether no forward pass reads the tensor under a key: what is stray, and what training adds to a network.

    >>> [is_training_state(key) for key in ("best_acc", "val_acc_best.value", "net_ema.bias", "net.bias", "mean")]
    [True, True, True, False, False]
    """
    parts = key.split(".")
    if is_stray(key) or any(map(_ANYWHERE.fullmatch, parts)):
        return True
    if len(parts) == 1:
        return _ALONE.fullmatch(key) is not None
    return any(kind.fullmatch(parts[0]) for kind in (_FIRST, _AVERAGED))


def without_training_state(
    weights: Mapping[str, Tensor], names: Iterable[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the weights without what training keeps beside a network, and the keys that were left out.

    Args:
        weights: As `evalsuite.models.checkpoints.reading.read_weights` returns them.
        names: Of the network's tensors; what is called so, or by another name of the same layer, stays.
    """
    suspects = [key for key in weights if is_training_state(key) and not is_stray(key)]
    if not suspects:
        return dict(weights), ()
    wanted = set(names)
    matched = key_match({key: weights[key] for key in suspects}, wanted).weights
    of_network = {id(tensor) for name, tensor in matched.items() if name in wanted}
    left_out = tuple(key for key in suspects if id(weights[key]) not in of_network)
    ignored = set(left_out)
    return {key: tensor for key, tensor in weights.items() if key not in ignored}, left_out


def split_averaged(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], str, dict[str, Tensor]]:
    """Returns averaged weights that lie in the state dict of the raw ones, and these, each behind its first part.

    Lightning modules and averaging wrappers write ``net.*`` beside ``net_ema.*``. Every raw weight has its average,
    else they are no second set of the network.

    Returns:
        The first part of the averaged keys, these weights without it, and the same of the raw ones, whose first part
        may be empty; all of them empty if there is one set alone.

    >>> import torch
    >>> one, two = torch.ones(1), torch.ones(1)
    >>> averaged_first, averaged, raw_first, raw = split_averaged({"mine.bias": one, "mine_ema.bias": two})
    >>> averaged_first, list(averaged), raw_first, list(raw)
    ('mine_ema', ['bias'], 'mine', ['bias'])
    """
    firsts = dict.fromkeys(key.partition(".")[0] for key in weights if "." in key)
    for first in filter(_AVERAGED.fullmatch, firsts):
        averaged = below(weights, f"{first}.")
        names = set(strip_prefixes(averaged)[1])
        others = {key: tensor for key, tensor in weights.items() if not key.startswith(f"{first}.")}
        raw = {key: tensor for key, tensor in others.items() if not is_training_state(key)}
        common = {key.partition(".")[0] for key in raw}
        for raw_first in ("", *common) if len(common) == 1 else ("",):
            part = below(raw, f"{raw_first}.") if raw_first else raw
            if part and names >= set(strip_prefixes(part)[1]):
                return first, averaged, raw_first, part
    return "", {}, "", {}


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the weights whose keys begin with a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
