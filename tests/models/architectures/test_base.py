from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import normalize

from evalsuite.errors import SuiteError, UnknownNameError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture, Normalized, build_model, unwrap_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.architectures.resnet import ResNet20, ZeroPadding
from evalsuite.models.architectures.settings import from_settings, to_settings
from evalsuite.models.cost import cost

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMETERS = {  # He et al. 2016, table 6, in millions; option A adds no weights
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "resnet110": 1.7,
}


REFERENCES: dict[str, dict[str, Any]] = {
    "lenet-300-100": {"side": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "python": {"target": "torchvision.models:resnet18", "options": {"num_classes": 7}},
    "robustbench": {"model": "Wong2020Fast"},
    "timm": {"model": "resnet10t"},
    "torchvision": {"model": "resnet18"},
}
OWN = [name for name in MODELS if name not in REFERENCES and name != "hf"]  # which needs a folder

COUNTED = [  # parameters and multiply-accumulates at 32 x 32
    ("resnet20", {"shortcut": "B"}, 272_474, 41.2e6),  # lucaslie/torchprune
    ("resnet56", {}, 853_018, 125e6),  # Li et al. 2017, table 1
    ("resnet110", {}, 1_727_962, 253e6),  # Li et al. 2017, table 1
    ("vgg16-bn", {}, 14_728_266, 313e6),  # lucaslie/torchprune; Li et al. 2017, table 1
    ("vgg19-bn", {"bias": False}, 20.04e6, 7.97e8 / 2),  # Liu et al. 2017, table 1, which counts two per MAC
    ("wide-resnet", {}, 10_961_370, None),  # WRN-16-8, lucaslie/torchprune
    ("wide-resnet", {"depth": 28, "width": 10}, 36.5e6, None),  # Zagoruyko and Komodakis 2016, table 4
    ("wide-resnet", {"depth": 40, "width": 4}, 8.9e6, None),  # the same
    ("densenet22", {}, 71_686, None),  # lucaslie/torchprune
    ("bottleneck-resnet56", {}, 869_530, None),  # lucaslie/torchprune
    ("bottleneck-resnet110", {}, 1_704_154, None),  # lucaslie/torchprune
    ("resnext29", {}, 34.4e6, None),  # Xie et al. 2017, table 7
    ("densenet40", {}, 1.06e6, None),  # bearpaw/pytorch-classification without bottlenecks, calculated
    ("densenet100", {}, 0.77e6, None),  # DenseNet-BC: Huang et al. 2017, table 2 (0.8 M)
    ("lenet-5", {}, 81_302, None),  # lucaslie/torchprune
    ("preresnet", {}, 1.70e6, 4.99e8 / 2),  # Liu et al. 2017, table 1
]


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys; from evalsuite.models import MODELS; lines = MODELS.entries(); "
        "assert all(line.text for line in lines), lines; assert 'torch' not in sys.modules; print(*MODELS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(done.stdout.split())
    assert {"resnet20", "torchvision", "vgg16-bn"} <= names <= set(MODELS)  # other tests register more


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_architecture_gives_one_row_of_logits_per_image(name: str, vit_folder: Path) -> None:
    classes = 10 if name == "robustbench" else 7
    settings = {"model": str(vit_folder)} if name == "hf" else REFERENCES.get(name, {})
    model = build_model(from_settings({"name": name, "classes": classes, **settings})).eval()
    logits = model(torch.rand(3, 3, 32, 32))[:, :7]
    assert logits.shape == (3, 7)
    assert torch.isfinite(logits).all()
    assert logits.std(0).min() > 0


@pytest.mark.parametrize("name", OWN)
def test_number_of_channels_follows_the_mean(name: str) -> None:
    model = build_model(from_settings({"name": name, "mean": [0.5], "std": [0.5]})).eval()
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("name", "millions"), PARAMETERS.items())
def test_parameters_are_the_published_ones(name: str, millions: float) -> None:
    network = MODELS.get(name)().network()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(("name", "settings", "parameters", "macs"), COUNTED)
def test_costs_are_the_published_ones(
    name: str, settings: dict[str, Any], parameters: float, macs: float | None
) -> None:
    total = cost(build_model(from_settings({"name": name, **settings})), (3, 32, 32))
    if isinstance(parameters, int):
        assert total.parameters == parameters
    assert total.parameters == pytest.approx(parameters, rel=0.007)
    assert macs is None or total.macs == pytest.approx(macs, rel=0.01)


def test_resnet20_has_the_parameters_of_the_reference_implementation() -> None:
    assert sum(p.numel() for p in ResNet20().network().parameters()) == 269_722
    projected = 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert sum(p.numel() for p in ResNet20(shortcut="B").network().parameters()) == projected == 272_474


def test_zero_padding_takes_every_second_pixel_and_pads_both_sides() -> None:
    maps = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    padded = ZeroPadding(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3))(maps)
    assert padded.shape == (1, 4, 2, 2)
    assert torch.equal(padded[:, 1:3], maps[:, :, ::2, ::2])
    assert not padded[:, [0, 3]].any()


def test_preprocessing_agrees_with_torchvision() -> None:
    architecture = ResNet20(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    images = torch.rand(4, 3, 8, 8)
    model = Normalized(nn.Identity(), mean=architecture.mean, std=architecture.std)
    torch.testing.assert_close(
        model(images), normalize(images, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]), rtol=0, atol=0
    )


def test_preprocessing_is_not_part_of_the_weights() -> None:
    model = build_model(SmallCNN())
    assert {name.partition(".")[0] for name in model.state_dict()} == {"network"}
    assert {name for name, _ in model.named_buffers() if "." not in name} == {"mean", "std"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"std": (0.1, 0.2, 0.0)}, r"std = \(0.1, 0.2, 0.0\), expected finite numbers above 0"),
        ({"std": (0.1, 0.2, float("nan"))}, "expected finite numbers above 0"),
        ({"mean": (0.1, float("inf"), 0.0)}, "expected finite numbers"),
        ({"mean": (0.1,)}, "1 numbers in mean and 3 in std"),
        ({"mean": (), "std": ()}, "0 numbers in mean and 0 in std"),
        ({"classes": 1}, "classes = 1, expected at least 2"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=sentence):
        ResNet20(**settings)
    with pytest.raises(SuiteError, match=sentence):
        from_settings({"name": "resnet20", **settings})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "wide-resnet", "depth": 18}, r"depth = 18, width = 8, expected a depth of 6 n \+ 4"),
        ({"name": "wide-resnet", "width": 0}, "a width of at least 1"),
        ({"name": "preresnet", "depth": 100}, r"found depth = 100, expected 9 n \+ 2"),
        ({"name": "preresnet", "depth": 2}, "found depth = 2"),
        ({"name": "timm"}, "model timm: the key 'model' is missing"),
    ],
)
def test_impossible_depths_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=sentence):
        from_settings(settings)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_settings_of_every_architecture_build_it_again(name: str, vit_folder: Path) -> None:
    settings = {"model": str(vit_folder)} if name == "hf" else REFERENCES.get(name, {})
    built = from_settings({"name": name, **settings})
    table = to_settings(built)
    assert table["name"] == name
    assert from_settings(json.loads(json.dumps(table))) == built


def test_settings_of_a_stranger_are_refused() -> None:
    class Stranger(SmallCNN):
        pass

    with pytest.raises(SuiteError, match="Stranger: it is not registered"):
        to_settings(Stranger())


def test_skipped_layers_pass_their_input_on() -> None:
    dense = from_settings({"name": "resnet20"})
    layers = ("layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2")
    block = unwrap_model(build_model(dataclasses.replace(dense, bypass=layers))).get_submodule("layer1.0")
    maps = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(maps), 2 * maps)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (
            "layer1.0.conv3",
            r"no layer 'layer1.0.conv3': did you mean 'layer1.0.conv\d' or .* It has conv1, bn1",
        ),
        ("layer1.0", "no layer 'layer1.0'"),
        ("", "no layer ''"),
    ],
)
def test_skipping_what_is_no_layer_is_refused(layer: str, sentence: str) -> None:
    with pytest.raises(SuiteError, match=sentence):
        build_model(ResNet20(bypass=(layer,)))


@pytest.mark.parametrize("widths", [(1, 2, 3), (8, 8, 0, 8)])
def test_bad_widths_are_refused(widths: Any) -> None:
    with pytest.raises(SuiteError, match="four numbers of at least 1"):
        SmallCNN(widths=widths).network()


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({}, SuiteError, "found name = None, expected one of .*small-cnn"),
        ({"name": "resnet21"}, UnknownNameError, "unknown model 'resnet21': did you mean 'resnet"),
        (
            {"name": "resnet20", "shortcuts": "A"},
            SuiteError,
            "unknown key of model resnet20 'shortcuts': did you",
        ),
        (
            {"name": "resnet20", "shortcut": "C"},
            SuiteError,
            "key 'shortcut': found 'C', expected 'A' or 'B'",
        ),
        ({"name": "resnet20", "classes": "ten"}, SuiteError, "key 'classes': found 'ten'"),
        ({"name": "small-cnn", "widths": [1, 2]}, SuiteError, "key 'widths.2'"),
        ({"name": "resnet20", "depth": 32}, SuiteError, "unknown key of model resnet20 'depth'"),
    ],
)
def test_bad_tables_are_refused(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        from_settings(settings)


def test_a_table_gives_the_same_record_as_its_class() -> None:
    table = {"name": "small-cnn", "classes": 5, "widths": [8, 8, 8, 8], "mean": [0, 0, 0]}
    assert from_settings(table) == SmallCNN(classes=5, widths=(8, 8, 8, 8), mean=(0.0, 0.0, 0.0))


def test_architecture_is_abstract_and_frozen(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        Architecture()  # type: ignore[abstract]  # the point of the test
    with pytest.raises(AttributeError):
        ResNet20().classes = 3  # type: ignore[misc]  # the point of the test
    assert not build("small-cnn").training
