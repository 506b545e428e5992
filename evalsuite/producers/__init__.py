"""Where candidates come from: one file per family of pruning methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.producers.base import Producer

PRODUCERS: Registry[type[Producer]] = Registry(
    "producer",
    builtin={
        "alds": "evalsuite.producers.low_rank.decomposition:Alds",
        "alds-error-only": "evalsuite.producers.low_rank.variants:AldsErrorOnly",
        "alds-optimal-k": "evalsuite.producers.low_rank.variants:AldsOptimalK",
        "alds-simple": "evalsuite.producers.low_rank.variants:AldsSimple",
        "bn-scale": "evalsuite.producers.structured.filter_scores:BatchNormScale",
        "channel-regression": "evalsuite.producers.structured.reconstruction:ChannelRegression",
        "dense-retrained": "evalsuite.producers.baselines.controls:DenseRetrained",
        "erk": "evalsuite.producers.unstructured.magnitude:Erk",
        "filter-l1": "evalsuite.producers.structured.filter_scores:FilterL1",
        "filter-l2": "evalsuite.producers.structured.filter_scores:FilterL2",
        "filter-random": "evalsuite.producers.baselines.random_pruning:FilterRandom",
        "fpgm": "evalsuite.producers.structured.filter_scores:Fpgm",
        "function": "evalsuite.producers.function:PrunedByFunction",
        "grad-r": "evalsuite.producers.unstructured.gradual:GradR",
        "gradient-magnitude": "evalsuite.producers.unstructured.magnitude:GradientMagnitude",
        "gradual-magnitude": "evalsuite.producers.unstructured.gradual:GradualMagnitude",
        "grasp": "evalsuite.producers.at_init.scores:Grasp",
        "greg-1": "evalsuite.producers.structured.growing_regularisation:GReg1",
        "greg-2": "evalsuite.producers.structured.growing_regularisation:GReg2",
        "inverted": "evalsuite.producers.baselines.controls:Inverted",
        "lamp": "evalsuite.producers.unstructured.magnitude:Lamp",
        "layer-shuffled": "evalsuite.producers.baselines.controls:LayerShuffled",
        "learned-rank": "evalsuite.producers.low_rank.variants:LearnedRank",
        "li-l1": "evalsuite.producers.structured.filter_scores:LiL1",
        "lottery": "evalsuite.producers.baselines.lottery_tickets:Lottery",
        "magnitude": "evalsuite.producers.unstructured.magnitude:Magnitude",
        "magnitude-init": "evalsuite.producers.at_init.scores:MagnitudeInit",
        "magnitude-layerwise": "evalsuite.producers.unstructured.magnitude:MagnitudeLayerwise",
        "n-m": "evalsuite.producers.unstructured.n_m_sparsity:NM",
        "pca": "evalsuite.producers.low_rank.variants:Pca",
        "pfp": "evalsuite.producers.structured.pfp:ProvableFilterPruning",
        "random": "evalsuite.producers.baselines.random_pruning:Random",
        "random-init": "evalsuite.producers.baselines.random_pruning:RandomInit",
        "reinitialised": "evalsuite.producers.baselines.controls:Reinitialised",
        "scratch-b": "evalsuite.producers.baselines.scratch:ScratchB",
        "scratch-e": "evalsuite.producers.baselines.scratch:ScratchE",
        "sipp": "evalsuite.producers.unstructured.sipp:Sipp",
        "sipp-hybrid": "evalsuite.producers.unstructured.sipp:SippHybrid",
        "sipp-random": "evalsuite.producers.unstructured.sipp:SippRandom",
        "slimming": "evalsuite.producers.structured.sparse_training:Slimming",
        "snip": "evalsuite.producers.at_init.scores:Snip",
        "soft-filter": "evalsuite.producers.structured.sparse_training:SoftFilter",
        "sss": "evalsuite.producers.structured.sparse_training:SparseStructure",
        "svd": "evalsuite.producers.low_rank.decomposition:Svd",
        "synflow": "evalsuite.producers.at_init.scores:Synflow",
        "taylor": "evalsuite.producers.structured.filter_scores:Taylor",
        "thin": "evalsuite.producers.baselines.thin:Thin",
        "thinet": "evalsuite.producers.structured.reconstruction:ThiNet",
        "tpp": "evalsuite.producers.structured.growing_regularisation:TrainabilityPreserving",
        "unify": "evalsuite.producers.unstructured.unification:Unify",
        "uniform-plus": "evalsuite.producers.unstructured.magnitude:UniformPlus",
    },
    group="evalsuite.producers",
)
