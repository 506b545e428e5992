"""The live adapter: tools of other people as producers, and what they may not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import evalsuite
from evalsuite.cli.main import main
from evalsuite.config.options import Options
from evalsuite.errors import ContractError, SuiteError, UserError
from evalsuite.execution.dry_run import describe_run
from evalsuite.execution.planning import prepare
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import count_nonzero, count_parameters
from evalsuite.producers.base import Context
from evalsuite.producers.function import PrunedByFunction, masked_layers
from evalsuite.training.origin import Origin

EXAMPLES = Path(__file__).parents[2] / "examples"
MISTAKES = """
import torch
from torch import nn
from torch.nn.utils import prune


def nothing(model, ratio, data):
    return model


def failing(model, ratio, data):
    raise KeyError("no such layer")


def logits(model, ratio, data):
    return model(data.example)


def unseen(model, ratio, data):
    attention = model[1]
    prune.l1_unstructured(attention.out_proj, "weight", amount=ratio)
    with torch.no_grad():
        attention.out_proj.weight_orig.mul_(2)  # as an optimiser would
    return model


def baked(model, ratio, data):
    attention = model[1]
    prune.l1_unstructured(attention.out_proj, "weight", amount=ratio)
    prune.remove(attention.out_proj, "weight")
    return model
"""


class First(nn.MultiheadAttention):
    """Attention that returns its output alone."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(tokens, tokens, tokens, need_weights=False)[0]


def attention() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(2), First(1024, 4, batch_first=True), nn.Flatten(), nn.Linear(3072, 10)
    ).eval()


@pytest.fixture
def mistakes(tmp_path: Path) -> Path:
    path = tmp_path / "mistakes.py"
    path.write_text(MISTAKES)
    return path


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("example", ["torch_prune_l1.py:global_l1", "torch_pruning_l2.py:group_l2"])
def test_torchs_pruning_and_torch_pruning_are_ten_lines(
    example: str, tmp_path: Path, small_parent: nn.Module, small_context: Context, small_origin: Origin
) -> None:
    producer = PrunedByFunction(str(EXAMPLES / example), images=8)
    total, settings = count_nonzero(small_parent), to_settings(small_origin.architecture)
    for ratio, model in zip(
        (0.3, 0.6), producer.produce(small_parent, (0.3, 0.6), small_context), strict=True
    ):
        assert 1 - count_nonzero(model) / total == pytest.approx(ratio, abs=0.1)
        assert (count_parameters(model) < total) == example.startswith("torch_pruning")
        save_model(model, settings, tmp_path / "model.safetensors")
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(load_model(settings, tmp_path / "model.safetensors")(images), model(images))


def test_functions_of_the_command_line_are_methods_of_the_run(tiny: Path, tmp_path: Path) -> None:
    target = f"{EXAMPLES / 'torch_prune_l1.py'}:global_l1"
    prepared = prepare(tiny, out=tmp_path / "run", options=Options(candidates_from=(target,)))
    config = next(config for config in prepared.suite.producers if config.label == "global_l1")
    assert config.table["target"] == target
    assert any(candidate.key.method == "global_l1" for candidate in prepared.plan.candidates)
    assert describe_run(prepared)
    with pytest.raises(UserError, match="has a method 'global_l1' already"):
        Options(candidates_from=(target, target)).applied(prepared.suite)


@pytest.mark.extensive
def test_the_examples_run_by_the_option_that_their_first_lines_name(
    small_suite: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    suite = small_suite(
        top="control = false\nseeds = [0]",
        widths=(8, 16, 16, 16),
        producers=('name = "random"',),
        tolerances="",
    )
    (tmp_path / "suite.toml").write_text(suite, "utf-8")
    words = ["evalsuite", "run", str(tmp_path / "suite.toml"), "--out", str(tmp_path / "run")]
    for file in ("torch_prune_l1.py", "torch_pruning_l2.py"):
        first = (EXAMPLES / file).read_text("utf-8").splitlines()[0]
        option, target = first.rstrip('."').split()[-2:]
        assert (option, target.partition(":")[0]) == ("--candidates-from", f"examples/{file}")
        words += [option, target]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    run = evalsuite.Run(tmp_path / "run")
    ratios = run.measurements.groupby("method")["ratio"].first()
    assert ratios["global_l1"] == pytest.approx(0.5, abs=0.01)
    assert ratios["group_l2"] == pytest.approx(0.5, abs=0.1)
    assert run.failures.empty


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", r"mistakes.py:nothing has pruned nothing at ratio 0.5"),
        ("failing", r"mistakes.py:failing fails at ratio 0.5: KeyError: 'no such layer'"),
        ("logits", r"mistakes.py:logits returned Tensor, expected the model that it was given"),
    ],
)
def test_mistakes_of_a_function_are_sentences(
    name: str, sentence: str, mistakes: Path, small_parent: nn.Module, small_context: Context
) -> None:
    producer = PrunedByFunction(f"{mistakes}:{name}", images=8)
    with pytest.raises(ContractError, match=sentence):
        next(producer.produce(small_parent, (0.5,), small_context))


def test_masks_that_do_nothing_are_detected(mistakes: Path, small_context: Context) -> None:
    parent = attention()
    with pytest.raises(ContractError, match=r"no effect on the outputs .*: 1.out_proj.weight is read by"):
        next(PrunedByFunction(f"{mistakes}:unseen", images=8).produce(parent, (0.5,), small_context))
    model = next(
        PrunedByFunction(f"{mistakes}:baked", 8, retrain=False).produce(parent, (0.5,), small_context)
    )
    projection = model.get_parameter("1.out_proj.weight")
    assert int((projection == 0).sum()) == projection.numel() / 2
    assert masked_layers(model) == []


def test_functions_that_are_not_there_are_refused_at_once(mistakes: Path, tiny: Path) -> None:
    with pytest.raises(
        SuiteError, match=r"producer .*mistakes.py:nothin: unknown function 'nothin'.*nothing"
    ):
        PrunedByFunction(f"{mistakes}:nothin")
    with pytest.raises(UserError, match=r"found no file .*gone.py"):
        evalsuite.run(tiny, options=Options(candidates_from=("gone.py:prune",)))
