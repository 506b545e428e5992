from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.datasets.transforms.noise import RandomNoise
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError, DataError, InvalidModelError, SkippedError
from evalsuite.evaluation import Bench, Outputs
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.evaluators.calibration import Calibration
from evalsuite.evaluators.noise import Noise
from evalsuite.evaluators.ood import Ood
from evalsuite.execution.measuring import scored
from evalsuite.model_checks import PROBE
from evalsuite.models.inference import BATCH_SIZE

N, K = 100, 4
NOISE = View(
    transform=RandomNoise("uniform", 0.1)
)  # less than half a level: a look-up model still knows its images
rng = np.random.default_rng(0)
LABELS = np.arange(N) % K
TABLE = (rng.normal(size=(256, K)) + np.eye(K)[np.arange(256) % K]).astype(np.float32)


class Wrong(nn.Module):
    """Breaks the contract of a model in a way of its own."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(images.flatten(1)[:, :K] * 10)


@pytest.fixture
def bench(planting: Any) -> Bench:
    found: Bench = planting.bench(LABELS, TABLE)
    return found


def test_outputs_are_those_of_the_model(bench: Bench) -> None:
    outputs = bench.outputs(View())
    np.testing.assert_allclose(outputs.logits, TABLE[:N], rtol=1e-6)
    np.testing.assert_array_equal(outputs.labels, LABELS)
    np.testing.assert_array_equal(outputs.predictions, TABLE[:N].argmax(1))
    np.testing.assert_array_equal(outputs.correct, TABLE[:N].argmax(1) == LABELS)
    p = np.exp(TABLE[:N].astype(np.float64))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(outputs.confidence, p.max(1))
    np.testing.assert_allclose(outputs.nll, -np.log(p[np.arange(N), LABELS]))
    assert bench.classes == K


def test_each_forward_pass_happens_once_for_all_evaluators(planting: Any) -> None:
    shown = planting.data(
        test=planting.numbered(LABELS, classes=K),
        validation=planting.numbered(LABELS[:90], classes=K, start=100),
    )
    model, parent = planting.lookup(TABLE), planting.lookup(TABLE[::-1].copy())
    bench = Bench(model, shown, parent=Bench(parent, shown))
    evaluators = (Accuracy(), Noise(epsilons=(0.1,)), Calibration(), Calibration("cross-fit"), Accuracy())
    for evaluator in evaluators:
        scored(evaluator, bench)
    assert bench.passes == {View(): 1, NOISE: 1, View(split="validation"): 1}
    assert bench.parent.passes == {View(): 1, NOISE: 1}  # the parent answers for agreement alone
    probe, hundred, ninety = (-(-count // BATCH_SIZE) for count in (PROBE, N, 90))
    assert len(model.seen) == 3 * probe + 2 * hundred + ninety
    assert len(parent.seen) == 3 * probe + 2 * hundred
    assert {batch.shape[0] for batch in model.seen} == {BATCH_SIZE}


def test_the_order_of_evaluators_changes_no_number(planting: Any) -> None:
    shown = planting.data(
        test=planting.numbered(LABELS, classes=K),
        validation=planting.numbered(LABELS[:90], classes=K, start=100),
    )
    evaluators = [
        Accuracy(),
        Noise(epsilons=(0.1, 0.2)),
        Calibration(),
        Calibration("cross-fit"),
        Ood(far=("digits",)),
    ]

    def numbers(order: list[Any]) -> dict[int, Any]:
        one = Bench(planting.lookup(TABLE), shown)
        found = {id(each): scored(each, one) for each in order}
        return {
            key: [(score.metric, score.condition, score.value, score.n) for score in found[key]]
            for key in found
        }

    assert numbers(evaluators) == numbers(evaluators[::-1])


def test_agreement_is_with_the_parents_predictions(planting: Any) -> None:
    child = TABLE.copy()
    child[:30] = -child[:30]
    bench = planting.bench(LABELS, child, parent=TABLE)
    found = {score.metric: score.value for score in scored(Accuracy(), bench)}
    assert found["agreement"] == pytest.approx((child[:N].argmax(1) == TABLE[:N].argmax(1)).mean())
    assert found["agreement"] not in (None, 1)
    assert found["accuracy"] == pytest.approx((child[:N].argmax(1) == LABELS).mean())
    own = planting.bench(LABELS, TABLE)
    assert own.parent is own  # the unpruned network is its own parent
    assert {score.metric: score.value for score in scored(Accuracy(), own)}["agreement"] == 1


def test_views_that_were_not_declared_are_refused(bench: Bench) -> None:
    bench.restrict_inputs((View(),))
    bench.outputs(View())
    with pytest.raises(
        ContractError, match=r"^an evaluator asked for View\(.*RandomNoise.*, which its needs do not"
    ):
        bench.outputs(NOISE)
    bench.restrict_inputs(None)
    bench.outputs(NOISE)
    bench.restrict_inputs((View(),))
    with pytest.raises(ContractError, match="which its needs do not name; add it there"):
        bench.outputs(NOISE)  # also when it was computed for another evaluator


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x: x * torch.where(x[:, 1:2] > 5, torch.nan, 1.0), r"NaN or infinite logits for \d+ of \d+ images"),
        (lambda x: x / torch.zeros(1), "NaN or infinite logits for"),
        (lambda x: torch.softmax(x, 1), "the model returns probabilities .* expected logits: remove its softmax"),
        (lambda x: x[:, :, None], rf"the model returns shape \({BATCH_SIZE}, 4, 1\) for {BATCH_SIZE} images"),
        (lambda x: x[:7], rf"the model returns shape \(7, 4\) for {BATCH_SIZE} images"),
        (lambda x: x[:, :1], rf"the model returns shape \({BATCH_SIZE}, 1\) for {BATCH_SIZE} images"),
        (lambda x: x[:, :3], "the model returns 3 logits per image, but the data set has 4 classes; use a model that"),
        (lambda x: (x, x), "the model returns a tuple, expected a tensor of logits"),
        (lambda x: x + torch.rand_like(x), r"two forward passes over the same images differ by up to [\d.]+; remove"),
        (lambda x: nn.functional.dropout(x, 0.5), "two forward passes over the same images differ by up to"),
    ],
    ids=["NaN", "infinite", "softmax", "three axes", "rows", "one class", "classes", "tuple", "random", "dropout"],
)  # fmt: skip
def test_models_that_break_their_contract(
    planting: Any, answer: Callable[[Tensor], Any], sentence: str
) -> None:
    shown = planting.data(test=planting.numbered(LABELS, classes=K))
    with pytest.raises(InvalidModelError, match=sentence):
        Bench(Wrong(answer), shown).outputs(View())


def test_a_model_may_go_wrong_behind_the_probed_images(planting: Any) -> None:
    table = TABLE.copy()
    table[PROBE + 20] = np.nan
    with pytest.raises(
        InvalidModelError, match=r"^the model returns NaN or infinite logits for 1 of 100 images$"
    ):
        planting.bench(LABELS, table).outputs(View())


def test_the_model_is_put_into_evaluation_mode_and_stays_untouched(planting: Any) -> None:
    shown = planting.data(test=planting.numbered(LABELS, classes=K))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, K, 3), nn.BatchNorm2d(K), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bench = Bench(model, shown)
    bench.outputs(View())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in bench.inference_model.parameters())
    assert bench.inference_model is bench.inference_model


def test_images_of_no_class_have_no_labels(planting: Any) -> None:
    shown = planting.data(test=planting.numbered(LABELS, classes=K))
    outputs = Bench(planting.lookup(TABLE), shown).outputs(View(data="letters"))
    assert outputs.labels is None
    for ask in (lambda: outputs.true_labels, lambda: outputs.correct, lambda: outputs.nll):
        with pytest.raises(DataError, match=r"^these images are out of distribution and have no labels"):
            ask()


FAR = View(data="letters", first=40)


class Tied(nn.Module):
    """Features are the first pixels, and a linear layer makes logits of them."""

    def __init__(self, trick: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.last = nn.Linear(6, K)
        nn.init.normal_(self.last.weight, generator=torch.Generator().manual_seed(0))
        nn.init.ones_(self.last.bias)
        self.trick = trick or (lambda z, h: z)  # noqa: ARG005  # tricks see both

    def forward(self, images: Tensor) -> Tensor:
        h = images.flatten(1)[:, :6]
        return self.trick(self.last(h), h)


def tied(planting: Any, model: nn.Module | None = None) -> Bench:
    return Bench(model or Tied(), planting.data(test=planting.numbered(LABELS, classes=K)))


def test_features_come_with_the_logits_of_one_pass(planting: Any) -> None:
    bench = tied(planting)
    bench.request_features((View(), FAR))
    for view in (View(), FAR):
        outputs = bench.outputs(view)
        assert outputs.features is not None
        expected = bench.images(view).images.reshape(len(outputs.logits), -1)[:, :6] / np.float32(255)
        np.testing.assert_allclose(outputs.features, expected, atol=1e-7)
        made = outputs.features @ bench.head.weight.T + bench.head.bias
        np.testing.assert_allclose(made, outputs.logits, atol=1e-5)
    assert bench.passes == {View(): 1, FAR: 1}
    plain = tied(planting)
    np.testing.assert_array_equal(plain.outputs(View()).logits, bench.outputs(View()).logits)


def test_features_that_are_not_requested_are_not_kept(planting: Any) -> None:
    bench = tied(planting)
    bench.request_features((FAR,))
    assert bench.outputs(View()).features is None
    assert bench.outputs(FAR).features is not None


def test_features_that_are_requested_late_cost_a_second_pass(planting: Any) -> None:
    bench = tied(planting)
    assert bench.outputs(View()).features is None
    bench.request_features((View(),))
    assert bench.outputs(View()).features is not None
    bench.outputs(View())
    assert bench.passes == {View(): 2}


def test_a_model_without_features_passes_once_all_the_same(planting: Any) -> None:
    bench = planting.bench(LABELS, TABLE)
    bench.request_features((View(),))
    for _ in range(2):
        assert bench.outputs(View()).features is None
    assert bench.passes == {View(): 1}
    for _ in range(2):
        with pytest.raises(SkippedError, match="the model has no penultimate features: it applies no linear"):
            _ = bench.head


def test_features_that_fail_on_some_images_are_used_on_none(planting: Any) -> None:
    def late(z: Tensor, h: Tensor) -> Tensor:  # images from number 60 on take another way
        return torch.where(h[:, :1] > 60 / 255, z + 1, z)

    bench = tied(planting, Tied(late))
    bench.request_features((View(),))
    assert bench.outputs(View()).features is None
    np.testing.assert_array_equal(
        bench.outputs(View()).logits, tied(planting, Tied(late)).outputs(View()).logits
    )
    with pytest.raises(
        SkippedError, match="its logits differ from the output of its last linear layer by up to 1"
    ):
        _ = bench.head


def test_a_memoised_result_is_computed_once(planting: Any) -> None:
    bench = planting.bench([0, 1, 2], np.eye(3), parent=np.eye(3))
    asked: list[str] = []

    def compute(name: str) -> str:
        asked.append(name)
        return name.upper()

    assert [bench.parent.memoise("key", lambda: compute("parent")) for _ in range(2)] == ["PARENT"] * 2
    assert bench.memoise("key", lambda: compute("candidate")) == "CANDIDATE"
    assert bench.memoise("other", lambda: compute("again")) == "AGAIN"
    assert asked == ["parent", "candidate", "again"]


def test_candidates_share_the_control_of_their_parent(planting: Any) -> None:
    bench = planting.bench([0, 1, 2], np.eye(3), parent=np.eye(3))
    other = planting.bench([0, 1, 2], -np.eye(3))
    bench.set_control(None)
    assert bench.parent.control is None
    bench.set_control(other)
    assert [bench.parent.control, bench.control] == [other, other]
    assert Bench(other.model, other.image_source).control is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("allow", "restrict_inputs"),
        ("contrast", "set_control"),
        ("gallery", "image_source"),
        ("ready", "inference_model"),
        ("remember", "memoise"),
        ("want", "request_features"),
    ],
)
def test_old_names_of_the_bench_work_with_a_warning(bench: Bench, old: str, new: str) -> None:
    sentence = f"^Bench.{old} is now called Bench.{new}; the old name stops working with the next release$"
    with pytest.warns(DeprecationWarning, match=sentence) as caught:
        assert getattr(bench, old) == getattr(bench, new)
    assert [Path(one.filename).name for one in caught] == ["test_evaluation.py"]


def test_the_old_name_of_labels_works_with_a_warning(bench: Bench) -> None:
    outputs = bench.outputs(View())
    with pytest.warns(DeprecationWarning, match=r"^Outputs\.known is now called Outputs\.true_labels;"):
        assert outputs.known is outputs.labels
    assert isinstance(vars(Outputs)["known"], type(Outputs.known))  # the class has it too, for documentation
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = outputs.unknown  # type: ignore[attr-defined]  # is what is tested
