"""The battery: one file per kind of test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.evaluators.base import Evaluator

EVALUATORS: Registry[type[Evaluator]] = Registry(
    "evaluator",
    builtin={
        "accuracy": "evalsuite.evaluators.accuracy:Accuracy",
        "attack": "evalsuite.evaluators.attack:Attack",
        "calibration": "evalsuite.evaluators.calibration:Calibration",
        "corruptions": "evalsuite.evaluators.corruptions:Corruptions",
        "flips": "evalsuite.evaluators.flips:Flips",
        "jacobian": "evalsuite.evaluators.jacobian:Jacobian",
        "latency": "evalsuite.evaluators.latency:Latency",
        "minimal-norm": "evalsuite.evaluators.minimal_norm:MinimalNorm",
        "noise": "evalsuite.evaluators.noise:Noise",
        "ood": "evalsuite.evaluators.ood:Ood",
        "pixels": "evalsuite.evaluators.pixels:Pixels",
        "robustbench-benchmark": "evalsuite.evaluators.robustbench:RobustBench",
        "shift": "evalsuite.evaluators.shift:Shift",
        "similarity": "evalsuite.evaluators.similarity:Similarity",
        "trainability": "evalsuite.evaluators.trainability:Trainability",
        "transfer": "evalsuite.evaluators.transfer:Transfer",
    },
    group="evalsuite.evaluators",
)
