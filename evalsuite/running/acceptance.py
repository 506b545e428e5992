"""What a model must be before it becomes a candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from evalsuite.errors import CheckpointError, ContractError, EvalsuiteError
from evalsuite.models.cost import counted, weights_digest
from evalsuite.producers.contract import Context, Producer
from evalsuite.records import Candidate, Given

DENSE = 0.001
"""Share of the parent's non-zero parameters that a method that prunes nothing may lose or gain."""
CLAIM = 0.01
"""How far a claimed ratio may be from a measured one, over all parameters or over prunable weights."""


def check_claim(one: Given, found: Candidate) -> None:
    """Checks the ratio that a finished model is said to have.

    Raises:
        CheckpointError: If neither measured ratio is within `CLAIM` of it.
    """
    if one.ratio is None or min(abs(one.ratio - r) for r in (found.ratio, found.prunable_ratio)) <= CLAIM:
        return
    raise CheckpointError(
        f"{one.file} is said to have ratio {one.ratio:g}, but {found.ratio:.4f} of all parameters and "
        f"{found.prunable_ratio:.4f} of the prunable weights are gone; correct the claim or leave it out"
    )


def module_of(model: object, target: float) -> nn.Module:
    """Returns what a producer yielded.

    Raises:
        ContractError: If that is no module.
    """
    if not isinstance(model, nn.Module):
        raise ContractError(
            f"the producer yielded {type(model).__name__} for ratio {target:g}, expected a module"
        )
    return model


def ratio_of(model: nn.Module, parent: Candidate, axis: str) -> float:
    """Returns the measured ratio of `model` on an axis that weights alone decide."""
    return 1 - counted(model, axis) / int(getattr(parent.cost, axis))


def accepted(
    model: nn.Module, parent: Candidate, module: nn.Module, *, above: float, goal: tuple[str, float]
) -> float:
    """Returns the measured ratio of what a producer yielded.

    Args:
        model: What it yielded.
        parent: Record of the parent.
        module: The parent.
        above: The ratio that it may not be below.
        goal: The axis, and the target there.

    Raises:
        ContractError: If the producer broke its contract.
    """
    axis, target = goal
    if weights_digest(module) != parent.weights:
        raise ContractError("the producer changed the parent; it must work on a copy")
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise ContractError(f"the producer yielded weights that are not finite at ratio {target:g}")
    ratio = ratio_of(model, parent, axis)
    if ratio < above:
        raise ContractError(
            f"measured ratios must rise: {ratio:.4f} at target {target:g} follows {above:.4f}"
        )
    return ratio


def checked(
    producer: Producer, parent: Candidate, module: nn.Module, ratios: Sequence[float], context: Context
) -> Iterator[nn.Module]:
    """Yields what a producer makes of `module` for each of `ratios`, each of it accepted.

    The ratio of a method that prunes nothing (`Producer.dense`) must stay at 0 instead of rising.

    Raises:
        ContractError: If the producer broke its contract.
    """
    before = context.previous
    floor = 0.0 if before is None else ratio_of(before, parent, producer.axis)
    models = producer.produce(module, ratios, context)
    for ratio in ratios:
        model = module_of(next(models, None), ratio)
        above = -DENSE if producer.dense else floor
        floor = accepted(model, parent, module, above=above, goal=(producer.axis, ratio))
        if producer.dense and floor > DENSE:
            raise ContractError(f"a method that prunes nothing has ratio {floor:.4f}, expected 0")
        yield model


def sentence(error: Exception) -> str:
    """Returns why a production failed."""
    return str(error) if isinstance(error, EvalsuiteError) else f"{type(error).__name__}: {error}"
