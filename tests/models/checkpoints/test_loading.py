"""Weights that other tools pruned, saved their usual ways, against the network that the tool itself holds."""

from __future__ import annotations

import collections
import copy
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import Architecture, build_model, unwrap_model
from evalsuite.models.architectures.preresnet import PreResNet
from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import key_note, load_weights, read_weights
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.surgery.channel_removal import channel_groups, remove_channels

if TYPE_CHECKING:
    from pathlib import Path

Build = Callable[..., nn.Module]
Cut = Callable[..., None]
SHAPE = (3, 32, 32)

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("resnet20", {"shortcut": "B"}),
    ("vgg16-bn", {}),
    ("wide-resnet", {"depth": 10, "width": 2}),
    ("densenet22", {}),
    ("preresnet", {"depth": 20, "selection": False}),
    ("resnet2b", {}),
    ("torchvision:resnet18", {}),
    ("torchvision:mobilenet_v2", {}),  # depthwise
    ("torchvision:resnext50_32x4d", {}),  # grouped
    ("torchvision:squeezenet1_1", {}),  # concatenation, a convolution as head
    ("timm:resnet10t", {}),
]

WAYS: dict[str, Callable[[Mapping[str, Tensor]], object]] = {
    "bare": dict,
    "wrapped": lambda weights: {"epoch": 3, "state_dict": dict(weights), "optimizer": {"lr": 0.1}},
    "parallel": lambda weights: {"model": {f"module.{name}": tensor for name, tensor in weights.items()}},
    "double": lambda weights: {n: t.double() if t.is_floating_point() else t for n, t in weights.items()},
}


@pytest.mark.parametrize(("reference", "settings"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_what_torch_pruning_shrunk_loads_by_its_shapes(
    build: Build, torch_pruned: Cut, tmp_path: Path, reference: str, settings: dict[str, Any]
) -> None:
    chosen = architecture_from_uri(reference, classes=11, **settings)
    model = build(reference, classes=11, **settings)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    torch_pruned(unwrap_model(model), 11, shared=reference == "resnet20", ratio=0.5)
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.6 * parameters
    torch.save(unwrap_model(model).eval().state_dict(), tmp_path / "pruned.pt")
    again = load_candidate(tmp_path / "pruned.pt", chosen, image_shape=SHAPE)
    images = torch.rand(4, *SHAPE)
    with torch.inference_mode():
        expected = model(images)
        assert expected.std() > 1e-4
        assert (again(images) - expected).abs().max() <= 1e-5
    assert str(unwrap_model(again)) == str(unwrap_model(model))  # in_channels, groups and the like, too


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("amount", [0.3, 0.9])
def test_ways_to_save_a_shrunk_network(
    build: Build, torch_pruned: Cut, tmp_path: Path, way: str, amount: float
) -> None:
    model = build("resnet20", shortcut="B")
    torch_pruned(unwrap_model(model), 10, shared=False, ratio=amount)
    torch.save(WAYS[way](unwrap_model(model).eval().state_dict()), tmp_path / "pruned.pth.tar")
    again = load_candidate(tmp_path / "pruned.pth.tar", ResNet20(shortcut="B"), image_shape=SHAPE)
    images = torch.rand(4, *SHAPE)
    with torch.inference_mode():
        assert (again(images) - model(images)).abs().max() <= 1e-5
    save_model(again, {"name": "resnet20", "shortcut": "B"}, tmp_path / "again.safetensors")
    stored = load_model({"name": "resnet20", "shortcut": "B"}, tmp_path / "again.safetensors")
    with torch.inference_mode():
        assert torch.equal(stored(images), again(images))


MASKS: dict[str, Callable[[nn.Module], object]] = {
    "single weights": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.7),  # type: ignore[no-untyped-call]
    "channels": lambda layer: prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0),  # type: ignore[no-untyped-call]
    "twice": lambda layer: [prune.random_unstructured(layer, "weight", amount=0.4) for _ in range(2)],  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("removed", [False, True], ids=["masks kept", "masks removed"])
@pytest.mark.parametrize("mask", MASKS)
def test_what_torch_masked_loads_without_any_difference(
    build: Build, tmp_path: Path, mask: str, removed: bool
) -> None:
    model = build("resnet20")
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            MASKS[mask](layer)
            if removed:
                prune.remove(layer, "weight")  # type: ignore[no-untyped-call]  # torch has no types here
    torch.save({"state_dict": unwrap_model(model).state_dict()}, tmp_path / "masked.pt")
    again = load_candidate(tmp_path / "masked.pt", ResNet20(), image_shape=SHAPE)
    images = torch.rand(4, *SHAPE)
    with torch.inference_mode():
        assert (again(images) - model(images)).abs().max() == 0
    zeros = sum(int((parameter == 0).sum()) for parameter in again.parameters())
    assert zeros > 0.3 * sum(parameter.numel() for parameter in again.parameters())


def slimmed(model: nn.Module) -> tuple[dict[str, Tensor], nn.Module]:
    """A network without some channels, as network slimming writes it, and its twin whose channels are zero.

    Channels behind the residual stream are left out by a selection, those inside the blocks are cut.
    """
    draw = torch.Generator().manual_seed(0)
    keep = {
        group.conv: torch.arange(1, group.channels, 2)
        for group in channel_groups(model)
        if ".layer" in group.conv
    }
    twin = copy.deepcopy(model)
    smaller = remove_channels(model, keep)
    with torch.no_grad():
        for name, channels in keep.items():
            group = next(group for group in channel_groups(twin) if group.conv == name)
            dead = torch.ones(group.channels, dtype=torch.bool)
            dead[channels] = False
            for norm in group.norms:
                twin.get_parameter(f"{norm.name}.weight")[dead] = 0
                twin.get_parameter(f"{norm.name}.bias")[dead] = 0
    weights = dict(unwrap_model(smaller).state_dict())
    for name in [name for name in weights if name.endswith("select.indexes")]:
        place = name.removesuffix("select.indexes")
        chosen = torch.rand(len(weights[name]), generator=draw) < 0.6
        weights[name] = chosen.float()
        reader = f"{place}conv1.weight" if place else "fc.weight"
        weights[reader] = weights[reader][:, chosen]
        twins = unwrap_model(twin).get_submodule(f"{place}bn1" if place else "bn")
        with torch.no_grad():
            for parameter in twins.parameters():
                parameter[~chosen] = 0
    return weights, twin


def test_what_network_slimming_left_loads_by_its_selection(build: Build, tmp_path: Path) -> None:
    weights, twin = slimmed(build("preresnet", depth=20))
    widths = [tensor.shape[1] for name, tensor in weights.items() if name.endswith("conv1.weight")]
    torch.save({"cfg": widths, "state_dict": weights}, tmp_path / "pruned.pth.tar")
    again = load_candidate(tmp_path / "pruned.pth.tar", PreResNet(depth=20), image_shape=SHAPE)
    images = torch.rand(4, *SHAPE)
    with torch.inference_mode():
        expected = twin(images)
        torch.testing.assert_close(again(images), expected, rtol=1e-4, atol=1e-5)
    table = {"name": "preresnet", "depth": 20}
    save_model(again, table, tmp_path / "again.safetensors")
    stored = load_model(table, tmp_path / "again.safetensors")
    with torch.inference_mode():
        assert torch.equal(stored(images), again(images))


def cut(
    weights: dict[str, Tensor], name: str, *, rows: int | None = None, columns: int | None = None
) -> None:
    weights[name] = weights[name][:rows] if columns is None else weights[name][:rows, :columns]


def cut_layer(weights: dict[str, Tensor], conv: str, norm: str, rows: int) -> None:
    for name in [f"{conv}.weight", *(name for name in weights if name.startswith(f"{norm}."))]:
        if weights[name].dim():
            cut(weights, name, rows=rows)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda w: cut_layer(w, "layer1.0.conv1", "layer1.0.bn1", 7),
            r"layer1\.0\.conv2 takes 16 channels, but 7 arrive from layer1\.0\.bn1; expected a network of this",
        ),
        (
            lambda w: cut(w, "layer3.2.conv1.weight", rows=60),
            r"layer3\.2\.bn1 takes 64 channels, but 60 arrive from layer3\.2\.conv1",
        ),
        (
            lambda w: cut(w, "linear.weight", columns=63),
            r"linear takes 63 channels, but 64 arrive from layer3;",
        ),
        (
            lambda w: cut_layer(w, "layer1.1.conv2", "layer1.1.bn2", 12),
            r"fails on images of 3x32x32 in layer1\.1, behind layer1\.1\.\w+ \(The size of tensor a \(12\)",
        ),
        (
            lambda w: cut(w, "conv1.weight", columns=1),
            "conv1 takes 1 channels, but 3 arrive from the images",
        ),
        (
            lambda w: w.update({"conv1.weight": torch.zeros(16, 3, 5, 5)}),
            r"of another shape: conv1\.weight \(file \(16, 3, 5, 5\), model \(16, 3, 3, 3\)\)",
        ),
        (lambda w: w.update({"conv1.weight": torch.zeros(0, 3, 3, 3)}), r"of another shape: conv1\.weight"),
        (lambda w: w.update({"bn1.weight": torch.zeros(())}), r"of another shape: bn1\.weight"),
        (lambda w: w.pop("layer2.0.bn1.bias"), r"missing: layer2\.0\.bn1\.bias"),
        (
            lambda w: w.update({"linear.weight": torch.zeros(100, 64), "linear.bias": torch.zeros(100)}),
            "has 100 classes, the model has 10",
        ),
    ],
)
def test_widths_that_do_not_fit_are_refused_by_name(
    build: Build, change: Callable[[dict[str, Tensor]], object], sentence: str
) -> None:
    weights = dict(unwrap_model(build("resnet20", shortcut="B")).state_dict())
    change(weights)
    with pytest.raises(CheckpointError, match=sentence):
        load_candidate(weights, ResNet20(shortcut="B"), image_shape=SHAPE)


def test_zero_padding_shortcuts_refuse_what_torch_pruning_makes_of_them(
    build: Build, torch_pruned: Cut
) -> None:
    model = build("resnet20", shortcut="A")
    torch_pruned(unwrap_model(model), 10, shared=False, ratio=0.5)
    with pytest.raises(CheckpointError, match="linear takes 32 channels, but 56 arrive from layer3"):
        load_candidate(unwrap_model(model).state_dict(), ResNet20(), image_shape=SHAPE)


def test_images_that_the_network_does_not_take_are_named(build: Build) -> None:
    weights = build("vgg16-bn").state_dict()
    with pytest.raises(CheckpointError, match=r"fails on images of 3x16x16 in features\.43"):
        load_candidate(weights, architecture_from_uri("vgg16-bn"), image_shape=(3, 16, 16))
    with pytest.raises(CheckpointError, match=r"takes images of 3 channels .* the data set have 1"):
        load_candidate(weights, architecture_from_uri("vgg16-bn"), image_shape=(1, 32, 32))


class Wrong(nn.Module):
    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> object:
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "returned"),
    [
        (lambda x: x.new_zeros(len(x), 11), r"\(2, 11\)"),
        (lambda x: x.new_zeros(1, 10), r"\(1, 10\)"),
        (lambda _: {}, "dict"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(answer: Callable[[Tensor], object], returned: str) -> None:
    class Planted(Architecture):
        def network(self) -> nn.Module:
            return Wrong(answer)

    with pytest.raises(
        CheckpointError, match=rf"returns {returned} for 2 images of 3x32x32, expected logits \(2, 10\)"
    ):
        load_candidate({"weight": torch.ones(1)}, Planted(), image_shape=SHAPE)


def test_loading_leaves_random_numbers_weights_and_hooks_alone(build: Build) -> None:
    weights = build("resnet20").state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    state = torch.random.get_rng_state()
    model = load_candidate(weights, ResNet20(), image_shape=SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.get_buffer("network.bn1.num_batches_tracked") == 0  # the proof has not trained anything


def test_networks_that_ask_for_the_version_of_their_layout_load(tmp_path: Path) -> None:
    chosen = architecture_from_uri("torchvision:mnasnet0_5")
    torch.manual_seed(0)
    network = unwrap_model(build_model(chosen)).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    model = load_candidate(tmp_path / "w.pt", chosen, image_shape=(3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(unwrap_model(model)(images), network(images))


def test_a_file_and_its_tensors_are_the_same(build: Build, tmp_path: Path) -> None:
    torch.save(build("resnet20").state_dict(), tmp_path / "w.pt")
    images = torch.rand(2, *SHAPE)
    outputs = [
        load_candidate(source, ResNet20(), image_shape=SHAPE)(images)
        for source in (tmp_path / "w.pt", read_weights(tmp_path / "w.pt"))
    ]
    assert torch.equal(*outputs)


SMALL = {
    "conv.weight": (4, 3, 3, 3),
    "bn.weight": (4,),
    "bn.bias": (4,),
    "fc.weight": (2, 4),
    "fc.bias": (2,),
}
SMALL |= {"bn.running_mean": (4,), "bn.running_var": (4,)}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2)


def small_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SMALL.items()}
    return {**weights, "bn.num_batches_tracked": torch.tensor(3)}


def renamed(weights: dict[str, Tensor], change: Callable[[str], str]) -> dict[str, Tensor]:
    return {change(key): tensor for key, tensor in weights.items()}


ONE = torch.ones(1)
WHOLE: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "thop": (lambda w: {**w, "total_ops": ONE, "conv.total_params": ONE.double()}, "2 tensors .*total_ops"),
    "apex": (lambda w: {**w, "conv.__weight_mma_mask": torch.ones(4, 3, 3, 3).bool()}, "__weight_mma_mask"),
    "lightning": (
        lambda w: {**renamed(w, "model.{}".format), "criterion.weight": ONE, "train_acc.tp": ONE},
        "criterion",
    ),
    "ptflops": (lambda w: {**w, "__flops__": ONE, "conv.__params__": ONE}, "2 tensors .*__flops__"),
    "one count": (lambda w: {**w, "conv.total_ops": ONE}, "^1 tensors that"),
    "lightning's template": (
        lambda w: {
            **renamed(w, "net.{}".format),
            **dict.fromkeys(("loss_function.pos_weight", "val_acc_best.value", "test_recall.tp", "cm.confmat"), ONE),
        },
        "4 tensors .*val_acc_best",
    ),
    "numbers of the training": (
        lambda w: {**w, "best_acc1": torch.tensor(0.7), "epoch": torch.tensor(3), "lr": ONE},
        "3 tensors .*best_acc1, epoch, lr",
    ),
    "distillation by letters": (
        lambda w: {**renamed(w, "model_s.{}".format), "model_t.fc.weight": ONE},
        "taken from model_s.* and 1 tensors",
    ),
    "an average of some weights": (lambda w: {**w, "model_ema.fcweight": ONE, "model_ema.decay": ONE}, "model_ema"),
    "own wrapper": (lambda w: {**renamed(w, "mine.{}".format), "loss.weight": ONE}, "taken from mine"),
    "distillation": (lambda w: {**renamed(w, "student.{}".format), "teacher.fc.weight": ONE}, "teacher"),
    "backbone": (lambda w: renamed(w, "backbone.{}".format), ""),
    "timm": (lambda w: renamed(w, "timm_model.{}".format), ""),
    "inside": (lambda w: renamed(w, lambda key: key.replace("conv.", "conv.module.")), ""),
    "counters": (lambda w: {k: v.float().view(1) if k.endswith("tracked") else v for k, v in w.items()}, ""),
    "beside a number": (lambda w: {"acc": torch.tensor(0.7), "weights_of_best": w}, ""),
    "a list": (lambda w: [w], ""),
    "defaultdict": (lambda w: {"state_dict": collections.defaultdict(list, w)}, ""),  # type: ignore[arg-type]  # the type of values that are not there
}  # fmt: skip


@pytest.mark.parametrize(("content", "note"), WHOLE.values(), ids=WHOLE)
def test_whole_weights_load_whatever_lies_beside_them(
    tmp_path: Path, content: Callable[[dict[str, Tensor]], object], note: str
) -> None:
    torch.save(content(small_weights()), tmp_path / "w.pt")
    weights, network = read_weights(tmp_path / "w.pt"), Small()
    load_weights(network, weights)
    expected = small_weights()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert re.search(note, key_note(weights, network)) if note else not key_note(weights, network)


@pytest.mark.parametrize(
    "content",
    [
        {
            **small_weights(),
            "layer2.weight": torch.ones(4, 4),
        },  # a deeper network, which fits by its first layers
        {**renamed(small_weights(), "a.{}".format), **renamed(small_weights(), "b.{}".format)},
        {**renamed(small_weights(), "a.{}".format), "data_preprocessor.mean": ONE},
        {**small_weights(), "mean": ONE},
        {**small_weights(), "t_embedder.weight": ONE, "step_size": ONE},
    ],
    ids=["deeper", "two networks", "preprocessing", "own mean", "words like others"],
)
def test_what_a_forward_pass_may_read_is_not_ignored(content: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load_weights(Small(), content)


QUANTISED = {
    "bitsandbytes": {"fc.weight": torch.ones(2, 4, dtype=torch.int8), "fc.SCB": torch.ones(2)},
    "GPTQ": {"fc.qweight": torch.ones(1, 2, dtype=torch.int32), "fc.scales": torch.ones(1, 2)},
    "levels of ONNX": {"conv.weight": torch.ones(4, 3, 3, 3, dtype=torch.uint8)},
}


@pytest.mark.parametrize("library", QUANTISED)
def test_quantised_weights_are_called_so(library: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"the weights are quantised: (fc|conv)\.q?weight holds levels of u?int"
    ):
        load_weights(Small(), {**small_weights(), **QUANTISED[library]})
    with pytest.raises(CheckpointError, match=r"of another kind of number: fc\.weight"):
        load_weights(Small(), {**small_weights(), "fc.weight": torch.ones(2, 4, dtype=torch.int64)})
