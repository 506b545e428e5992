"""Tolerances: the largest drop that is commensurate, absolute or relative to the parent, per metric and condition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evalsuite.errors import UserError

OTHER_CONDITIONS = "*"
"""Key of the rule for every condition that has none of its own."""

Rule = float | str
"""An amount in the metric's unit (0.005), or a share of the parent's value (``5%``)."""
Tolerance = Rule | Mapping[str, Rule]
"""A rule, or rules by condition or group, with `OTHER_CONDITIONS` for the others."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest drop that is commensurate.

    Attributes:
        amount: In the metric's unit, or, if relative, as a share of the parent's value.
        relative: Whether `amount` is a share.
    """

    amount: float
    relative: bool = False

    def at(self, reference: float) -> float:
        """Returns the largest drop in the metric's unit for a parent's value."""
        return self.amount * abs(reference) if self.relative else self.amount


def parse_limit(rule: Rule | Limit, *, of: str = "") -> Limit:
    """Returns the limit of a rule.

    Args:
        rule: 0.005, or ``5%``, or a limit, which is returned.
        of: The metric and condition, for the error: `` of metric 'accuracy'``.

    Raises:
        UserError: If it is none of these, or not a finite number of at least 0.

    >>> parse_limit("5%").at(-2.0), parse_limit(0.005).at(-2.0)
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


def parse_limits(tolerance: Tolerance, *, of: str = "") -> dict[str, Limit]:
    """Returns the limits that a tolerance sets, by condition or group, `OTHER_CONDITIONS` for the others.

    Raises:
        UserError: If a rule is not as it must be, or there is none.

    >>> parse_limits({"fog/3": "10%", "*": 0.01})["fog/3"]
    Limit(amount=0.1, relative=True)
    """
    if not isinstance(tolerance, Mapping):
        return {OTHER_CONDITIONS: parse_limit(tolerance, of=of)}
    if not tolerance:
        raise UserError(f"the tolerance{of} is an empty table; give a number, or rules by condition")
    return {
        condition: parse_limit(rule, of=f"{of} on {condition!r}") for condition, rule in tolerance.items()
    }


def limit_for(rules: Mapping[str, Limit], condition: str, group: str = "") -> Limit | None:
    """Returns the limit on a condition: its own, else its group's, else that of the rest; ``None`` if it has none."""
    return next(
        (rules[name] for name in (condition, group, OTHER_CONDITIONS) if name and name in rules), None
    )


def restrict_to_measured(
    tolerances: Mapping[str, Tolerance], places: Iterable[tuple[str, str, str]]
) -> dict[str, Tolerance]:
    """Returns tolerances without the rules about conditions that were not measured.

    Args:
        tolerances: By metric.
        places: Metric, condition and group of each measurement.

    >>> restrict_to_measured({"accuracy": {"clean": 0.01, "fog/3": 0.02}}, [("accuracy", "clean", "")])
    {'accuracy': {'clean': 0.01}}
    """
    measured = {(metric, name) for metric, *names in places for name in (*names, OTHER_CONDITIONS)}
    return {
        metric: {name: rule for name, rule in rules.items() if (metric, name) in measured}
        if isinstance(rules, Mapping)
        else rules
        for metric, rules in tolerances.items()
    }


def parse_tolerances(pairs: Iterable[str]) -> dict[str, Tolerance]:
    """Returns the tolerances of a command line: ``metric=rule``, or ``metric@condition=rule``.

    Raises:
        UserError: If a text is neither.

    >>> parse_tolerances(["accuracy=0.01", "nll=5%", "accuracy@fog/3=0.02"])
    {'accuracy': {'*': '0.01', 'fog/3': '0.02'}, 'nll': {'*': '5%'}}
    """
    tolerances: dict[str, dict[str, Rule]] = {}
    for text in pairs:
        name, equals, rule = text.rpartition("=")
        metric, _, condition = name.partition("@")
        if not equals or not metric:
            raise UserError(
                f"{text}: expected metric=number, for example accuracy=0.01, nll=5% or accuracy@fog/3=0.02"
            )
        parse_limit(rule, of=f" of {name}")
        tolerances.setdefault(metric, {})[condition or OTHER_CONDITIONS] = rule
    return dict(tolerances)
