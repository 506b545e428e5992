"""Where candidates come from: one file per family of pruning methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.producers.contract import Producer

PRODUCERS: Registry[type[Producer]] = Registry(
    "producer",
    builtin={
        "alds": "evalsuite.producers.lowrank:Alds",
        "bn-scale": "evalsuite.producers.filters:BatchNormScale",
        "channel-regression": "evalsuite.producers.channels:ChannelRegression",
        "dense-retrained": "evalsuite.producers.controls:DenseRetrained",
        "erk": "evalsuite.producers.magnitude:Erk",
        "filter-l1": "evalsuite.producers.filters:FilterL1",
        "filter-l2": "evalsuite.producers.filters:FilterL2",
        "filter-random": "evalsuite.producers.filters:FilterRandom",
        "fpgm": "evalsuite.producers.filters:Fpgm",
        "grad-r": "evalsuite.producers.gradual:GradR",
        "gradient-magnitude": "evalsuite.producers.magnitude:GradientMagnitude",
        "gradual-magnitude": "evalsuite.producers.gradual:GradualMagnitude",
        "grasp": "evalsuite.producers.initial:Grasp",
        "greg-1": "evalsuite.producers.regularised:GReg1",
        "greg-2": "evalsuite.producers.regularised:GReg2",
        "inverted": "evalsuite.producers.controls:Inverted",
        "lamp": "evalsuite.producers.magnitude:Lamp",
        "layer-shuffled": "evalsuite.producers.controls:LayerShuffled",
        "li-l1": "evalsuite.producers.preset:LiL1",
        "lottery": "evalsuite.producers.tickets:Lottery",
        "magnitude": "evalsuite.producers.weights:Magnitude",
        "magnitude-init": "evalsuite.producers.initial:MagnitudeInit",
        "magnitude-layerwise": "evalsuite.producers.magnitude:MagnitudeLayerwise",
        "n-m": "evalsuite.producers.magnitude:NM",
        "pfp": "evalsuite.producers.pfp:ProvableFilterPruning",
        "random": "evalsuite.producers.weights:Random",
        "random-init": "evalsuite.producers.initial:RandomInit",
        "reinitialised": "evalsuite.producers.controls:Reinitialised",
        "scratch-b": "evalsuite.producers.scratch:ScratchB",
        "scratch-e": "evalsuite.producers.scratch:ScratchE",
        "sipp": "evalsuite.producers.sipp:Sipp",
        "sipp-hybrid": "evalsuite.producers.sipp:SippHybrid",
        "sipp-random": "evalsuite.producers.sipp:SippRandom",
        "slimming": "evalsuite.producers.sparse:Slimming",
        "snip": "evalsuite.producers.initial:Snip",
        "soft-filter": "evalsuite.producers.sparse:SoftFilter",
        "sss": "evalsuite.producers.sparse:SparseStructure",
        "svd": "evalsuite.producers.lowrank:Svd",
        "synflow": "evalsuite.producers.initial:Synflow",
        "taylor": "evalsuite.producers.filters:Taylor",
        "thin": "evalsuite.producers.thin:Thin",
        "thinet": "evalsuite.producers.channels:ThiNet",
        "tpp": "evalsuite.producers.regularised:TrainabilityPreserving",
        "unify": "evalsuite.producers.unification:Unify",
        "uniform-plus": "evalsuite.producers.magnitude:UniformPlus",
    },
    group="evalsuite.producers",
)
register = PRODUCERS.register
