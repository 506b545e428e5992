"""Which structured methods fit which network: its units, how far their removal reaches, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from evalsuite.errors import InvalidModelError, SkippedError, UserError, first_few
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.cost import count_nonzero
from evalsuite.models.surgery.channel_removal import (
    ChannelGroup,
    LeftOut,
    head_dimension_groups,
    head_dimensions_left_out,
    remove_channels,
)
from evalsuite.models.surgery.coupled_channels import coupled_groups
from evalsuite.producers.structured.base import layers_without_units, unit_groups
from evalsuite.producers.structured.filter_scores import has_norm_scale


@dataclass(frozen=True)
class PrunableUnits:
    """The units of a network that can be removed.

    Attributes:
        inside: Kinds of units that one layer computes alone, to their number.
        inside_limit: Share of the parameters that is gone when one unit of each layer is left.
        coupled: The same with units that layers share; empty if these cannot be followed.
        coupled_limit: As `inside_limit`.
        scaled: How many units have a norm with a scale behind them, in each scope: what ``bn-scale`` ranks.
        narrower: Kinds of entries by which heads can become narrower, to their number: ``units = "head dimensions"``.
        left_out: Layers whose outputs cannot be removed alone, with reasons.
        problem: Why shared units cannot be followed; empty if they can.
    """

    inside: dict[str, int]
    inside_limit: float
    coupled: dict[str, int]
    coupled_limit: float
    scaled: tuple[int, int]
    narrower: dict[str, int]
    left_out: tuple[LeftOut, ...]
    problem: str = ""

    @property
    def methods(self) -> dict[str, str]:
        """Methods with the scopes in which they have something to remove; empty where they have nothing."""
        scopes = {"inside": bool(self.inside), "coupled": bool(self.coupled)}
        scaled = {"inside": bool(self.scaled[0]), "coupled": bool(self.scaled[1])}
        weights = ", ".join(scope for scope, fits in scopes.items() if fits)
        norms = ", ".join(scope for scope, fits in scaled.items() if fits)
        return {
            "filter-l1, filter-l2, fpgm, taylor, pfp, filter-random": weights,
            "bn-scale": norms,
            "thin": "all units" if weights else "",
            "scratch-e, scratch-b": weights,
        }


def prunable_units_of(model: nn.Module, image_shape: Sequence[int]) -> PrunableUnits:
    """Returns what structured methods can remove of a model.

    Args:
        model: It is left as it was.
        image_shape: Of one image, (C, H, W).
    """
    try:
        separate = unit_groups(model)
    except InvalidModelError:
        separate = {}
    try:
        coupled = {group.conv: group for group in coupled_groups(model, image_shape)}
        shared, problem = (
            {**coupled, **{name: group for name, group in separate.items() if name not in coupled}},
            "",
        )
    except (UserError, SkippedError) as error:
        shared, problem = {}, str(error)
    return PrunableUnits(
        _counted(separate.values()),
        _limit(model, separate.values()),
        _counted(shared.values()),
        _limit(model, shared.values()),
        (_scaled(model, separate.values()), _scaled(model, shared.values())),
        _counted(head_dimension_groups(model)),
        (*layers_without_units(model), *head_dimensions_left_out(unwrap_model(model))),
        problem,
    )


def prunable_row(name: str, units: PrunableUnits) -> dict[str, str]:
    """Returns a row of the table that ``evalsuite list models --prunable`` prints."""
    return {
        "network": name,
        "inside": _words(units.inside, units.inside_limit),
        "coupled": _words(units.coupled, units.coupled_limit) or units.problem,
        "narrower heads": ", ".join(f"{count} {kind}" for kind, count in units.narrower.items()) or "nothing",
        "bn-scale": units.methods["bn-scale"] or "nothing",
        "not alone": first_few([f"{layer.name} ({layer.reason})" for layer in units.left_out], 1)
        or "nothing",
    }


def _words(counts: dict[str, int], limit: float) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"{kinds}; up to {limit:.0%}" if kinds else ""


def _counted(groups: Iterable[ChannelGroup]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.kind] = counts.get(group.kind, 0) + group.channels
    return counts


def _scaled(model: nn.Module, groups: Iterable[ChannelGroup]) -> int:
    return sum(group.channels for group in groups if has_norm_scale(model, group))


def _limit(model: nn.Module, groups: Iterable[ChannelGroup]) -> float:
    by_name = {group.conv: group for group in groups}
    smallest = remove_channels(model, {name: torch.tensor([0]) for name in by_name}, by_name)
    return 1 - count_nonzero(smallest) / count_nonzero(model)
