"""What the evaluators make of a model without gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.datasets.views import View
from evalsuite.errors import CellError, SkippedError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.accuracy import Accuracy
from evalsuite.evaluators.attack import Attack
from evalsuite.execution.measuring import measured, scored
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.exported.program import ExportedProgram, InputSpec, LoadedProgram
from evalsuite.models.inference import gradient_obstacle, prepare_for_inference

LABELS = np.tile([0, 1], 24)


class Bright(nn.Module):
    """Tells bright images from dark ones."""

    def forward(self, images: Tensor) -> Tensor:
        side = images.flatten(1).mean(1) - 0.5
        return torch.stack([-side, side], 1)


def bench(planting: Any, obstacle: str) -> Bench:
    pixels = np.full((48, 3, 4, 4), 110, np.uint8)
    pixels[LABELS == 1] = 145
    pixels[:6] = 127
    pixels[:6, 0, 0, 0] = 126 - np.arange(6) % 2
    images = planting.numbered(LABELS, classes=2)
    program = ExportedProgram(LoadedProgram(Bright(), InputSpec(), obstacle), "ONNX")
    image_source = planting.data(test=type(images)("grey", pixels, LABELS, 2))
    return Bench(Normalized(program, mean=[0.0] * 3, std=[1.0] * 3), image_source)


def test_wrappers_are_looked_through() -> None:
    program = ExportedProgram(LoadedProgram(Bright(), InputSpec(), "no twin"), "ONNX")
    for model in (
        program,
        nn.Sequential(program),
        prepare_for_inference(Normalized(program, mean=[0.5], std=[1.0])),
    ):
        assert gradient_obstacle(model)
        assert gradient_obstacle(model) == "ONNX: no twin"
    assert not gradient_obstacle(ExportedProgram(LoadedProgram(Bright(), InputSpec()), "ONNX"))
    assert not gradient_obstacle(Bright())


@pytest.mark.parametrize("attacks", [("fgsm", "linf-pgd"), ("l2-pgd", "apgd-ce", "ddn")])
def test_white_box_attacks_are_skipped_with_the_reason(planting: Any, attacks: tuple[str, ...]) -> None:
    cell = measured(Attack((1.0,), attacks), bench(planting, "onnx2torch cannot convert it"), digest="d")
    needy = ", ".join(attacks)
    assert (cell.digest, cell.status, cell.scores) == ("d", "skipped", ())
    assert cell.reason == (
        f"the model has no gradients (ONNX: onnx2torch cannot convert it): white-box attacks ({needy}) cannot run; "
        "the test transfer shows it the adversarial images of the unpruned network, and linf-noise and square need no "
        'gradients (attacks = ["linf-noise"], without cascade)'
    )
    with pytest.raises(CellError):
        scored(Attack((1.0,), attacks), bench(planting, "x"))
    assert measured(Attack((1.0,), attacks, steps=3, probe=0), bench(planting, "")).status == "ok"


def test_the_black_box_part_of_a_mixture_is_compared_with_the_parents(planting: Any) -> None:
    """White-box scores say why they are missing, black-box ones are there for both, and nothing is mixed."""
    attack = Attack((4.0,), ("fgsm", "linf-noise", "square"), steps=30, queries=20)
    mine, theirs = (
        {one.condition: one for one in scored(attack, bench(planting, obstacle))}
        for obstacle in ("no twin", "")
    )
    assert list(mine) == list(theirs)
    assert {name for name, one in mine.items() if one.reason} == {"fgsm/4:255", "worst/4:255"}
    assert mine["worst/4:255"].reason == (
        "the model has no gradients (ONNX: no twin): white-box attacks (fgsm) cannot run; the test transfer "
        "shows it the adversarial images of the unpruned network"
    )
    for name in ("linf-noise/4:255", "square/4:255", "worst black-box/4:255"):
        np.testing.assert_array_equal(mine[name].evidence["test"], theirs[name].evidence["test"])
    black = mine["linf-noise/4:255"].evidence["test"] & mine["square/4:255"].evidence["test"]
    np.testing.assert_array_equal(mine["worst black-box/4:255"].evidence["test"], black)
    assert not black.all()
    assert "cascade" in measured(Attack((4.0,), attack.attacks, cascade=True), bench(planting, "x")).reason


def test_the_black_box_part_and_everything_else_still_run(planting: Any) -> None:
    ready = bench(planting, "no twin")
    scores = {score.condition: score for score in scored(Attack((4.0,), ("linf-noise",), steps=30), ready)}
    assert list(scores) == ["linf-noise/4:255", "worst black-box/4:255"]
    robust = scores["linf-noise/4:255"].evidence["test"]
    clean = ready.outputs(View()).correct
    assert clean[6:].all()
    assert robust[6:].all()
    assert 0 < robust.sum() < clean.sum()
    assert measured(Accuracy(), ready).status == "ok"


def test_skipping_is_for_evaluators_too(planting: Any) -> None:
    class Never(Accuracy):
        def evaluate(self, bench: Bench) -> Any:
            raise SkippedError(f"does not apply to a {type(bench.model).__name__}")

    cell = measured(Never(), bench(planting, ""))
    assert (cell.status, cell.reason, cell.metrics) == ("skipped", "does not apply to a Normalized", ())


def test_loaded_from_a_file_the_same_happens(planting: Any, tmp_path: Path) -> None:
    """TorchScript that cuts its gradients."""
    from evalsuite.models.exported.loading import load_program

    class Cut(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.detach().flatten(1)[:, :2]

    jit: Any = torch.jit  # without types
    with pytest.warns(FutureWarning):
        jit.script(Cut()).save(str(tmp_path / "cut.pt"))
    model = load_program(tmp_path / "cut.pt", trust=True, image_shape=(3, 16, 16))
    shown = Bench(model, planting.data(test=planting.numbered(LABELS, classes=2)))
    cell = measured(Attack(attacks=("fgsm",)), shown)
    assert cell.status == "skipped"
    assert "(TorchScript: its operations have none)" in cell.reason
