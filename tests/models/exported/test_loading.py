from __future__ import annotations

import io
import json
import pickle
import resource
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, InvalidModelError
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.exported import loading, torch_probe
from evalsuite.models.exported.loading import TORCH_EXPORT, TORCHSCRIPT, load_program, program_format
from evalsuite.models.exported.program import InputSpec, declared_input_spec
from evalsuite.models.inference import gradient_obstacle, logits, prepare_for_inference

SHAPE = (3, 8, 8)
CPU, CUDA = b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 0}'


class Net(nn.Module):
    """A network with everything that a mode changes, and a view that needs its memory in order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(4 * 64, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.nn.functional.relu(self.norm(self.conv(images)))
        output: torch.Tensor = self.linear(self.drop(maps.view(maps.shape[0], -1)))
        return output


class Answering(nn.Module):
    """Returns what a function makes of the images and logits."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.net = net()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(images, self.net(images))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.get_buffer("running_mean"), std=0.2)
    return model.eval()


def pictures(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(2))


def export(model: nn.Module, path: Path, batch: Any = None, *, count: int = 4, **more: Tensor) -> Path:
    """A program of torch.export; `batch` is a dimension, or ``None`` for exactly `count` images."""
    shapes = None if batch is None else ({0: batch}, *({0: batch} for _ in more))
    program = torch.export.export(model, (pictures(count), *more.values()), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def script(model: nn.Module, path: Path, *, how: str = "script", count: int = 4) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, what people saved with it is not gone
        jit: Any = torch.jit  # without types
        module = jit.trace(model, pictures(count)) if how == "trace" else jit.script(model)
        module = jit.freeze(module) if how == "freeze" else module
        jit.save(module, str(path))
    return path


def gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    asked = images.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(
        nn.functional.cross_entropy(model(asked), torch.zeros(len(images)).long()), asked
    )
    return gradients


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network as every kind of program; the names of the files say nothing."""
    folder = tmp_path_factory.mktemp("saved")
    return {
        "free": export(net(), folder / "free.bin", torch.export.Dim("n")),
        "fixed": export(net(), folder / "fixed.bin"),
        "between": export(net(), folder / "between.bin", torch.export.Dim("n", min=3, max=6)),
        **{how: script(net(), folder / f"{how}.bin", how=how) for how in ("script", "trace", "freeze")},
    }


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("free", (1, None)), ("fixed", (4, 4)), ("between", (3, 6))]
    + [(how, (1, None)) for how in ("script", "trace", "freeze")],
)
def test_programs_have_the_outputs_and_gradients_of_the_network(
    saved: dict[str, Path], kind: str, sizes: tuple[int, int | None]
) -> None:
    model, path = net(), saved[kind]
    program = load_program(path, trust=True, image_shape=SHAPE)
    assert (
        program.format
        == program_format(path)
        == (TORCHSCRIPT if sizes[0] == 1 and kind != "free" else TORCH_EXPORT)
    )
    assert (program.input_spec.min_batch, program.input_spec.max_batch) == sizes
    assert (program.gradient_obstacle, program.training) == ("", False)
    assert (
        program.notes[0]
        == f"The model is a {program.format} program, loaded because the user declared it as trusted."
    )
    assert ("The program takes exactly 4 images at a time." in program.notes) == (kind == "fixed")
    for count in (1, 4, 7, 14):
        images = pictures(count)
        torch.testing.assert_close(program(images), model(images), rtol=0, atol=1e-6)
        torch.testing.assert_close(gradient(program, images), gradient(model, images), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["free", "fixed", "script", "trace", "freeze"])
def test_programs_go_where_networks_go(saved: dict[str, Path], kind: str) -> None:
    """Behind preprocessing, through train() and eval(), copied and prepared, again and again, to the last digit."""
    models = [
        Normalized(inner, mean=[0.5] * 3, std=[0.2] * 3).train().eval()
        for inner in (load_program(saved[kind], trust=True, image_shape=SHAPE), net())
    ]
    assert not any(part.training for part in models[0].modules())
    images = pictures(9).numpy()
    ready = prepare_for_inference(models[0])
    assert ready.model is not models[0]
    assert not gradient_obstacle(ready)
    first = logits(ready, images, batch_size=8)
    np.testing.assert_allclose(first, logits(models[1], images), rtol=1e-5, atol=1e-5)
    for _ in range(4):
        assert np.array_equal(logits(ready, images, batch_size=8), first)


def test_a_model_that_runs_as_it_is_keeps_its_mode() -> None:
    model = Answering(lambda _, logits: logits)
    vars(model)["lock"] = threading.Lock()  # cannot be copied
    assert not prepare_for_inference(model.eval()).training
    assert prepare_for_inference(model.train()).training


def replaced(path: Path, target: Path, old: bytes, new: bytes) -> int:
    """Writes an archive with other words in its tables and returns how many there were."""
    count = 0
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith((".json", "data.pkl")):
                count += content.count(old)
                content = content.replace(old, new)
            elif "sample_inputs" in name:
                inner, moved = io.BytesIO(content), target.with_suffix(".inner")
                with zipfile.ZipFile(inner) as nested, zipfile.ZipFile(moved, "w") as made:
                    for part in nested.namelist():
                        made.writestr(
                            part, nested.read(part).replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
                        )
                content = moved.read_bytes()
            other.writestr(name, content)
    return count


def test_programs_saved_on_a_graphics_card_load_without_one(saved: dict[str, Path], tmp_path: Path) -> None:
    exported, scripted = tmp_path / "cuda.pt2", tmp_path / "cuda.pt"
    assert replaced(saved["free"], exported, CPU, CUDA) > 20
    assert replaced(saved["trace"], scripted, b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0") > 0
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError):
            torch.export.load(exported)
    for path in (exported, scripted):
        program = load_program(path, trust=True, image_shape=SHAPE)
        torch.testing.assert_close(program(pictures(3)), net()(pictures(3)), rtol=0, atol=1e-6)
        assert {weight.device.type for weight in program.parameters()} <= {"cpu"}


def test_a_script_saved_in_training_mode_is_switched(tmp_path: Path) -> None:
    program = load_program(script(net().train(), tmp_path / "training.pt"), trust=True, image_shape=SHAPE)
    torch.testing.assert_close(program(pictures(5)), net()(pictures(5)), rtol=0, atol=1e-6)
    again = prepare_for_inference(program.train())
    torch.testing.assert_close(again(pictures(5)), net()(pictures(5)), rtol=0, atol=1e-6)


def test_half_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(net().half(), (pictures(2).half(),)), tmp_path / "half.pt2")
    for path in (tmp_path / "half.pt2", script(net().half(), tmp_path / "half.pt")):
        program = load_program(path, trust=True, image_shape=SHAPE)
        assert "The program takes its images in float16." in program.notes
        outputs = program(pictures(2))
        assert outputs.dtype == torch.float32
        torch.testing.assert_close(outputs, net()(pictures(2)), rtol=0, atol=0.01)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "exported in training mode": (
        lambda path: export(net().train(), path, torch.export.Dim("n")),
        "returns other logits when run again.*call model.eval",
    ),
    "batch norm in training mode": (
        lambda path: export(nn.Sequential(nn.BatchNorm2d(3).train(), net()), path, torch.export.Dim("n")),
        "returns other logits when run again",
    ),
    "two inputs": (
        lambda path: export(Pair(), path, torch.export.Dim("n"), other=pictures(4)),
        "takes 2 inputs and returns 1 outputs",
    ),
    "two outputs": (lambda path: export(Answering(lambda x, y: (y, x)), path), "takes 1 inputs and returns 2 outputs"),
    "maps": (lambda path: export(nn.Conv2d(3, 4, 1), path), r"returns shape \(4, 4, 8, 8\) for 4 images"),
    "NaN": (lambda path: export(Answering(lambda _, y: y * float("nan")), path), "returns NaN or infinite"),
    "multiples": (
        lambda path: export(net(), path, 4 * torch.export.Dim("n"), count=8),
        r"images in numbers or sizes of 4\*\w+ only",
    ),
    "script of two inputs": (lambda path: script(Pair(), path), r"takes 2 inputs \(images, other\)"),
    "script of a pair": (lambda path: script(Twice(), path), "returns a tuple, expected a tensor"),
    "trace of a batch": (lambda path: script(Stuck(), path, how="trace"), r"returns shape|shape '\[4, -1\]'|invalid"),
}  # fmt: skip


class Pair(nn.Module):
    def forward(self, images: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (images + other).flatten(1)


class Twice(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.flatten(1), images


class Stuck(nn.Module):
    """Reshapes to half as many images of twice the size."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(2, 2 * 192)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classifier_of_images_is_refused(tmp_path: Path, name: str) -> None:
    make, sentence = REFUSED[name]
    path = make(tmp_path / "program.bin")
    with pytest.raises(CheckpointError, match=f"^program {path} .*({sentence})"):
        load_program(path, trust=True, image_shape=SHAPE)


def test_other_images_are_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"takes images of shape \(3, 8, 8\), but those of the data set are \(3, 32, 32\)",
    ):
        load_program(saved["free"], trust=True, image_shape=(3, 32, 32))
    with pytest.raises(CheckpointError, match=r"trace\.bin is truncated, damaged or no TorchScript program"):
        load_program(saved["trace"], trust=True, image_shape=(3, 32, 32))


def test_without_a_size_torchscript_is_not_run_but_still_checked(tmp_path: Path) -> None:
    program = load_program(script(Twice(), tmp_path / "twice.pt"), trust=True)
    with pytest.raises(InvalidModelError, match="the program returns a tuple"):
        program(pictures(2))


class Cut(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.detach().flatten(1)


class Rounded(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * 255).round().flatten(1)


class Infinite(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(0 * images).flatten(1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Cut(), "its operations have none"),
        (Rounded(), "they are zero everywhere"),
        (Infinite(), "they are not finite"),
    ],
)
def test_a_graph_without_gradients_is_recorded_as_such(tmp_path: Path, model: nn.Module, reason: str) -> None:
    program = load_program(script(model, tmp_path / "cut.pt"), trust=True, image_shape=SHAPE)
    assert gradient_obstacle(nn.Sequential(program))
    assert reason in program.gradient_obstacle
    assert program.notes[-1].startswith(f"The model has no gradients (TorchScript: {reason}")


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class EvilScript(nn.Module):
    """A module that creates a file when TorchScript restores its state: no pickle of Python's is needed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, True

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1] and torch.from_file(self.path, True, 8, dtype=torch.uint8).numel() > 9

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def poisoned(path: Path, target: Path, canary: Path) -> None:
    """A program of torch.export whose first weight is a pickle, which its loader unpickles."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("weights_config.json"):
                table = json.loads(content)
                next(iter(table["config"].values()))["use_pickle"] = True
                content = json.dumps(table).encode()
            if name.endswith("weights/weight_0"):
                content = pickle.dumps(Evil(canary), protocol=2)
            other.writestr(name, content)


def complaint(path: Path) -> str:
    """Why a trusted program is refused; empty if it is not."""
    try:
        load_program(path, trust=True, image_shape=SHAPE)
    except CheckpointError as error:
        return str(error)
    return ""


def test_nothing_runs_without_trust_and_with_it_anything_may(saved: dict[str, Path], tmp_path: Path) -> None:
    canaries = [tmp_path / "first", tmp_path / "second"]
    evil = [tmp_path / "evil.pt2", script(EvilScript(str(canaries[1])), tmp_path / "evil.pt")]
    poisoned(saved["free"], evil[0], canaries[0])
    canaries[1].unlink(missing_ok=True)
    for path, kind, canary in zip(evil, (TORCH_EXPORT, TORCHSCRIPT), canaries, strict=True):
        sentence = f"is a {kind} program: loading it may run code that the file brings; give --trust-program"
        with pytest.raises(CheckpointError, match=sentence):
            load_program(path, trust=False, image_shape=SHAPE)
        assert not canary.exists()
        complaint(path)
        assert canary.exists(), "the test's own attack no longer works"


def files(folder: Path, saved: dict[str, Path]) -> dict[str, tuple[Path, str]]:
    """Things that are no programs."""
    paths = {name: folder / name for name in ("empty", "text", "state.pt", "state.safetensors", "legacy.pt", "cut.pt2",
                                             "cut.pt", "bomb.pt2", "text.onnx", "empty.onnx", "zip")}  # fmt: skip
    for name in ("empty", "empty.onnx"):
        paths[name].write_bytes(b"")
    paths["text"].write_text("def evil(): ...")
    paths["text.onnx"].write_text("no model")
    torch.save(net().state_dict(), paths["state.pt"])
    torch.save(net().state_dict(), paths["legacy.pt"], _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(net().state_dict(), paths["state.safetensors"])
    for cut, original in (("cut.pt2", "free"), ("cut.pt", "trace")):
        paths[cut].write_bytes(saved[original].read_bytes()[:-100])
    with zipfile.ZipFile(paths["bomb.pt2"], "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/models/model.json", b"0" * 2**27)
    with zipfile.ZipFile(paths["zip"], "w") as plain:
        plain.writestr("a/readme", b"hello")
    none = "is none of torch.export, TorchScript, ONNX; if it holds weights, name their architecture"
    said = dict.fromkeys(paths, none) | {
        "cut.pt2": "is a truncated or damaged archive", "cut.pt": "is a truncated or damaged archive",
        "bomb.pt2": r"would unpack to 134,217,728 bytes", "text.onnx": "is truncated, damaged or no ONNX program",
        "empty.onnx": "is truncated, damaged or no ONNX program",
    }  # fmt: skip
    return {name: (path, said[name]) for name, path in paths.items()} | {
        "folder": (folder, "found a directory, expected one of"),
        "missing": (folder / "gone", "found no such file"),
    }


@pytest.mark.parametrize("trust", [False, True])
def test_what_is_no_program_is_refused(saved: dict[str, Path], tmp_path: Path, trust: bool) -> None:
    for path, sentence in files(tmp_path, saved).values():
        with pytest.raises(CheckpointError, match=f"^program {path}.*{sentence}") as caught:
            load_program(path, trust=trust)
        assert "\n" not in str(caught.value)


def test_damage_inside_an_archive_is_one_sentence(saved: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "damaged.zip", 0
    for kind in ("free", "script", "freeze"):
        content = saved[kind].read_bytes()
        for at in rng.integers(0, len(content), 12):
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
            sentence = complaint(path)
            assert "\n" not in sentence
            refused += bool(sentence)
    assert refused > 10  # much of a small archive is padding


@pytest.mark.parametrize("kind", ["free", "script"])
def test_a_weight_that_flipped_is_found_by_its_checksum(
    saved: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    content, path = saved[kind].read_bytes(), tmp_path / "flipped.zip"
    weight = net().get_parameter("linear.weight").detach().numpy().tobytes()
    at = content.index(weight) + 100
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert "does not have its checksum; copy or download it again" in complaint(path)


def test_only_one_kind_of_error_leaves(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> Any:
        raise ZeroDivisionError("a fault\nof two lines")

    monkeypatch.setitem(loading._LOADERS, TORCH_EXPORT, fail)
    with pytest.raises(CheckpointError, match=r"\(a fault\): export it again$"):
        load_program(saved["free"], trust=True)


@pytest.mark.parametrize(
    ("sizes", "dtype", "expected"),
    [
        ((None, 3, 8, 8), torch.float32, InputSpec((3, 8, 8))),
        ((range(2**62), None, None, None), torch.float32, InputSpec()),
        ((range(2, 9), 1, 8, range(5)), torch.float64, InputSpec((1, 8, None), 2, 8, torch.float64)),
        ((1, 3, 3, 3), torch.float16, InputSpec((3, 3, 3), 1, 1, torch.float16)),
        ((None, 8, 8, 3), torch.float32, "channels last"),
        ((None, 3, 8), torch.float32, "3 dimensions"),
        ((None, 3, 8, 8), torch.uint8, "takes torch.uint8, expected float images"),
        ((None, 3, 8, 8), "string", "takes string, expected float images"),
    ],
)  # fmt: skip
def test_declared_inputs(sizes: Any, dtype: Any, expected: InputSpec | str) -> None:
    if isinstance(expected, InputSpec):
        assert declared_input_spec(sizes, dtype) == expected
    else:
        with pytest.raises(CheckpointError, match=expected):
            declared_input_spec(sizes, dtype)


class Filling(nn.Module):
    """Adds the sum of 64 gigabytes of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.net(images) + torch.ones((131072, 131072)).sum()
        return output


class Looping(nn.Module):
    """Counts to 2^50."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count = 0
        while count < 2**50:
            count += 1
        output: torch.Tensor = self.net(images) + count
        return output


@pytest.mark.parametrize(
    "bomb",
    [
        lambda path: export(Filling().eval(), path),
        lambda path: script(Filling().eval(), path),
        lambda path: script(Looping().eval(), path),
    ],
    ids=["memory of torch.export", "memory of TorchScript", "loop of TorchScript"],
)
def test_a_program_that_never_ends_or_fills_the_memory_costs_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: Callable[[Path], Path]
) -> None:
    path = bomb(tmp_path / "bomb.bin")
    monkeypatch.setattr(torch_probe, "limits", lambda _: {"memory": 2**32, "seconds": 2})
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(CheckpointError, match=r"takes more than 2 s of computing or 4,096 MiB for 4 images"):
        load_program(path, trust=True, image_shape=SHAPE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before.ru_utime < 2
    assert load_program(export(net(), tmp_path / "harmless.bin"), trust=True, image_shape=SHAPE)


def test_a_known_program_is_not_run_under_limits_again(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(_: object) -> bool:
        raise AssertionError("the program is known")

    monkeypatch.setattr(loading._FIRST_RUNS, "accepts", asked)
    assert load_program(saved["fixed"], trust=True, image_shape=SHAPE, is_known=True)
