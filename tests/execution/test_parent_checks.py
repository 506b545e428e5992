"""A parent that does not classify is refused before anything is compared with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evalsuite
from evalsuite.config.manifest import candidates_of_paths
from evalsuite.errors import DataError
from evalsuite.execution.check import CheckRequest
from evalsuite.execution.parent_checks import check_class_order, check_parent
from evalsuite.models.architectures.base import Normalized, build_model, unwrap_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.results.check_verdicts import UndecidedRule
from evalsuite.types import ImageSet

TEN = ImageSet("ten", np.zeros((100, 3, 4, 4), np.uint8), np.arange(100) % 10, 10, labelling="0 ant, 1 bee")


def test_the_lower_limit_must_be_above_chance() -> None:
    assert check_parent(16, TEN) == ()  # 16 of 100: the limit is 10.2 %
    with pytest.raises(
        DataError, match=r"right on 15 of 100 .*lower 95 % limit 9\.\d%.* chance, 10\.0%.*0 ant, 1 bee"
    ):
        check_parent(15, TEN)
    (note,) = check_parent(0, TEN, filtered=True)
    assert "the images were chosen so" in note
    with pytest.raises(DataError, match="try other means"):
        check_parent(3, TEN, hint="try other means")


def test_the_published_accuracy_is_a_claim() -> None:
    assert check_parent(70, TEN, claim=0.76) == ()
    with pytest.raises(DataError, match=r"upper 99 % limit 80\.2%\), but parent_accuracy says 95\.0%"):
        check_parent(70, TEN, claim=0.95)


def test_api_refuses_it_too(few: ImageSet) -> None:
    class Constant(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3))[:, None] * 1e-3 + torch.arange(10.0)

    images = replace(few, name="digits of mine")
    with pytest.raises(DataError, match=r"the parent is right on .* of 96 images of 'digits of mine'"):
        evalsuite.evaluate(Constant(), data=images, parent=Constant())
    assert len(evalsuite.evaluate(Constant(), data=images))  # alone, it may be what it is


class OneClass(torch.nn.Module):
    """Gives all images class 0, with logits that depend on the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None] * torch.arange(10, 0, -1.0)


def test_one_class_for_everything_is_chance_however_common_the_class(few: ImageSet) -> None:
    assert few.labels is not None
    common = replace(few, labels=np.where(np.arange(96) < 60, 0, few.labels))  # six in ten are of class 0
    with pytest.raises(
        DataError, match=r"66\.7%; lower 95 % limit .*\), but gives all of them the same class"
    ):
        evalsuite.evaluate(OneClass(), data=common, parent=OneClass())


@pytest.mark.parametrize("undecided", ["measured", "pass", "fail"])
def test_check_refuses_a_parent_that_guesses_whatever_becomes_of_undecided_checks(
    undecided: UndecidedRule, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    network = unwrap_model(build_model(SmallCNN(widths=(8, 12, 16, 16))))
    torch.save(network.state_dict(), tmp_path / "parent.pt")
    torch.nn.init.zeros_(next(network.parameters())[:1].detach())
    torch.save(network.state_dict(), tmp_path / "pruned.pt")
    request = CheckRequest(
        parent=str(tmp_path / "parent.pt"),
        candidates=candidates_of_paths([str(tmp_path / "pruned.pt")]),
        data="digits",
        undecided=undecided,
    )
    with pytest.raises(DataError, match="the parent is right on"):
        evalsuite.check(request, out=tmp_path / "out")


def test_a_run_ends_before_candidates_are_made(
    suite_file: Callable[..., Path], tmp_path: Path, counted: dict[str, int]
) -> None:
    suite = suite_file({"epochs = 2": "epochs = 1", "seeds = [0]": "seeds = [0]\nparent_accuracy = 1.0"})
    for _ in range(2):  # the second time the parent is in the store
        with pytest.raises(DataError, match="but parent_accuracy says 100"):
            evalsuite.run(suite, out=tmp_path / "run")
    assert counted["trainings"] == 1  # of the parent alone
    assert not (tmp_path / "run" / "measurements.csv").exists()


class Level(nn.Module):
    """Takes the class of an image from its brightness, and calls the classes by `numbers`."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, images: Tensor) -> Tensor:
        level = (images.mean(dim=(1, 2, 3)) * len(self.numbers)).long()
        return nn.functional.one_hot(torch.tensor(self.numbers)[level], len(self.numbers)).float() * 5


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([0, 1, 2], ""),
        ([1, 0, 2], r"on 33\.2% of 256 .*, but on 89\.8% with the order 0 dog, 1 cat, 2 eel; .* class_map"),
        ([1, 2, 0], r"on 9\.8% of 256 .*, but on 89\.8% with the order 0 eel, 1 cat, 2 dog; .* class_map"),
        ([0, 0, 0], ""),
    ],
    ids=["right", "two exchanged", "all moved", "one for all"],
)
def test_classes_in_another_order_are_found_in_the_answers(numbers: list[int], found: str) -> None:
    """One image in ten has another label, so that no order is right on all."""
    pixels = np.broadcast_to(
        np.linspace(0, 254, 300).astype(np.uint8)[:, None, None, None], (300, 3, 4, 4)
    ).copy()
    labels = np.minimum(np.arange(300) // 100, 2)
    labels[::10] = (labels[::10] + 1) % 3
    images = ImageSet("animals", pixels, labels, 3, ("cat", "dog", "eel"))
    model = Normalized(Level(numbers), mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    (*notes,) = check_class_order(model, images)
    assert len(notes) == bool(found)
    assert not found or re.search(found, notes[0])
    assert not check_class_order(model, replace(images, images=pixels[::11], labels=labels[::11]))  # too few
