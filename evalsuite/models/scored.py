"""A network whose logits are those of the classes that it is scored on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evalsuite.types import ScoringRule


class ScoredNetwork(nn.Module):
    """A network behind a scoring rule: the torch form of `evalsuite.metrics.class_rules.scored_logits`.

    Args:
        network: Returns logits (N, rule.outputs).
        rule: How they are scored.
    """

    def __init__(self, network: nn.Module, rule: ScoringRule) -> None:
        super().__init__()
        self.network, self.rule = network, rule
        self.register_buffer("indices", torch.tensor(rule.indices), persistent=False)

    indices: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Returns the scores of the classes, (N, K), with a column for all others where many outputs are one class."""
        logits: Tensor = self.network(images)
        if self.rule.kind == "subset":
            return logits[:, self.indices]
        groups = [*range(max(self.rule.indices) + 1), *([-1] if -1 in self.rule.indices else [])]
        return torch.stack([logits[:, self.indices == group].amax(dim=1) for group in groups], dim=1)
