"""Logits of a network as scores of the classes of a set that has others: subsets, and many outputs to one class."""

from __future__ import annotations

import numpy as np

from evalsuite.types import Array, ScoringRule


def scored_logits(logits: Array, rule: ScoringRule | None) -> Array:
    """Returns logits of the classes of a set.

    Args:
        logits: Of the network, float (N, rule.outputs).
        rule: ``None`` for a set of the network's own classes.

    Returns:
        Of a subset its columns, (N, K). Many to one, the largest logit of each class, and in a last column the largest
        of all outputs that are no class: the argmax is the class of the network's answer; (N, K + 1).

    >>> rule = ScoringRule("many_to_one", 3, (0, -1, 0))
    >>> scored_logits(np.array([[1.0, 4.0, 2.0]]), rule)
    array([[2., 4.]])
    """
    if rule is None:
        return logits
    indices = np.array(rule.indices)
    if rule.kind == "subset":
        return np.ascontiguousarray(logits[:, indices])
    groups = [np.flatnonzero(indices == label) for label in range(int(indices.max()) + 1)]
    others = np.flatnonzero(indices < 0)
    columns = [logits[:, group].max(axis=1) for group in (*groups, *([others] if len(others) else []))]
    return np.stack(columns, axis=1)


def right_on_same_classes(logits: Array, labels: Array, rule: ScoringRule | None) -> Array:
    """Returns which images of the network's own classes are right, of those that a set has, scored by the set's rule.

    Args:
        logits: Of the network, float (N, outputs).
        labels: The network's classes, int (N,).
        rule: Of the set; ``None`` if it has all classes.

    Returns:
        bool (n,): of a subset the images of its classes alone.
    """
    if rule is None:
        right: Array = logits.argmax(axis=1) == labels
        return right
    places = np.full(rule.outputs, -1)
    if rule.kind == "subset":
        places[list(rule.indices)] = np.arange(len(rule.indices))
    else:
        places[:] = rule.indices
    shown = places[labels] >= 0
    same: Array = scored_logits(logits[shown], rule).argmax(axis=1) == places[labels][shown]
    return same
