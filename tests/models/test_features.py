from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from evalsuite.errors import InvalidModelError, SkippedError
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.features import classifier_head, classifier_layer, features_and_logits
from evalsuite.models.inference import logits, prepare_for_inference
from evalsuite.types import ImageSet

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 3, 32, 32), dtype=np.uint8)


class Net(nn.Module):
    """A convolution, a pool, a hidden layer and a classifier, and room for things to go wrong."""

    def __init__(self, end: Callable[[Net, Tensor], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.hidden = nn.Linear(8, 12)
        self.out = nn.Linear(12, 4)
        self.end = end or (lambda net, h: net.out(h))

    def vectors(self, images: Tensor) -> Tensor:
        return torch.relu(self.hidden(torch.relu(self.conv(images)).mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Any:
        return self.end(self, self.vectors(images))


class Functional(nn.Module):
    """Multiplies by its weights itself, as exported programs do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.linear(images.mean(dim=(2, 3)), self.weight)


def caught(model: nn.Module, images: Any = IMAGES) -> tuple[Any, Any, Any]:
    ready = prepare_for_inference(model)
    layer = classifier_layer(ready, images[:8])
    return (*features_and_logits(ready, images, layer), classifier_head(layer))


def test_features_are_the_input_of_the_classifier() -> None:
    net = Net().eval()
    features, values, last = caught(net)
    with torch.no_grad():
        expected = net.vectors(torch.from_numpy(IMAGES).float() / 255).numpy()
    assert features.shape == (70, 12)
    assert features.dtype == values.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_array_equal(values, logits(net, IMAGES))  # the same pass as without features
    np.testing.assert_allclose(features @ last.weight.T + last.bias, values, atol=1e-5)
    np.testing.assert_array_equal(last.weight, net.out.weight.detach().numpy())


@pytest.mark.parametrize(
    ("name", "width"), [("small-cnn", None), ("resnet20", 64), ("vgg16-bn", None), ("densenet22", None)]
)
def test_every_built_in_network_has_features(name: str, width: int | None) -> None:
    torch.manual_seed(0)
    features, values, last = caught(build_model(from_settings({"name": name})), IMAGES[:40])
    assert len(features) == len(values) == 40
    assert width in (None, features.shape[1])
    np.testing.assert_allclose(features @ last.weight.T + last.bias, values, rtol=1e-4, atol=1e-4)


def test_a_classifier_without_a_bias_has_zeros() -> None:
    net = Net()
    net.out = nn.Linear(12, 4, bias=False)
    assert caught(net)[2].bias.tolist() == [0, 0, 0, 0]


def test_masks_of_a_pruned_classifier_are_applied() -> None:
    net = Net()
    prune.l1_unstructured(net.out, "weight", amount=0.5)  # type: ignore[no-untyped-call]  # torch's
    features, values, last = caught(net)
    assert (last.weight == 0).mean() == 0.5
    np.testing.assert_allclose(features @ last.weight.T + last.bias, values, atol=1e-5)


def test_what_the_network_does_in_place_afterwards_leaves_no_trace() -> None:
    def spoilt(net: Net, h: Tensor) -> Tensor:
        outputs: Tensor = net.out(h)
        h.zero_()
        return outputs

    features, *_ = caught(Net(spoilt))
    np.testing.assert_array_equal(features, caught(Net())[0])
    assert features.any()


def test_keyword_arguments_are_seen() -> None:
    np.testing.assert_array_equal(caught(Net(lambda net, h: net.out(input=h)))[0], caught(Net())[0])


def test_no_hook_stays() -> None:
    ready = prepare_for_inference(Net())
    layer = classifier_layer(ready, IMAGES[:8])
    features_and_logits(ready, IMAGES[:8], layer)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in ready.modules())


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (
            lambda net, h: h[:, :4] + 0 * net.out(h),
            "its logits differ from the output of its last linear layer by up to",
        ),
        (
            lambda net, h: torch.log_softmax(net.out(h), 1),
            "its logits differ from the output of its last linear layer",
        ),
        (lambda net, h: net.out(h) / 2, "its logits differ from the output of its last linear layer"),
        (
            lambda net, h: net.out(h) + net.out(2 * h),
            "its logits differ from the output of its last linear layer",
        ),
        (
            lambda net, h: net.out(h.half().float() * 1.001) / 1.001,
            "its logits differ from",
        ),  # a bias is not scaled
        (
            lambda net, h: net.out(h)[:, :3],
            r"its last linear layer has 4 outputs and the model returns 3 logits",
        ),
        (
            lambda net, h: net.out(h[:, None]).mean(1),
            "its last linear layer does not take one vector per image",
        ),
        (
            lambda net, h: net.out(h[::2]).repeat_interleave(2, dim=0),
            "its logits differ from the output of its last linear",
        ),
    ],
    ids=["elsewhere", "log-probabilities", "scaled", "twice", "bias", "cut", "sequence", "half"],
)
def test_features_of_something_else_are_refused(end: Any, sentence: str) -> None:
    with pytest.raises(SkippedError, match=f"^the model has no penultimate features: {sentence}"):
        caught(Net(end))


def test_models_without_a_linear_layer() -> None:
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for model in (convolutional, Functional()):
        with pytest.raises(
            SkippedError,
            match=r"it applies no linear layer that can be seen .*use detectors that need logits",
        ):
            caught(model)


def test_a_model_that_breaks_its_contract_is_invalid() -> None:
    with pytest.raises(InvalidModelError, match="NaN or infinite"):
        caught(Net(lambda net, h: net.out(h) * torch.nan))


def test_features_agree_in_a_trained_network(network: Any, few: ImageSet) -> None:
    model = network("small-cnn")
    features, values, _ = caught(model, few.images)
    np.testing.assert_array_equal(values, logits(model, few.images))
    assert (features >= 0).all()  # pooled after a ReLU
