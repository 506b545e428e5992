from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evalsuite.compat import robustbench
from evalsuite.datasets.base import Place
from evalsuite.datasets.source import ImageSource
from evalsuite.errors import SuiteError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.attack import Attack
from evalsuite.evaluators.robustbench import RobustBench
from evalsuite.execution.measuring import measured, scored
from evalsuite.models.exported.program import ExportedProgram, InputSpec, LoadedProgram
from evalsuite.types import ImageSet

PIXELS = np.random.default_rng(0).integers(64, 192, (14, 3, 8, 8), dtype=np.uint8)


def bench(name: str = "cifar10", obstacle: str | None = None) -> Bench:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()
    with torch.no_grad():
        labels = model(torch.from_numpy(PIXELS) / 255).argmax(1).numpy()
    labels[3] = (labels[3] + 1) % 10
    if obstacle is not None:
        model = ExportedProgram(LoadedProgram(model, InputSpec(), obstacle), "ONNX")
    return Bench(model, ImageSource(ImageSet(name, PIXELS, labels, 10), Place()))


@pytest.mark.parametrize(
    ("settings", "condition", "attacks"),
    [
        ({"epsilon": 3.0}, "robustbench Linf/3:255", ("apgd-ce", "apgd-t")),
        (
            {"norm": "L2", "epsilon": 0.2},
            "robustbench L2/0.2",
            ("l2-apgd-ce", "l2-apgd-t"),
        ),
    ],
    ids=["Linf", "L2"],
)
def test_the_official_number_is_not_below_ours(
    settings: dict[str, Any], condition: str, attacks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    called = robustbench.benchmark

    def watched(*arguments: Any, attack: Any) -> Any:
        seen.append(attack)
        short = robustbench.AutoAttack(attack.epsilon, ("apgd-ce", "apgd-t"), attack.seed, norm=attack.norm)
        return called(*arguments, attack=short)

    monkeypatch.setattr(robustbench, "benchmark", watched)
    (score,) = scored(RobustBench(images=12, **settings), bench())
    assert (score.condition, score.n, list(score.evidence)) == (condition, 12, ["test[:12]"])
    assert (seen[0].components, seen[0].norm) == (robustbench.COMPONENTS, settings.get("norm", "Linf"))
    ours = scored(Attack((3.0,), attacks, (0.2,), images=12, cascade=True, probe=0), bench())[-1]
    assert not score.evidence["test[:12]"][3]
    assert 0 < (score.value or 0) < 11 / 12
    assert (ours.value or 0) <= (score.value or 0) + 1 / 12


def test_no_leaderboard_no_official_number() -> None:
    cell = measured(RobustBench(), bench("digits"))
    assert (cell.status, cell.reason) == (
        "skipped",
        "RobustBench has no leaderboard for the data set 'digits', only for cifar10, cifar100, imagenet; "
        "use an attack evaluator with apgd-ce, apgd-t, fab-t and square",
    )
    cell = measured(RobustBench(), bench(obstacle="no twin"))
    assert cell.reason == "the model has no gradients (ONNX: no twin), which AutoAttack needs"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"epsilon": 0.0}, "found epsilon = 0.0"), ({"images": -1}, "found images = -1")],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=f"^robustbench-benchmark: {sentence}"):
        RobustBench(**settings)
