from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints import WRAPPERS, load_weights, matched, read_weights
from evalsuite.models.resnet import ResNet20

if TYPE_CHECKING:
    from pathlib import Path

Build = Callable[..., nn.Module]
WEIGHTS = {"conv.weight": torch.arange(8.0).view(2, 1, 2, 2), "bn.num_batches_tracked": torch.tensor(3)}


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def saved(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor] = WEIGHTS) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_are_stripped(tmp_path: Path, prefix: str) -> None:
    content = {f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()}
    assert same(read_weights(saved(content, tmp_path / "w.pt")))


def test_a_prefix_that_not_all_have_is_part_of_the_names(tmp_path: Path) -> None:
    content = {"module.weight": torch.ones(1), "other.weight": torch.ones(1)}
    assert same(read_weights(saved(content, tmp_path / "w.pt")), content)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_safetensors_are_known_by_content(tmp_path: Path, name: str) -> None:
    save_file({f"module.{key}": tensor for key, tensor in WEIGHTS.items()}, tmp_path / name)
    assert same(read_weights(tmp_path / name))


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    found = read_weights(saved({"a": nn.Parameter(torch.ones(2))}, tmp_path / "w.pt"))
    assert type(found["a"]) is Tensor
    assert not found["a"].requires_grad


def test_a_planted_pickle_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for legacy in (False, True):
        path = saved({"state_dict": WEIGHTS, "x": Planted(proof)}, tmp_path / "w.pt", legacy=legacy)
        with pytest.raises(CheckpointError, match=r"wants to run io.open.*where you trust it"):
            read_weights(path)
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Planted(proof)))
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "bare.pkl")
    assert not proof.exists()


def test_a_blocked_module_is_named(tmp_path: Path) -> None:
    class Shell:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    with pytest.raises(CheckpointError, match=r"wants to run \w+\.system"):
        read_weights(saved(Shell(), tmp_path / "w.pt"))


def test_a_whole_model_is_refused_and_loads_after_the_advice(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    path = saved(network, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"wants to run torch.nn.*checkpoint.state_dict\(\)"):
        read_weights(path)
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint.state_dict(), path)
    assert same(read_weights(path), network.state_dict())


def test_a_whole_program_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "w.pt2")
    with pytest.raises(CheckpointError, match="is a whole program"):
        read_weights(tmp_path / "w.pt2")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    program = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))  # type: ignore[no-untyped-call]  # torch's
    torch.jit.save(program, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="is a whole program"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            {},
            r"found a dictionary without tensors \(keys: none\), expected a state dict .* one of state_dict",
        ),
        ({"epoch": 1, "arch": "x"}, r"keys: epoch, arch\)"),
        ({"state_dict": {}}, r"without tensors \(keys: none\)"),
        ({"state_dict": {"a": 1, "b": 2, "c": 3, "d": 4}}, r"keys: a, b, c and 1 more\)"),
        ([torch.ones(1)], "found a list"),
        (torch.ones(1), "found a Tensor"),
        ({0: torch.ones(1)}, "without tensors"),
        ({"a": torch.tensor([1.0, float("nan"), float("inf")])}, "a holds 2 NaN or infinite values of 3"),
        ({"a": torch.tensor([float("-inf")], dtype=torch.float16)}, "a holds 1 NaN or infinite values of 1"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is a torch.strided tensor of torch.complex64"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is a torch.sparse_coo tensor"),
        ({"a": torch.ones(2, device="meta")}, "expected dense real numbers"),
    ],
)
def test_what_is_no_weights_is_refused(tmp_path: Path, content: object, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        read_weights(saved(content, tmp_path / "w.pt"))


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"w\.pt: found no such file"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="found a directory"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@given(share=st.floats(0, 0.999))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    else:
        saved(WEIGHTS, path, legacy=kind == "legacy")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    half_a_name = "|wants to run" if kind == "legacy" else ""  # the old format may end inside a class's name
    with pytest.raises(CheckpointError, match="truncated, damaged or of another format" + half_a_name):
        read_weights(path)


@given(noise=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(noise)
    with pytest.raises(CheckpointError):
        read_weights(path)


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


def test_an_alias_never_hides_a_key() -> None:
    weights = {"fc.bias": torch.zeros(1), "linear.bias": torch.ones(1)}
    assert same(matched(weights, ["linear.bias"]), weights)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("conv1.weight"), "missing: conv1.weight;"),
        (lambda w: w.update({"extra.weight": torch.ones(1)}), "unexpected: extra.weight;"),
        (
            lambda w: w.update({"linear.weight": torch.ones(100, 64)}),
            r"of another shape: linear.weight \(file \(100, 64\), model \(10, 64\)\)",
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
