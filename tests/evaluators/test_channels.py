"""Every evaluator on grey images that are not square, and on images of two channels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from evalsuite import ImageSet, evaluate
from evalsuite.datasets.digits import enlarged
from evalsuite.detectors.table import DETECTORS
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.cnn import SmallCNN

SHAPES = [(1, 24, 40), (2, 32, 32), (1, 8, 8)]
FEW = {"images": 4, "epsilons": [4.0]}
TABLES: list[dict[str, Any]] = [
    {"name": "accuracy"},
    {"name": "similarity"},
    {"name": "pixels", "images": 2},
    {"name": "jacobian", "images": 4},
    {"name": "latency"},
    {"name": "ood", "near": ["letters"], "far": ["photographs", "gaussian-noise"], "detectors": [*DETECTORS]},
    {"name": "calibration", "held_out": "cross-fit", "corruptions": True, "severities": [1]},
    {"name": "noise", "kinds": ["uniform", "gaussian"], "space": "normalised"},
    {"name": "noise", "draws": 2, "kinds": ["uniform", "gaussian"]},
    {"name": "corruptions", "severities": [1], "extra": True},
    {"name": "attack", "attacks": ["fgsm", "linf-pgd", "linf-noise"], "steps": 2, **FEW},
    {"name": "attack", "attacks": ["square"], "steps": 5, **FEW},
    {"name": "attack", "attacks": ["l2-deepfool", "l2-pgd"], "steps": 2, **FEW},
]


@cache
def digits_of(shape: tuple[int, int, int]) -> ImageSet:
    data = load_digits()
    return ImageSet("digits", enlarged(data.images[:60], shape), data.target[:60].astype(np.int64), 10)


@cache
def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(SmallCNN(widths=(4, 4, 4, 4), mean=(0.5,) * channels, std=(0.5,) * channels))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "table", TABLES, ids=lambda table: "-".join(map(str, table.get("attacks", [table["name"]])))
)
def test_an_evaluator_takes_any_channels_and_sizes(
    table: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    scores = evaluate(network(shape[0]), data=digits_of(shape), evaluators=table)
    measured = scores["value"].notna()
    if table["name"] == "corruptions" and shape[1] < 16:
        assert not measured.any()
    else:
        assert measured.any()


@pytest.mark.parametrize(
    ("shape", "without"),
    [
        ((1, 24, 40), {"saturate"}),
        ((2, 32, 32), {"saturate", "spatter", "snow", "frost-synthetic", "brightness", "jpeg_compression"}),
    ],
    ids=["grey", "two channels"],
)
def test_corruptions_that_are_not_defined_have_a_row_without_a_number(
    shape: tuple[int, int, int], without: set[str]
) -> None:
    table = {"name": "corruptions", "severities": [1], "extra": True}
    scores = evaluate(network(shape[0]), data=digits_of(shape), evaluators=table).query(
        "metric == 'accuracy'"
    )
    kinds = scores[scores["condition"].str.endswith("/1")]
    assert {name.removesuffix("/1") for name in kinds.loc[kinds["value"].isna(), "condition"]} == without
    assert len(kinds) == 19
    assert scores.query("condition == 'corruptions'")["value"].notna().all()
