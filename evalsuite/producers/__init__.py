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
        "dense-retrained": "evalsuite.producers.controls:DenseRetrained",
        "erk": "evalsuite.producers.magnitude:Erk",
        "grad-r": "evalsuite.producers.gradual:GradR",
        "gradient-magnitude": "evalsuite.producers.magnitude:GradientMagnitude",
        "gradual-magnitude": "evalsuite.producers.gradual:GradualMagnitude",
        "grasp": "evalsuite.producers.initial:Grasp",
        "inverted": "evalsuite.producers.controls:Inverted",
        "lamp": "evalsuite.producers.magnitude:Lamp",
        "layer-shuffled": "evalsuite.producers.controls:LayerShuffled",
        "lottery": "evalsuite.producers.tickets:Lottery",
        "magnitude-init": "evalsuite.producers.initial:MagnitudeInit",
        "magnitude-layerwise": "evalsuite.producers.magnitude:MagnitudeLayerwise",
        "n-m": "evalsuite.producers.magnitude:NM",
        "random-init": "evalsuite.producers.initial:RandomInit",
        "reinitialised": "evalsuite.producers.controls:Reinitialised",
        "scratch-b": "evalsuite.producers.scratch:ScratchB",
        "scratch-e": "evalsuite.producers.scratch:ScratchE",
        "sipp": "evalsuite.producers.sipp:Sipp",
        "sipp-hybrid": "evalsuite.producers.sipp:SippHybrid",
        "sipp-random": "evalsuite.producers.sipp:SippRandom",
        "snip": "evalsuite.producers.initial:Snip",
        "synflow": "evalsuite.producers.initial:Synflow",
        "uniform-plus": "evalsuite.producers.magnitude:UniformPlus",
    },
    group="evalsuite.producers",
)
register = PRODUCERS.register
