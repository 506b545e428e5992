"""Functionals by name: functions that turn the per-image evidence of a score into its value.

They are imported when they are first used, so that a result depends on the module of its metric and on no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType

import numpy as np

from evalsuite.errors import ContractError, UnknownNameError
from evalsuite.metrics.weighted import vector
from evalsuite.registry import unknown_name
from evalsuite.types import Array, Floats

_TABLE = 0


@dataclass(frozen=True, slots=True)
class Functional:
    """A functional of weighted samples.

    Attributes:
        submodule: The module of `evalsuite.metrics` that defines it, under the same name.
        columns: Number of arguments that it takes from each population; `_TABLE`: one table of any width.
        repeated: Whether its last population may occur any number of times.
    """

    submodule: str
    columns: tuple[int, ...]
    repeated: bool = False

    @property
    def module(self) -> str:
        """Dotted name of the module that defines it."""
        return f"evalsuite.metrics.{self.submodule}"


FUNCTIONALS: Mapping[str, Functional] = MappingProxyType(
    {
        "mean": Functional("weighted", (1,)),
        "median": Functional("quantiles", (1,)),
        "distinct": Functional("quantiles", (1,)),
        "ece_equal_width": Functional("calibration", (2,)),
        "ece_equal_mass": Functional("calibration", (2,)),
        "ece_l2_debiased": Functional("calibration", (2,)),
        "ece_l2_squared_debiased": Functional("calibration", (2,)),
        "ece_smooth": Functional("smooth", (2,)),
        "ece_classwise": Functional("calibration", (_TABLE,)),
        "mce": Functional("calibration", (2,)),
        "signed_gap": Functional("calibration", (2,)),
        "mean_ratio": Functional("corruption_error", (_TABLE,)),
        "smallest_mean": Functional("corruption_error", (_TABLE,)),
        "mean_difference": Functional("corruption_error", (1, 1)),
        "auroc": Functional("ood", (1, 1)),
        "aupr_out": Functional("ood", (1, 1)),
        "aupr_in": Functional("ood", (1, 1)),
        "fpr95_ood_positive": Functional("ood", (1, 1)),
        "fpr95_id_positive": Functional("ood", (1, 1)),
        "mean_auroc": Functional("ood", (1, 1), repeated=True),
        "mean_aupr_out": Functional("ood", (1, 1), repeated=True),
        "mean_aupr_in": Functional("ood", (1, 1), repeated=True),
        "mean_fpr95_ood_positive": Functional("ood", (1, 1), repeated=True),
        "mean_fpr95_id_positive": Functional("ood", (1, 1), repeated=True),
    }
)
"""Name to functional, as `evalsuite.types.Metric.functional` refers to them."""


def evaluate(
    functional: str, evidence: Mapping[str, Array], *, weights: Mapping[str, Array] | None = None
) -> Floats:
    """Returns the functional called `functional` of the evidence, as scores keep it.

    Args:
        functional: Name in `FUNCTIONALS`.
        evidence: Population to per-image outputs, in the order in which the functional takes them
            (in-distribution first); shape (N,), or (N, c) where it takes c arguments of the
            same images (confidence, correct), or a table of them.
        weights: Population to multiplicities, shape (B, N); other populations may be among them.

    Returns:
        float64, shape () without weights, else (B,).

    Raises:
        UnknownNameError: If there is no such functional.
        DataError: If a population has no images.
        ContractError: If evidence or weights do not have the shapes that it takes, or are not finite.

    >>> float(evaluate("mean", {"clean": np.array([True, False])}))
    0.5
    """
    if functional not in FUNCTIONALS:
        raise UnknownNameError(unknown_name("functional", functional, FUNCTIONALS))
    expected = FUNCTIONALS[functional].columns
    if FUNCTIONALS[functional].repeated:
        expected += expected[-1:] * (len(evidence) - len(expected))
    if len(evidence) != len(expected):
        raise ContractError(
            f"{functional} takes {len(expected)} populations of images, found {len(evidence)}: "
            f"{', '.join(evidence) or 'none'}"
        )
    arguments = [
        column
        for (population, values), count in zip(evidence.items(), expected, strict=True)
        for column in _columns(population, values, count)
    ]
    return _function(functional)(*arguments, weights=None if weights is None else _chosen(weights, evidence))


@cache
def _function(name: str) -> Callable[..., Floats]:
    function: Callable[..., Floats] = getattr(import_module(FUNCTIONALS[name].module), name)
    return function


def _columns(population: str, values: Array, count: int) -> list[Array]:
    x = np.asarray(values)
    if count == _TABLE:
        return [x]
    table = x[:, None] if x.ndim == 1 else x
    if table.ndim != 2 or table.shape[1] != count:
        raise ContractError(
            f"the evidence of population {population!r} has shape {x.shape}, expected {count} per image"
        )
    return [vector(f"the evidence of population {population!r}", column) for column in table.T]


def _chosen(weights: Mapping[str, Array], evidence: Mapping[str, Array]) -> list[Array]:
    if missing := [population for population in evidence if population not in weights]:
        raise ContractError(
            f"there are no weights for population {missing[0]!r}: draw them for all populations"
        )
    return [weights[population] for population in evidence]
