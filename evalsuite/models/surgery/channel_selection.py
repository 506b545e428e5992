"""Selection of channels in front of a layer, as network slimming leaves it in its checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelSelection(nn.Module):
    """A layer that passes on the channels whose entry in the buffer ``indexes`` is not zero.

    With it, a layer behind a residual stream may lose input channels that its neighbours keep.

    Args:
        channels: Input channels; all are passed on unless loaded weights select some.

    References:
        Liu et al. 2017, "Learning efficient convolutional networks through network slimming", arXiv
        1708.06519, section 4.3.
    """

    indexes: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("indexes", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (N, C', H, W) of maps (N, C, H, W)."""
        return maps.index_select(1, self.indexes.nonzero().flatten())
