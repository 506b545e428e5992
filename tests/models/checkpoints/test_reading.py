from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.checkpoints.reading import (
    check_class_count,
    load_weights,
    read_checkpoint,
    read_weights,
)
from evalsuite.models.checkpoints.state_dict_keys import WRAPPERS, match_keys

if TYPE_CHECKING:
    from pathlib import Path

Build = Callable[..., nn.Module]
WEIGHTS = {"conv.weight": torch.arange(8.0).view(2, 1, 2, 2), "bn.num_batches_tracked": torch.tensor(3)}


def saved(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(actual: dict[str, Tensor], expected: dict[str, Tensor] = WEIGHTS) -> bool:
    return actual.keys() == expected.keys() and all(
        torch.equal(actual[name], expected[name]) for name in actual
    )


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
@pytest.mark.parametrize("legacy", [False, True])
def test_wrappers_are_opened_and_what_lies_beside_is_left(
    tmp_path: Path, wrapper: str | None, legacy: bool
) -> None:
    extra = {"epoch": 3, "best": torch.tensor(91.0), "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    content = WEIGHTS if wrapper is None else {**extra, wrapper: OrderedDict(WEIGHTS)}
    assert same(read_weights(saved(content, tmp_path / "w.pth.tar", legacy=legacy)))


def test_wrappers_in_wrappers_are_opened(tmp_path: Path) -> None:
    assert same(read_weights(saved({"model": {"state_dict": WEIGHTS}}, tmp_path / "w.pt")))


def test_a_wrapper_without_tensors_is_passed_over(tmp_path: Path) -> None:
    content = {"state_dict": {}, "model": {"name": "resnet20"}, "ema": WEIGHTS}
    assert read_checkpoint(saved(content, tmp_path / "w.pt")).wrapper == "ema"


def test_weights_come_before_their_average(tmp_path: Path) -> None:
    content = {"model_ema": {"a": torch.zeros(1)}, "model": WEIGHTS}
    assert same(read_weights(saved(content, tmp_path / "w.pt")))


def test_a_dictionary_that_contains_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content.update(dict.fromkeys(WRAPPERS, content))
    with pytest.raises(CheckpointError, match="a dictionary without tensors"):
        read_weights(saved(content, tmp_path / "w.pt"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "network."])
@pytest.mark.parametrize("second", ["", "module.", "_orig_mod.", "model."])
def test_prefixes_are_stripped(tmp_path: Path, prefix: str, second: str) -> None:
    content = {f"{prefix}{second}{name}": tensor for name, tensor in WEIGHTS.items()}
    checkpoint = read_checkpoint(saved(content, tmp_path / "w.pt"))
    assert same(checkpoint.weights)
    assert checkpoint.prefix == prefix + second


def test_what_wrapped_modules_leave_inside_keys_goes(tmp_path: Path) -> None:
    content = {"conv._orig_mod.weight": WEIGHTS["conv.weight"], "bn.num_batches_tracked": torch.tensor(3)}
    assert same(read_weights(saved(content, tmp_path / "w.pt")))
    twice = {"conv._orig_mod.weight": torch.ones(1), "conv.weight": torch.zeros(1)}
    assert same(read_weights(saved(twice, tmp_path / "w.pt")), twice)


def test_an_averaged_model_loses_its_counter(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    assert "n_averaged" in averaged.state_dict()
    tensors = read_weights(saved(averaged.state_dict(), tmp_path / "w.pt"))
    assert same(tensors, averaged.module.state_dict())


def test_a_compiled_parallel_network_loads(tmp_path: Path, build: Build) -> None:
    source, images = build("small-cnn", seed=1), torch.rand(2, 3, 32, 32)
    compiled = torch.compile(source.get_submodule("network"))
    assert isinstance(compiled, nn.Module)
    wrapped = nn.DataParallel(compiled)
    path = saved({"model_state_dict": wrapped.state_dict(), "epoch": 1}, tmp_path / "w.pt")
    assert read_checkpoint(path).prefix == "module._orig_mod."
    model = build("small-cnn", seed=2)
    load_weights(model, read_weights(path))
    assert torch.equal(model(images), source(images))


def test_a_prefix_that_not_all_have_is_part_of_the_names(tmp_path: Path) -> None:
    content = {"module.weight": torch.ones(1), "other.weight": torch.ones(1)}
    assert same(read_weights(saved(content, tmp_path / "w.pt")), content)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_safetensors_are_known_by_content(tmp_path: Path, name: str) -> None:
    save_file({f"module.{key}": tensor for key, tensor in WEIGHTS.items()}, tmp_path / name)
    assert same(read_weights(tmp_path / name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_narrow_numbers_are_widened(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    weights = {"a": torch.tensor([0.1, -3.0, 0.0]).to(dtype), "n": torch.tensor(7)}
    path = tmp_path / name
    save_file(weights, path) if name == "w.safetensors" else saved(weights, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.weights["a"].dtype == torch.float32
    assert torch.equal(checkpoint.weights["a"], weights["a"].float())
    assert checkpoint.weights["n"].dtype == torch.int64
    assert checkpoint.dtypes == {str(dtype).removeprefix("torch."): 1, "int64": 1}


def test_double_precision_stays(tmp_path: Path) -> None:
    tensors = read_weights(saved({"a": torch.tensor([0.1], dtype=torch.float64)}, tmp_path / "w.pt"))
    assert tensors["a"].dtype == torch.float64


def test_the_format_of_the_file_is_recorded(tmp_path: Path) -> None:
    content = {"epoch": 3, "net": {"model": {f"module.{k}": t for k, t in WEIGHTS.items()}}, "optimizer": {}}
    checkpoint = read_checkpoint(saved(content, tmp_path / "w.pt", legacy=True))
    assert (checkpoint.format, checkpoint.wrapper, checkpoint.prefix) == (
        "torch legacy",
        "net.model",
        "module.",
    )
    assert (checkpoint.extras, checkpoint.folded) == (("epoch", "optimizer"), ())
    assert checkpoint.dtypes == {"float32": 1, "int64": 1}
    bare = read_checkpoint(saved({**WEIGHTS, "epoch": 3}, tmp_path / "w.pt"))
    assert (bare.format, bare.wrapper, bare.prefix, bare.extras) == ("torch zip", "", "", ("epoch",))


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    tensors = read_weights(saved({"a": nn.Parameter(torch.ones(2))}, tmp_path / "w.pt"))
    assert type(tensors["a"]) is Tensor
    assert not tensors["a"].requires_grad


def test_weights_of_the_published_naming_load(build: Build) -> None:
    model, source = build("resnet20", shortcut="B", seed=1), build("resnet20", shortcut="B", seed=2)
    weights = {
        name.replace("linear", "fc").replace("shortcut", "downsample"): tensor
        for name, tensor in source.get_submodule("network").state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "layer2.0.downsample.1.weight" in weights
    load_weights(model, weights)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), source(images))


def test_a_state_dict_of_an_assembled_model_loads_into_network_and_model(build: Build) -> None:
    source, images = build("small-cnn", seed=1), torch.rand(2, 3, 32, 32)
    model = build("small-cnn", seed=2)
    load_weights(model, source.state_dict())
    assert torch.equal(model(images), source(images))
    load_weights(build("small-cnn", seed=3).get_submodule("network"), source.state_dict())


def test_half_precision_is_widened(build: Build) -> None:
    model = build("small-cnn")
    weights = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    load_weights(model, weights)
    weight = model.get_parameter("network.linear.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, weights["network.linear.weight"].float())


def test_classes_are_compared_under_other_names_before_any_resizing(build: Build) -> None:
    model = build("resnet20", classes=10)
    check_class_count(model, {"module.fc.weight": torch.ones(10, 7)})
    check_class_count(model, {"conv1.weight": torch.ones(100, 7)})
    with pytest.raises(CheckpointError, match="has 100 classes, the model has 10"):
        check_class_count(model, {"module.fc.weight": torch.ones(100, 7)})


def test_prefixes_of_a_model_are_no_obstacle() -> None:
    weights = {"module.bias": torch.ones(1), "module.weight": torch.zeros(1)}
    assert match_keys(weights, ["model.bias", "model.weight"]).keys() == {"model.bias", "model.weight"}
    assert match_keys(weights, ["bias", "weight"]).keys() == {"bias", "weight"}


def test_an_alias_never_hides_a_key() -> None:
    weights = {"fc.bias": torch.zeros(1), "linear.bias": torch.ones(1)}
    assert same(match_keys(weights, ["linear.bias"]), weights)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("conv1.weight"), "missing: conv1.weight;"),
        (lambda w: w.update({"extra.weight": torch.ones(1)}), "unexpected: extra.weight;"),
        (
            lambda w: w.update({"linear.weight": torch.ones(100, 64)}),
            r"the head linear.weight in the file has 100 classes, the model has 10 as the data set",
        ),
        (
            lambda w: w.update({"linear.weight": torch.ones(10, 32)}),
            r"of another shape: linear.weight \(file \(10, 32\), model \(10, 64\)\)",
        ),
        (
            lambda w: w.update({"conv1.weight": torch.ones(16, 3, 3, 3, dtype=torch.int64)}),
            r"another kind of number: conv1.weight \(file torch.int64, model torch.float32\)",
        ),
        (lambda w: w.clear(), r"missing: conv1.weight, bn1.weight, bn1.bias and \d+ more;"),
        (lambda w: w.pop("bn1.running_mean"), "missing: bn1.running_mean;"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(
    change: Callable[[dict[str, Tensor]], object], sentence: str
) -> None:
    network = ResNet20().network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    change(weights)
    with pytest.raises(CheckpointError, match=sentence):
        load_weights(network, weights)
    assert same(network.state_dict(), before)
