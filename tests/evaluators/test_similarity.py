from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evalsuite.datasets.views import View
from evalsuite.evaluation import Bench
from evalsuite.evaluators.similarity import Similarity
from evalsuite.execution.measuring import scored
from evalsuite.statistics import paired_rate_interval
from evalsuite.statistics.class_effects import harder_hit, holm
from evalsuite.types import Score

N, K = 120, 3
LABELS = np.arange(N) % K


def table(guesses: Any, *, sure: float = 2.0) -> Any:
    logits = np.zeros((256, K), np.float32)
    logits[np.arange(len(guesses)), guesses] = sure
    return logits


def changed(*images: int, of: Any = LABELS) -> Any:
    """The guesses `of`, wrong on these images."""
    guesses = np.array(of)
    guesses[list(images)] = (LABELS[list(images)] + 1) % K
    return guesses


def found(planting: Any, mine: Any, parents: Any, **settings: Any) -> dict[tuple[str, str], Score]:
    bench = planting.bench(LABELS, mine, parent=parents)
    scores = {(one.metric, one.condition): one for one in scored(Similarity(**settings), bench)}
    assert sum(bench.passes.values()) == sum(bench.parent.passes.values()) == 1
    return scores


def test_negative_and_positive_flips(planting: Any) -> None:
    scores = found(planting, table(changed(0, 3, 6)), table(changed(6, 9)))
    negative, positive = (scores[f"{name}_flip_rate", "clean"] for name in ("negative", "positive"))
    assert (negative.value, positive.value) == (2 / N, 1 / N)
    assert np.flatnonzero(negative.evidence["test"]).tolist() == [0, 3]
    assert np.flatnonzero(positive.evidence["test"]).tolist() == [9]
    assert paired_rate_interval(2, 1, n=N)[1] > 0  # these are the discordant images of the accuracy


def test_distances_are_norms_of_differences(planting: Any) -> None:
    random = np.random.default_rng(0)
    mine, parents = random.normal(size=(2, 256, K)).astype(np.float32)
    scores = found(planting, mine, parents)
    shares = [np.exp(z[:N].astype(float)) for z in (mine, parents)]
    p = [e / e.sum(axis=1, keepdims=True) for e in shares]
    z = [one[:N].astype(float) - one[:N].astype(float).mean(axis=1, keepdims=True) for one in (mine, parents)]
    wanted = {
        "softmax_distance": np.sqrt(np.square(p[0] - p[1]).sum(axis=1)),
        "softmax_distance_linf": np.abs(p[0] - p[1]).max(axis=1),
        "logit_distance": np.sqrt(np.square(z[0] - z[1]).sum(axis=1)),
        "logit_distance_linf": np.abs(z[0] - z[1]).max(axis=1),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(scores[name, "clean"].evidence["test"], values, atol=1e-6)
        assert scores[name, "clean"].value == pytest.approx(values.mean())


def test_the_parent_is_like_itself_and_a_constant_moves_nothing(planting: Any) -> None:
    parents = np.random.default_rng(1).normal(size=(256, K)).astype(np.float32)
    image_source = planting.data(test=planting.numbered(LABELS, classes=K))
    alone = {
        one.metric: one.value for one in scored(Similarity(), Bench(planting.lookup(parents), image_source))
    }
    shifted = found(planting, parents + np.float32(4.0), parents)
    for name in (
        "negative_flip_rate",
        "positive_flip_rate",
        "softmax_distance",
        "softmax_distance_linf",
        "logit_distance",
    ):
        assert alone[name] == 0
        assert shifted[name, "clean"].value == pytest.approx(0, abs=1e-5)
    assert (alone["worst_class_drop"], alone["class_impact_p"]) == (0, 1)


def test_each_class_has_its_accuracy_on_its_own_images(planting: Any) -> None:
    scores = found(planting, table(changed(0, 3, 4)), table(LABELS))
    for k, right in enumerate((38, 39, 40)):
        score = scores["class_accuracy", f"class/{k}"]
        assert (score.value, score.n, score.group) == (right / 40, 40, "classes")
        assert list(score.evidence) == [f"test of class {k}"]
    assert scores["worst_class_drop", "clean"].value == pytest.approx(2 / 40)
    assert ("class_accuracy", "class/0") not in found(planting, table(LABELS), table(LABELS), classes=False)


def test_a_class_that_is_hit_harder_is_named(planting: Any) -> None:
    lost = [3 * i + 1 for i in range(15)]  # of class 1
    scores = found(planting, table(changed(*lost, 0, 2)), table(LABELS))
    p = holm(harder_hit([1, 15, 1], [0, 0, 0], n=[40, 40, 40]))
    assert scores["class_impact_p", "clean"].value == pytest.approx(p[1])
    worst = scores["worst_class_drop", "clean"]
    assert worst.value == pytest.approx(15 / 40)
    assert worst.n == N
    (flag,) = worst.flags
    assert flag.startswith(
        "class 1 lost 0.375 of its accuracy, all images 0.142: it is hit harder than the others"
    )
    even = found(planting, table(changed(0, 3, 1, 4, 2, 5)), table(LABELS))
    assert even["worst_class_drop", "clean"].flags == ()
    assert even["class_impact_p", "clean"].value == pytest.approx(1)


def test_classes_without_images_do_not_count_and_many_have_no_rows(planting: Any) -> None:
    labels = np.repeat([2, 100], 20)
    logits = np.zeros((256, 101), np.float32)
    logits[np.arange(40), labels] = 3
    broken = logits.copy()
    broken[:10, 0] = 4
    bench = planting.bench(labels, broken, parent=logits)
    scores = {(one.metric, one.condition): one for one in scored(Similarity(), bench)}
    assert not [condition for metric, condition in scores if metric == "class_accuracy"]
    assert scores["worst_class_drop", "clean"].value == 0.5
    assert "class 2 lost 0.500" in scores["worst_class_drop", "clean"].flags[0]
    assert Similarity().needs == (View(),)


def test_predicted_classes_are_counted_and_kept(planting: Any) -> None:
    guesses = np.where(LABELS == 2, 0, LABELS)
    score = found(planting, table(guesses), table(LABELS))["predicted_classes", "clean"]
    assert score.value == 2
    assert score.evidence["test"].tolist() == guesses.tolist()
    assert score.evidence["test"].dtype.name == "int16"


def test_a_control_is_compared_with_the_parent_and_with_no_candidate(planting: Any) -> None:
    random = np.random.default_rng(4)
    parents, other = random.normal(size=(2, 256, K)).astype(np.float32)
    bench = planting.bench(LABELS, table(LABELS), parent=parents)
    control = Bench(planting.lookup(other), bench.image_source)
    bench.set_control(control)
    assert not [one for one in scored(Similarity(), bench) if one.condition == "control"]
    scores = {one.metric: one for one in scored(Similarity(), bench.parent) if one.condition == "control"}
    assert set(scores) == {
        "agreement", "softmax_distance", "softmax_distance_linf", "logit_distance", "logit_distance_linf",
    }  # fmt: skip
    agrees = (parents[:N].argmax(axis=1) == other[:N].argmax(axis=1)).mean()
    assert scores["agreement"].value == pytest.approx(agrees)
    apart = scored(Similarity(), planting.bench(LABELS, other, parent=parents))
    for one in apart:
        if one.metric in scores and one.condition == "clean":
            assert scores[one.metric].value == one.value  # as far as a candidate with these outputs
    alone = scored(Similarity(), Bench(planting.lookup(parents), bench.image_source))
    assert "control" not in {one.condition for one in alone}
