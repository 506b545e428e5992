from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import SuiteError, UnknownNameError
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.settings import from_settings, to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.architecture_detection import without_memory

NETWORK = """
from torch import nn
RUNS = []
class Flat(nn.Module):
    def __init__(self, num_classes=4, width=8):
        super().__init__()
        self.hidden = nn.Linear(3 * 32 * 32, width)
        self.head = nn.Linear(width, num_classes)
    def forward(self, x):
        return self.head(self.hidden(x.flatten(1)))
def flat(n_classes):
    RUNS.append(n_classes)
    return Flat(n_classes)
def fixed():
    return Flat(5)
def number():
    return 3
def broken():
    raise ValueError("no such width")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(NETWORK)
    return path


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_registered_names_with_and_without_their_scheme() -> None:
    for reference in ("resnet20", "evalsuite:resnet20"):
        architecture = architecture_from_uri(reference, shortcut="B", classes=7)
        assert to_settings(architecture) == to_settings(
            from_settings({"name": "resnet20", "shortcut": "B", "classes": 7})
        )


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_torchvision_builds_with_transform_input_for_its_weights_have_it(name: str) -> None:
    uri = f"torchvision:{name}"
    assert bool(without_memory(uri, {"classes": 7}).transform_input)
    (note,) = architecture_from_uri(uri, classes=7).notes()
    assert "options.transform_input=false" in note
    plain = {"classes": 7, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    for settings in (plain, {"classes": 7, "options": {"transform_input": False}}):
        assert not bool(without_memory(uri, settings).transform_input)
        assert architecture_from_uri(uri, **settings).notes() == ()


def test_torchvision_is_built_by_torchvision() -> None:
    architecture = architecture_from_uri("torchvision:resnet18", classes=7)
    assert architecture.mean == (0.485, 0.456, 0.406)
    assert architecture.std == (0.229, 0.224, 0.225)
    assert shapes(unwrap_model(build_model(architecture))) == shapes(models.resnet18(num_classes=7))


def test_timm_is_built_by_timm_with_its_preprocessing() -> None:
    with quiet_imports():
        import timm
    architecture = architecture_from_uri("timm:resnet10t", classes=7)
    assert shapes(unwrap_model(build_model(architecture))) == shapes(
        timm.create_model("resnet10t", num_classes=7)
    )
    halves = architecture_from_uri(
        "timm:vit_tiny_patch16_224.augreg_in21k", options={"img_size": 32, "patch_size": 4}
    )
    assert (halves.mean, halves.std) == ((0.5,) * 3, (0.5,) * 3)
    grey = architecture_from_uri("timm:resnet10t", mean=[0.5], std=[0.25])
    assert build_model(grey).eval()(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_robustbench_normalises_by_itself() -> None:
    architecture = architecture_from_uri("robustbench:Wong2020Fast")
    assert (architecture.mean, architecture.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (
        architecture_from_uri("robustbench:Wang2023Better_WRN-28-10", dataset="cifar100", classes=100).classes
        == 100
    )


def test_robustbench_finds_the_networks_that_it_asks_timm_for_by_another_name() -> None:
    network = architecture_from_uri("robustbench:Debenedetti2022Light_XCiT-S12").network().eval()
    first = next(tensor for name, tensor in network.named_buffers() if name.endswith("mean"))
    assert first.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_preprocessing_is_the_users_if_given() -> None:
    architecture = architecture_from_uri("torchvision:resnet18", mean=[0.1, 0.2, 0.3], std=[1, 1, 1])
    assert (architecture.mean, architecture.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


def test_options_reach_the_library() -> None:
    architecture = architecture_from_uri(
        "torchvision:resnet18", options={"width_per_group": 64, "replace_stride_with_dilation": None}
    )
    assert json.loads(json.dumps(to_settings(architecture)))["options"]["width_per_group"] == 64
    with pytest.raises(SuiteError, match=r"torchvision:resnet18 cannot be built: TypeError: .*'depth'"):
        build_model(architecture_from_uri("torchvision:resnet18", options={"depth": 3}))


@pytest.mark.parametrize("function", ["Flat", "flat"])
def test_a_user_file_is_run_with_the_number_of_classes(
    file: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    architecture = architecture_from_uri(f"mine.py:{function}", classes=7)
    monkeypatch.chdir("/")
    again = from_settings(to_settings(architecture))  # from elsewhere
    assert build_model(again)(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert (architecture.mean, architecture.std) == ((0.0,) * 3, (1.0,) * 3)


def test_a_function_without_a_parameter_for_classes_gets_none(file: Path) -> None:
    assert build_model(architecture_from_uri(f"{file}:fixed", classes=7))(torch.rand(2, 3, 32, 32)).shape == (
        2,
        5,
    )
    wide = architecture_from_uri(f"{file}:Flat", classes=7, options={"width": 2})
    assert shapes(unwrap_model(build_model(wide)))["head.weight"] == (7, 2)


def test_a_file_runs_once(file: Path) -> None:
    for _ in range(2):
        build_model(architecture_from_uri(f"{file}:flat", classes=3))
    module = next(m for m in [*sys.modules.values()] if getattr(m, "__file__", None) == str(file))
    assert module.RUNS == [3, 3]


def test_a_module_that_is_installed() -> None:
    architecture = architecture_from_uri("torchvision.models:resnet18", options={"num_classes": 7}, classes=7)
    assert shapes(unwrap_model(build_model(architecture))) == shapes(models.resnet18(num_classes=7))


@pytest.mark.parametrize(
    ("reference", "settings", "error", "sentence"),
    [
        ("resnet18", {}, UnknownNameError, r"unknown model 'resnet18': did you mean 'torchvision:resnet18'\?"),
        ("resnet21", {}, UnknownNameError, "unknown model 'resnet21': did you mean 'resnet.*names are known"),
        ("evalsuite:resnet21", {}, UnknownNameError, "unknown model 'resnet21': did you mean"),
        ("torchvision:resnet81", {}, UnknownNameError, "unknown torchvision model 'resnet81': did you mean 'resnet18'"),
        ("torchvision:", {}, UnknownNameError, r"unknown torchvision model '': none of its \d+ is near"),
        ("torchvision:fcn_resnet50", {}, UnknownNameError, "unknown torchvision model"),  # no classifier
        ("timm:resnte18", {}, UnknownNameError, "unknown timm model 'resnte18': did you mean 'resnet18'"),
        ("robustbench:Standad", {}, UnknownNameError, "cifar10 model 'Standad': did you mean 'Standard'"),
        ("robustbench:Standard", {"classes": 100}, SuiteError, "classes = 100, but the zoo's networks for cifar10"),
        ("robustbench:Standard", {"dataset": "svhn"}, SuiteError, "key 'dataset': found 'svhn'"),
        ("torchvision", {}, SuiteError, "expected a name behind a colon, such as torchvision:resnet18"),
        ("mine.py", {}, SuiteError, "expected a name behind a colon, such as mine.py:function"),
        ("mine.py:flat", {}, SuiteError, r"found no file .*mine\.py; expected file\.py:function"),
        ("no.such.package:flat", {}, SuiteError, r"'no\.such\.package' cannot be imported .*torchvision:, timm:"),
        ("torchvison:resnet18", {}, SuiteError, "the module 'torchvison' cannot be imported"),
        (":flat", {}, SuiteError, "the module '' cannot be imported"),
        ("torchvision.models:resnet81", {}, SuiteError, "unknown function 'resnet81': did you mean 'resnet18'"),
        ("torchvision:resnet18", {"depth": 3}, SuiteError, "unknown key of model torchvision 'depth'"),
        ("torchvision:resnet18", {"mean": [0.5]}, SuiteError, "1 numbers in mean and 0 in std"),
        ("torchvision:resnet18", {"mean": [0.5], "std": [0.5]}, SuiteError, "of 1 channels, expected 3"),
        ("resnet20", {"options": {}}, SuiteError, "unknown key of model resnet20 'options'"),
    ],
)  # fmt: skip  # one line each
def test_bad_uris_are_refused(
    reference: str, settings: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        architecture_from_uri(reference, **settings)


def test_functions_that_make_no_network_are_refused(file: Path) -> None:
    with pytest.raises(SuiteError, match=r"mine\.py:number: found a int, expected a torch\.nn\.Module"):
        build_model(architecture_from_uri(f"{file}:number"))
    with pytest.raises(SuiteError, match=r"mine\.py:broken cannot be built: ValueError: no such width"):
        build_model(architecture_from_uri(f"{file}:broken"))
    with pytest.raises(SuiteError, match="unknown function 'flt': did you mean 'flat'"):
        architecture_from_uri(f"{file}:flt")
    with pytest.raises(SuiteError, match="unknown function 'RUNS'"):
        architecture_from_uri(f"{file}:RUNS")
