"""Rules by which a network of more classes is scored: by hand, and the torch form against that of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evalsuite.metrics.class_rules import right_on_same_classes, scored_logits
from evalsuite.models.scored import ScoredNetwork
from evalsuite.types import ScoringRule

SUBSET = ScoringRule("subset", 5, (1, 4))
MANY = ScoringRule("many_to_one", 5, (0, 1, 0, -1, -1))
EXACT = ScoringRule("many_to_one", 5, (0, 1, 0, 1, 1))
LOGITS = np.array([[9.0, 1, 2, 3, 4], [0, 5, 1, 9, 4], [1, 2, 3, 0, 1]], np.float32)


def test_a_subset_looks_at_its_classes_alone() -> None:
    np.testing.assert_array_equal(scored_logits(LOGITS, SUBSET), [[1, 4], [5, 4], [2, 1]])
    np.testing.assert_array_equal(scored_logits(LOGITS, None), LOGITS)


def test_many_outputs_are_one_class_and_the_answer_may_be_none() -> None:
    scores = scored_logits(LOGITS, MANY)
    np.testing.assert_array_equal(scores, [[9, 1, 4], [1, 5, 9], [3, 2, 1]])
    classes = np.array([*MANY.indices])[LOGITS.argmax(axis=1)]  # the official rule: map[argmax] = class
    np.testing.assert_array_equal(np.where(scores.argmax(axis=1) == 2, -1, scores.argmax(axis=1)), classes)
    assert scored_logits(LOGITS, EXACT).shape == (3, 2)


@pytest.mark.parametrize("rule", [SUBSET, MANY, EXACT], ids=["subset", "many to one", "all mapped"])
def test_the_network_form_is_the_same(rule: ScoringRule) -> None:
    network = ScoredNetwork(torch.nn.Identity(), rule)
    np.testing.assert_array_equal(network(torch.from_numpy(LOGITS)), scored_logits(LOGITS, rule))
    assert not network.state_dict()


def test_clean_accuracy_on_the_same_classes() -> None:
    labels = np.array([4, 1, 2])
    assert right_on_same_classes(LOGITS, labels, SUBSET).tolist() == [
        True,
        True,
    ]  # image 2 is of another class
    assert right_on_same_classes(LOGITS, labels, MANY).tolist() == [False, True]  # image 0 is of none
    assert right_on_same_classes(LOGITS, labels, None).tolist() == [False, False, True]
