"""How much worse still counts as good: absolute or relative to the parent, per metric and per condition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evalsuite.errors import UserError

REST = "*"
"""Stands for every condition that is not named."""

Rule = float | str
"""An amount in the metric's unit (0.005), or a share of the parent's value (``5%``)."""
Tolerance = Rule | Mapping[str, Rule]
"""A rule, or rules by condition or group, with `REST` for the others."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Is the largest drop that is commensurate.

    Attributes:
        amount: In the metric's unit, or, if relative, as a share of the parent's value.
        relative: Which of the two.
    """

    amount: float
    relative: bool = False

    def at(self, reference: float) -> float:
        """Returns the largest drop in the metric's unit beside a parent's value."""
        return self.amount * abs(reference) if self.relative else self.amount


def limit(rule: Rule | Limit, *, of: str = "") -> Limit:
    """Returns what a rule means.

    Args:
        rule: 0.005, or ``5%``, or what it means already.
        of: Whose tolerance it is, for the error: `` of metric 'accuracy'``.

    Raises:
        UserError: If it is neither, or not a finite number of at least 0.

    >>> limit("5%").at(-2.0), limit(0.005).at(-2.0)
    (0.1, 0.005)
    """
    if isinstance(rule, Limit):
        return rule
    relative = isinstance(rule, str) and rule.strip().endswith("%")
    try:
        amount = float(rule.strip().removesuffix("%")) if isinstance(rule, str) else float(rule)
    except (ValueError, TypeError):
        raise UserError(f"the tolerance{of} is {rule!r}; expected a number such as 0.005, or '5%'") from None
    if not 0 <= amount < math.inf:
        raise UserError(f"the tolerance{of} is {rule}; it must be a finite number of at least 0")
    return Limit(amount / 100, relative=True) if relative else Limit(amount)


def limits(tolerance: Tolerance, *, of: str = "") -> dict[str, Limit]:
    """Returns the limits that a tolerance sets, by condition or group, `REST` for the others.

    Raises:
        UserError: If one is not as it must be, or there is none.

    >>> limits({"fog/3": "10%", "*": 0.01})["fog/3"]
    Limit(amount=0.1, relative=True)
    """
    if not isinstance(tolerance, Mapping):
        return {REST: limit(tolerance, of=of)}
    if not tolerance:
        raise UserError(f"the tolerance{of} is an empty table; give a number, or rules by condition")
    return {where: limit(rule, of=f"{of} on {where!r}") for where, rule in tolerance.items()}


def applying(rules: Mapping[str, Limit], condition: str, group: str = "") -> Limit | None:
    """Returns the limit on a condition: its own, else its group's, else that of the rest; ``None`` if it has none."""
    return next((rules[name] for name in (condition, group, REST) if name and name in rules), None)


def narrowed(
    tolerances: Mapping[str, Tolerance], places: Iterable[tuple[str, str, str]]
) -> dict[str, Tolerance]:
    """Returns tolerances without the rules about conditions that nobody measured.

    Args:
        tolerances: By metric.
        places: Metric, condition and group of what was measured.

    >>> narrowed({"accuracy": {"clean": 0.01, "fog/3": 0.02}}, [("accuracy", "clean", "")])
    {'accuracy': {'clean': 0.01}}
    """
    known = {(metric, name) for metric, *names in places for name in (*names, REST)}
    return {
        metric: {where: one for where, one in rule.items() if (metric, where) in known}
        if isinstance(rule, Mapping)
        else rule
        for metric, rule in tolerances.items()
    }


def parsed(pairs: Iterable[str]) -> dict[str, Tolerance]:
    """Returns what a command line says: ``metric=rule``, or ``metric@condition=rule``.

    Raises:
        UserError: If one is neither.

    >>> parsed(["accuracy=0.01", "nll=5%", "accuracy@fog/3=0.02"])
    {'accuracy': {'*': '0.01', 'fog/3': '0.02'}, 'nll': {'*': '5%'}}
    """
    found: dict[str, dict[str, Rule]] = {}
    for text in pairs:
        name, equals, rule = text.rpartition("=")
        metric, _, condition = name.partition("@")
        if not equals or not metric:
            raise UserError(
                f"{text}: expected metric=number, for example accuracy=0.01, nll=5% or accuracy@fog/3=0.02"
            )
        limit(rule, of=f" of {name}")
        found.setdefault(metric, {})[condition or REST] = rule
    return dict(found)
