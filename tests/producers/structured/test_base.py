from __future__ import annotations

import pytest
import torch
from torch import nn

from evalsuite.errors import ContractError, SuiteError, UserError
from evalsuite.producers import PRODUCERS
from evalsuite.producers.structured.base import (
    channels_for_budget,
    global_widths,
    rank_channels,
    removed_masks,
    uniform_widths,
)


def test_one_threshold_keeps_the_best_of_each_layer() -> None:
    scores = {"a": torch.tensor([0.1, 0.26, 0.3]), "b": torch.tensor([7.0, 9.0, 0.25])}
    assert [tuple(widths.values()) for widths in global_widths(scores)] == [
        (1, 1),
        (1, 2),
        (2, 2),
        (2, 3),
        (3, 3),
    ]
    assert {name: order.tolist() for name, order in rank_channels(scores).items()} == {
        "a": [2, 1, 0],
        "b": [1, 0, 2],
    }


def test_the_nearest_widths_are_those_of_the_nearest_number_of_parameters() -> None:
    """One more filter is 2 weights, 2 of its norm and 2 that read it: 8, 14, 20 and 26 parameters with the bias."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)  # no zeros
    order = {"0": torch.tensor([3, 2, 1, 0])}
    for budget, channels in ((8, [3]), (10.9, [3]), (11.1, [2, 3]), (20, [1, 2, 3]), (999, [0, 1, 2, 3])):
        assert channels_for_budget(model, order, uniform_widths({"0": 4}), budget)["0"].tolist() == channels
    with pytest.raises(
        UserError, match="7 parameters may stay, but with one filter in each of 1 layers 8 are"
    ):
        channels_for_budget(model, order, uniform_widths({"0": 4}), 7)


def test_ties_fall_to_the_earlier_filter_and_nan_is_refused() -> None:
    assert rank_channels({"a": torch.tensor([1.0, 2.0, 2.0, 1.0])})["a"].tolist() == [1, 2, 0, 3]
    with pytest.raises(ContractError, match=r"^a producer's scores have NaN among them"):
        rank_channels({"a": torch.tensor([1.0, torch.nan])})


def test_channels_that_are_not_kept_are_removed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1))
    assert removed_masks({"0": torch.tensor([0, 2])}, model)["0"].tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["filter-l1", "taylor", "pfp"])
def test_kinds_of_units_with_the_scope_of_filters_alone_are_refused_at_once(name: str) -> None:
    for units in ("filters", "hidden units", "heads"):
        with pytest.raises(SuiteError, match="with scope = 'all', which has filters alone"):
            PRODUCERS.get(name)(scope="all", units=units)  # type: ignore[call-arg]  # the method's own settings
