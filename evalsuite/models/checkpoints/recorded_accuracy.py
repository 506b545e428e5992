"""The accuracy that a training script wrote beside the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_SETS = r"(best|max|test|val|valid|validation|eval|clean|nat|natural|standard)"
_RIGHT = re.compile(
    rf"({_SETS}_?){{0,3}}(prec|top|acc|accuracy)[_@]?1?|({_SETS}_?){{0,3}}((top1|acc1|prec1)_(acc|accuracy)|acc(uracy)?_top1)"
)
_WRONG = re.compile(rf"({_SETS}_?){{0,3}}(err|error|err1|error1|top1_err|top1_error)")


def recorded_accuracy(content: object) -> tuple[str, float] | None:
    """Returns key and value, in [0, 1], of the clean accuracy that a file records; ``None`` if it records none.

    Numbers above 1 are percent; errors count from 1. Keys of robust accuracies are none of these.

    >>> recorded_accuracy({"state_dict": {}, "best_prec1": 77.08})
    ('best_prec1', 0.7708)
    >>> recorded_accuracy({"err": 0.0876})[1]
    0.9124
    >>> recorded_accuracy({"best_val_acc": 91.5}), recorded_accuracy({"acc@1": 70.0})
    (('best_val_acc', 0.915), ('acc@1', 0.7))
    >>> recorded_accuracy({"robust_acc": 0.5, "train_acc": 0.9, "best_acc5": 0.9, "epoch": 3}) is None
    True
    """
    for key, value in content.items() if isinstance(content, Mapping) else ():
        number = float(value) if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(key, str) or isinstance(number, bool) or not isinstance(number, int | float):
            continue
        share = number / 100 if number > 1 else float(number)
        if not 0 < share <= 1:
            continue
        if _RIGHT.fullmatch(key.lower()):
            return key, round(share, 6)
        if _WRONG.fullmatch(key.lower()):
            return key, round(1 - share, 6)
    return None
