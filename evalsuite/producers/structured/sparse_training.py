"""Filters that go while the network trains: by sparse scales of its batch norms, or by being set to zero softly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.surgery.removal import ChannelGroup, remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.filter_scores import l2, per_filter
from evalsuite.producers.structured.removal import (
    Goal,
    Scores,
    best,
    groups,
    nearest,
    ranks,
    shrinking,
    together,
    uniform,
    weight,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe, learning_rate


@dataclass(frozen=True)
class Slimming(Producer):
    """Network slimming: trains with an L1 penalty on the scales of batch norm, then cuts by one threshold on them.

    Attributes:
        sparsity: Factor s of the penalty: 1e-4 for VGG-19, 1e-5 for ResNet-164 and DenseNet-40 in the paper.

    References:
        Liu et al. 2017, arXiv 1708.06519, by the subgradient ``s sign(gamma)`` as in its code;
        several ratios are its multi-pass scheme. Differs from the paper in that sparse
        training starts from the trained parent and takes the retraining recipe, that the share of channels follows
        from the ratio (0.7 of VGG-19 and 0.4 of the others there), and that of a residual network only the channels
        inside its blocks are penalised and go: the paper's channel-selection layers are not added. What the shift
        of a removed channel added to the next layer is gone with it, as where its code sets both to zero.
    """

    sparsity: float = 1e-4

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            names = norms(model).values()

            def pull(trained: nn.Module, at: float) -> None:  # noqa: ARG001  # the hook's signature
                for scale in (_scale(trained, name) for name in names):
                    if scale.grad is not None:
                        scale.grad.add_(scale.detach().sign(), alpha=self.sparsity)

            context.fit(model, goal.ratio, hooks=Hooks(before_step=pull))
            return cut_by_scale(model, goal)

        return shrinking(parent, ratios, context, step)


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

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            hooks = proximal(list(norms(model).values()), context.recipe, self.sparsity, self.momentum)
            context.fit(model, goal.ratio, hooks=hooks)
            return cut_by_scale(model, goal)

        return shrinking(parent, ratios, context, step)


@dataclass(frozen=True)
class SoftFilter(Producer):
    """Soft filter pruning (SFP): after every epoch the filters of least L2 norm become zero, and may grow back.

    Attributes:
        slower: Factor on the learning rates of the soft epochs. Behind a filter of zeros the variance that batch
            norm divides by is 0, so its next step is hundreds of times longer than usual.

    References:
        He et al. 2018, arXiv 1808.06866: the same share in every layer, every epoch. Differs from the paper in
        that the share follows from the ratio, the parent is trained (the paper has both), and the network is
        retrained after the cut, as all other methods are. `slower` is ours: at the full rate
        (0.1, five epochs) filters of a small-cnn grew from norm 1.5 to 300, and at ratio 0.5 the accuracy on
        the digits fell from 98 to 85 %.
    """

    slower: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.slower <= 1:
            raise SuiteError(f"soft-filter: found slower = {self.slower}, expected above 0 and at most 1")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            kept = nearest(
                model, ranks(per_filter(model, groups(model), l2)), uniform(goal.widths), goal.budget
            )
            widths = {name: len(one) for name, one in kept.items()}

            def zero(trained: nn.Module, epochs: int) -> None:  # noqa: ARG001  # the hook's signature
                for name, order in ranks(_norms_of_filters(trained, widths)).items():
                    weight(trained, name)[order[widths[name] :]] = 0

            recipe = _slower(context.recipe, self.slower)
            context.fit(model, goal.ratio, recipe=recipe, hooks=Hooks(after_epoch=zero))
            order = ranks(_norms_of_filters(model, widths))
            return remove_channels(model, best(order, widths))

        return shrinking(parent, ratios, context, step)


def norms(model: nn.Module) -> dict[str, str]:
    """Returns the name of the batch norm behind each convolution whose filters can be removed alone.

    Raises:
        UserError: If there is none, or several, or it has no scale.
    """
    return {name: _only_norm(model, group) for name, group in groups(model).items()}


def cut_by_scale(model: nn.Module, goal: Goal) -> nn.Module:
    """Returns `model` without the filters whose batch norm has the least scale, by one threshold for all layers."""
    scores: Scores = {name: _scale(model, norm).detach().abs() for name, norm in norms(model).items()}
    return remove_channels(model, nearest(model, ranks(scores), together(scores), goal.budget))


def proximal(names: Sequence[str], recipe: Recipe, sparsity: float, momentum: float) -> Hooks:
    """Returns hooks that take the scales of the batch norms `names` from the optimiser to the proximal gradient.

    References:
        Huang and Wang 2018, arXiv 1707.01213, with the look-ahead as the stored value:
        ``z = x - rate gradient``, ``s = soft(z, rate sparsity)``, ``v = s - x + momentum v``,
        ``x = s + momentum v``.
    """
    state: dict[str, Tensor] = {}

    def take(model: nn.Module, at: float) -> None:  # noqa: ARG001  # the hook's signature
        for name in names:
            scale = _scale(model, name)
            state[f"{name}.slope"] = torch.zeros_like(scale) if scale.grad is None else scale.grad.clone()
            scale.grad = None  # the optimiser leaves it alone, weight decay included

    def move(model: nn.Module, at: float, step: int) -> None:  # noqa: ARG001  # the hook's signature
        rate = learning_rate(recipe, at)
        for name in names:
            scale = _scale(model, name).detach()
            speed = state.setdefault(f"{name}.speed", torch.zeros_like(scale))
            moved = soft(scale - rate * state[f"{name}.slope"], rate * sparsity)
            speed.copy_(moved - scale + momentum * speed)
            scale.copy_(moved + momentum * speed)

    return Hooks(before_step=take, after_step=move, state=state)


def soft(values: Tensor, threshold: float) -> Tensor:
    """Returns `values` pulled to zero by `threshold`.

    >>> soft(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def _only_norm(model: nn.Module, group: ChannelGroup) -> str:
    norms = [model.get_submodule(norm.name) for norm in group.norms]
    if len(norms) != 1 or not isinstance(norms[0], nn.BatchNorm2d) or norms[0].weight is None:
        raise UserError(
            f"the convolution {group.conv!r} has {len(norms)} batch norms behind it, expected one with a scale to "
            "rank its filters by; use a producer that scores the filters themselves"
        )
    return group.norms[0].name


def _scale(model: nn.Module, norm: str) -> nn.Parameter:
    return model.get_submodule(norm).get_parameter("weight")


def _norms_of_filters(model: nn.Module, widths: dict[str, int]) -> Scores:
    return {name: l2(weight(model, name).flatten(1)) for name in widths}


def _slower(recipe: Recipe, factor: float) -> Recipe:
    rates = tuple(factor * rate for rate in recipe.rates)
    return replace(
        recipe, learning_rate=factor * recipe.learning_rate, floor=factor * recipe.floor, rates=rates
    )


def _check_sparsity(sparsity: float) -> None:
    if not 0 < sparsity < float("inf"):
        raise SuiteError(f"found sparsity = {sparsity}, expected a number above 0")
