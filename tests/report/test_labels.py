"""Labels of conditions, metrics and groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalsuite.report.labels import condition_label, group_label, metric_label, metric_on_condition

if TYPE_CHECKING:
    pass


def test_names_read_well() -> None:
    assert condition_label("clean") == "clean"
    assert condition_label("uniform-noise") == "uniform noise"
    assert condition_label("jpeg_compression/1") == "JPEG compression, severity 1"
    assert condition_label("uniform/0.5:255") == "uniform, ε = 0.5/255"
    assert condition_label("rotation/ten degrees") == "rotation, ten degrees"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fog official/3", "official fog, severity 3"),
        ("frost-synthetic/2", "frost (synthetic), severity 2"),
        ("corruptions official/3", "all official corruptions, severity 3"),
        ("noise corruptions", "all generated noise corruptions"),
        ("blur corruptions official", "all official blur corruptions"),
        ("ood-far", "all far OOD sets"),
        ("videos", "all perturbation sequences"),
        ("worst/2:255", "worst attack, ε = 2/255"),
        ("worst l2/0.5", "worst L2 attack, ε = 0.5"),
        ("worst of 3 uniform/8:255", "worst of 3 uniform, ε = 8/255"),
        ("gaussian normalised/0.1", "Gaussian normalised, ε = 0.1"),
        ("fgsm/2:255 (strong)", "FGSM, ε = 2/255 (strong)"),
        ("class/3", "class 3"),
    ],
)
def test_conditions_read_well(name: str, words: str) -> None:
    assert condition_label(name) == words


def test_metrics_and_groups_read_well() -> None:
    assert metric_label("mce_parent") == "mCE relative to the parent"
    assert metric_label("mce") == "MCE"
    assert group_label("calibration-shift") == "calibration under generated corruptions"
    row = {"metric": "accuracy", "condition": "corruptions", "group": "", "aggregate": "single"}
    assert metric_on_condition(row) == "accuracy under all generated corruptions"
