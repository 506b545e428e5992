"""Where candidates come from: one file per family of pruning methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.producers.contract import Producer

PRODUCERS: Registry[type[Producer]] = Registry(
    "producer",
    builtin={
        "filter-l1": "evalsuite.producers.filters:FilterL1",
        "magnitude": "evalsuite.producers.weights:Magnitude",
        "random": "evalsuite.producers.weights:Random",
    },
    group="evalsuite.producers",
)
register = PRODUCERS.register
