"""Pruning by sparse training: network slimming, sparse structure selection, and soft filter pruning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.surgery.channel_removal import ChannelGroup, remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.base import (
    ChannelScores,
    PruningTarget,
    channels_for_budget,
    global_widths,
    l2_norms,
    layer_weight,
    per_filter,
    prune_and_retrain,
    rank_channels,
    removable_groups,
    top_channels,
    uniform_widths,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe, learning_rate


@dataclass(frozen=True)
class Slimming(Producer):
    """Network slimming: trains with an L1 penalty on the scales of batch norm, then removes by one threshold on them.

    Attributes:
        sparsity: Factor s of the penalty: 1e-4 for VGG-19, 1e-5 for ResNet-164 and DenseNet-40 in the paper.

    References:
        Liu et al. 2017, arXiv 1708.06519, by the subgradient ``s sign(gamma)`` as in its code;
        several ratios are its multi-pass scheme. Differs from the paper in that sparse
        training starts from the trained parent and takes the retraining recipe, that the share of channels follows
        from the ratio (0.7 of VGG-19 and 0.4 of the others there), and that of a residual network only the channels
        inside its blocks are penalised and removed: the paper's channel-selection layers are not added. What the shift
        of a removed channel added to the next layer is gone with it, as where its code sets both to zero.
    """

    sparsity: float = 1e-4

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            names = batch_norm_names(model).values()

            def penalise(trained: nn.Module, at: float) -> None:  # noqa: ARG001  # the hook's signature
                for scale in (_scale(trained, name) for name in names):
                    if scale.grad is not None:
                        scale.grad.add_(scale.detach().sign(), alpha=self.sparsity)

            context.fit(model, target.ratio, hooks=Hooks(before_step=penalise))
            return remove_by_scale(model, target)

        return prune_and_retrain(parent, ratios, context, step)


@dataclass(frozen=True)
class SparseStructure(Producer):
    """Sparse structure selection (SSS): scales move by an accelerated proximal gradient, so that many become zero.

    Attributes:
        sparsity: Weight of the L1 norm of the scales in the loss.
        momentum: Of the accelerated proximal gradient.

    References:
        Huang and Wang 2018, arXiv 1707.01213 (Nesterov's momentum before the soft threshold). Ours, where the
        sources are silent or the network cannot follow: the scales are those of batch norm behind filters
        that can be removed alone, not new factors behind blocks or groups; scales that are not yet zero fall
        to one threshold, so that the ratio is reached; the network is retrained.
    """

    sparsity: float = 1e-4
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)
        if not 0 <= self.momentum < 1:
            raise SuiteError(f"sss: found momentum = {self.momentum}, expected at least 0 and below 1")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            names = list(batch_norm_names(model).values())
            hooks = proximal_hooks(names, context.recipe, self.sparsity, self.momentum)
            context.fit(model, target.ratio, hooks=hooks)
            return remove_by_scale(model, target)

        return prune_and_retrain(parent, ratios, context, step)


@dataclass(frozen=True)
class SoftFilter(Producer):
    """Soft filter pruning (SFP): after every epoch the filters of least L2 norm become zero, and may grow back.

    Attributes:
        learning_rate_factor: Factor on the learning rates of the soft epochs. Behind a filter of zeros the variance
            that batch norm divides by is 0, so its next step is hundreds of times longer than usual.

    References:
        He et al. 2018, arXiv 1808.06866: the same share in every layer, every epoch. Differs from the paper in
        that the share follows from the ratio, the parent is trained (the paper has both), and the network is
        retrained after the removal, as all other methods are. `learning_rate_factor` is ours: at the full rate
        (0.1, five epochs) filters of a small-cnn grew from norm 1.5 to 300, and at ratio 0.5 the accuracy on
        the digits fell from 98 to 85 %.
    """

    learning_rate_factor: float = 0.02
    renamed_settings: ClassVar[Mapping[str, str]] = {"slower": "learning_rate_factor"}

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate_factor <= 1:
            raise SuiteError(
                f"soft-filter: found learning_rate_factor = {self.learning_rate_factor}, "
                "expected above 0 and at most 1"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            order = rank_channels(per_filter(model, removable_groups(model), l2_norms))
            kept = channels_for_budget(model, order, uniform_widths(target.widths), target.budget)
            widths = {name: len(channels) for name, channels in kept.items()}

            def zero(trained: nn.Module, epochs: int) -> None:  # noqa: ARG001  # the hook's signature
                for name, order in rank_channels(_filter_norms(trained, widths)).items():
                    layer_weight(trained, name)[order[widths[name] :]] = 0

            recipe = _with_lower_rates(context.recipe, self.learning_rate_factor)
            context.fit(model, target.ratio, recipe=recipe, hooks=Hooks(after_epoch=zero))
            order = rank_channels(_filter_norms(model, widths))
            return remove_channels(model, top_channels(order, widths))

        return prune_and_retrain(parent, ratios, context, step)


def batch_norm_names(model: nn.Module) -> dict[str, str]:
    """Returns the name of the batch norm behind each convolution whose filters can be removed alone.

    Raises:
        UserError: If there is none, or several, or it has no scale.
    """
    return {name: _only_batch_norm(model, group) for name, group in removable_groups(model).items()}


def remove_by_scale(model: nn.Module, target: PruningTarget) -> nn.Module:
    """Returns `model` without the filters of least batch-norm scale, by one threshold for all layers."""
    scores: ChannelScores = {
        name: _scale(model, norm).detach().abs() for name, norm in batch_norm_names(model).items()
    }
    kept = channels_for_budget(model, rank_channels(scores), global_widths(scores), target.budget)
    return remove_channels(model, kept)


def proximal_hooks(names: Sequence[str], recipe: Recipe, sparsity: float, momentum: float) -> Hooks:
    """Returns hooks that update the scales of the batch norms `names` by the proximal gradient, not by the optimiser.

    References:
        Huang and Wang 2018, arXiv 1707.01213, with the look-ahead as the stored value:
        ``z = x - rate gradient``, ``s = soft(z, rate sparsity)``, ``v = s - x + momentum v``,
        ``x = s + momentum v``.
    """
    state: dict[str, Tensor] = {}

    def take_gradients(model: nn.Module, at: float) -> None:  # noqa: ARG001  # the hook's signature
        for name in names:
            scale = _scale(model, name)
            state[f"{name}.gradient"] = torch.zeros_like(scale) if scale.grad is None else scale.grad.clone()
            scale.grad = None  # the optimiser leaves it alone, weight decay included

    def update_scales(model: nn.Module, at: float, step: int) -> None:  # noqa: ARG001  # the hook's signature
        rate = learning_rate(recipe, at)
        for name in names:
            scale = _scale(model, name).detach()
            velocity = state.setdefault(f"{name}.velocity", torch.zeros_like(scale))
            moved = soft_threshold(scale - rate * state[f"{name}.gradient"], rate * sparsity)
            velocity.copy_(moved - scale + momentum * velocity)
            scale.copy_(moved + momentum * velocity)

    return Hooks(before_step=take_gradients, after_step=update_scales, state=state)


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Returns `values` moved towards zero by `threshold`, and zero where they are smaller.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def _only_batch_norm(model: nn.Module, group: ChannelGroup) -> str:
    layers = [model.get_submodule(norm.name) for norm in group.norms]
    if len(layers) != 1 or not isinstance(layers[0], nn.BatchNorm2d) or layers[0].weight is None:
        raise UserError(
            f"the convolution {group.conv!r} has {len(layers)} batch norms behind it, expected one with a scale to "
            "rank its filters by; use a producer that scores the filters themselves"
        )
    return group.norms[0].name


def _scale(model: nn.Module, norm: str) -> nn.Parameter:
    return model.get_submodule(norm).get_parameter("weight")


def _filter_norms(model: nn.Module, widths: dict[str, int]) -> ChannelScores:
    return {name: l2_norms(layer_weight(model, name).flatten(1)) for name in widths}


def _with_lower_rates(recipe: Recipe, factor: float) -> Recipe:
    rates = tuple(factor * rate for rate in recipe.rates)
    return replace(
        recipe, learning_rate=factor * recipe.learning_rate, floor=factor * recipe.floor, rates=rates
    )


def _check_sparsity(sparsity: float) -> None:
    if not 0 < sparsity < float("inf"):
        raise SuiteError(f"found sparsity = {sparsity}, expected a number above 0")
