"""A method that prunes nothing is measured like all others, and lies on no curve of pruning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalsuite import api

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_retrained_dense_parent_is_measured_but_has_no_threshold(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    controls = '[[producers]]\nname = "dense-retrained"\n'
    old = '[[producers]]\nname = "filter-l1"\n'
    path = suite_file(
        {old: controls, "seeds = [0]": "seeds = [0, 1]", "epochs = 2": "epochs = 1", "control = false\n": ""}
    )
    text = path.read_text()
    start, end = text.index('[[evaluators]]\nname = "ood"'), text.index("[tolerances]")
    path.write_text(text[:start] + text[end:].partition("robust_accuracy")[0])
    run = api.run(path, out=tmp_path / "run")
    rows = run.measurements.query(
        "method == 'dense-retrained' and metric == 'accuracy' and condition == 'clean'"
    )
    assert rows["target_ratio"].tolist() == [0.5, 0.8, 0.5, 0.8]
    assert (rows["ratio"] == 0).all()
    assert rows["drop"].notna().all()
    assert set(run.thresholds()["method"]) == {"magnitude"}
    assert set(run.excess["method"]) == {"magnitude"}
    assert "dense-retrained" in (run.path / "index.html").read_text()
    assert [choice.get("dense") for choice in run.record["suite"]["producers"]] == [None, True]
