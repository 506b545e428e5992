from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.errors import SkippedError, SuiteError
from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.cost import count_nonzero
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.lottery_tickets import Lottery
from evalsuite.producers.unstructured.base import (
    global_masks,
    magnitudes,
    nonzero_budget,
    nonzero_masks,
    prunable_weights,
    weight_budget,
)
from evalsuite.training.history import history
from evalsuite.training.origin import Origin


@pytest.mark.parametrize("architecture", ["plain", "residual"])
@pytest.mark.parametrize("rewind", [0.0, 0.5])
def test_a_ticket_is_the_trained_mask_on_early_weights(
    small_context: Context, fits: list[dict[str, Any]], architecture: str, rewind: float
) -> None:
    context = small_context
    if architecture == "residual":
        context = replace(context, origin=Origin(ResNet20(), 7, context.recipe))
    parent, early = context.rewound(1), context.rewound(rewind)
    (ticket,) = Lottery(rewind=rewind).produce(parent, (0.7,), context)
    expected = global_masks(parent, magnitudes(parent), weight_budget(parent, nonzero_budget(parent, 0.7)))
    for layer, weight in prunable_weights(ticket).items():
        assert torch.equal(weight, prunable_weights(early)[layer] * expected[f"{layer}.weight"])
    assert [(one["start"], one["recipe"]) for one in fits] == [(rewind, context.recipe)]


def test_each_level_prunes_the_last_trained_ticket(small_context: Context, small_parent: nn.Module) -> None:
    first, second = (
        copy.deepcopy(one) for one in Lottery(rewind=0.5).produce(small_parent, (0.4, 0.7), small_context)
    )
    expected = global_masks(
        first, magnitudes(first), weight_budget(small_parent, nonzero_budget(small_parent, 0.7))
    )
    assert all(torch.equal(mask, expected[name]) for name, mask in nonzero_masks(second).items())
    assert [
        abs(count_nonzero(one) - nonzero_budget(small_parent, ratio)) <= 1
        for one, ratio in ((first, 0.4), (second, 0.7))
    ]
    assert [(phase.what, phase.epochs) for phase in history(second) or ()] == [
        ("pretraining", 1), ("retraining", 0.5), ("retraining", 0.5),
    ]  # fmt: skip
    (again,) = Lottery(rewind=0.5).produce(small_parent, (0.7,), replace(small_context, previous=first))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), second.parameters(), strict=True))


def test_what_cannot_be_rewound(small_context: Context, small_parent: nn.Module) -> None:
    with pytest.raises(SkippedError, match="expected one of the parent's 1"):
        next(iter(Lottery(rewind=3).produce(small_parent, (0.5,), small_context)))
    with pytest.raises(SuiteError, match="expected an epoch from 0 on"):
        Lottery(rewind=-1)
