"""One engine for a run, kept in its folder; outputs of a parent are computed once for all workers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evalsuite import Options, api
from evalsuite.config.suite_file import load_suite
from evalsuite.datasets.base import Place
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import UserError
from evalsuite.execution import planning
from evalsuite.execution.parent_cache import CacheSettings, ParentCache
from evalsuite.execution.planning import prepare
from evalsuite.execution.run_bench import RunBench
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.engines import Engine

SuiteFile = Callable[..., Path]
DATA = '[data]\nname = "digits"'


def inputs(suite: Path) -> set[str]:
    return {test.inputs for test in prepare(suite, out="nowhere").plan.tests}


def test_results_of_two_engines_never_share_a_digest(
    suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [inputs(suite_file())]
    for engine in (Engine(reason="a probe"), Engine("openvino", "1"), Engine("openvino", "2", 1.4)):
        monkeypatch.setattr(planning, "run_engine", lambda _, engine=engine: engine)
        digests.append(inputs(suite_file()))
    assert digests[0] == digests[1]
    assert not digests[1] & digests[2] | digests[1] & digests[3] | digests[2] & digests[3]


@pytest.mark.parametrize(
    ("device", "engine", "others"),
    [
        ("cuda", "openvino", "eager and cuda-graphs"),
        ("cpu", "cuda-graphs", "eager and openvino"),
        ("mps", "cuda-graphs", "eager"),
    ],
)
def test_an_engine_of_another_device_is_refused(
    suite_file: SuiteFile, device: str, engine: str, others: str
) -> None:
    """No card is needed to say so: the device is only asked for its kind."""
    runner = prepare(suite_file(), out="nowhere").runner
    runner.device = torch.device(device)
    runner.suite = load_suite(suite_file({DATA: f'[resources]\nengine = "{engine}"\n{DATA}'}))
    sentence = f"found engine = '{engine}' in [resources] and --device {device}, whose engines are {others};"
    with pytest.raises(UserError, match=re.escape(sentence)):
        planning.run_engine(runner)


def test_a_probe_chooses_on_a_graphics_card_too(
    suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def choose(wanted: str, *_: object, device: torch.device, **__: object) -> Engine:
        asked.append((wanted, device.type))
        return Engine("cuda-graphs", gain=2.0)

    runner = prepare(suite_file(), out="nowhere").runner
    monkeypatch.setattr(planning, "choose_engine", choose)
    for line, wanted in (("", "auto"), ('[resources]\nengine = "cuda-graphs"\n', "cuda-graphs")):
        runner.suite = load_suite(suite_file({DATA: f"{line}{DATA}"}))
        runner.device = torch.device("cuda")
        assert planning.run_engine(runner).name == "cuda-graphs"
        assert asked.pop() == (wanted, "cuda")
    runner.suite = load_suite(suite_file({DATA: f'[resources]\nengine = "eager"\n{DATA}'}))
    assert planning.run_engine(runner) == Engine(reason="the suite chose it")
    runner.suite, runner.device = load_suite(suite_file()), torch.device("mps")
    assert planning.run_engine(runner).reason == "PyTorch computes on mps"
    assert not asked


def test_a_folder_keeps_its_engine_and_an_old_one_is_that_of_torch(
    suite_file: SuiteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = suite_file(), tmp_path / "run"
    run = api.run(suite, out=out, options=Options(only=("accuracy", "magnitude")))
    assert run.record["engine"]["name"] == "eager"
    monkeypatch.setattr(planning, "openvino_version", lambda: "7")
    monkeypatch.setattr(planning, "choose_engine", lambda *_, **__: pytest.fail("chosen again"))
    assert prepare(suite, out=out).engine == Engine(**run.record["engine"])
    record = json.loads((out / "run.json").read_text())
    kept = Engine("openvino", "7", 1.5, 1e-6, "1.50 times as fast, with compiling")
    for engine, expected in ((None, Engine()), (kept, kept)):
        content = {key: value for key, value in record.items() if key not in ("engine", "checksum")}
        if engine is not None:
            content["engine"] = {
                name: getattr(engine, name) for name in ("name", "version", "gain", "difference", "reason")
            }
        (out / "run.json").write_text(json.dumps(content))
        assert prepare(suite, out=out).engine == expected
    named = suite_file({DATA: f'[resources]\nengine = "openvino"\n{DATA}'})
    assert prepare(named, out=out).engine == kept


@pytest.mark.parametrize("features", [False, True])
def test_a_second_worker_takes_the_outputs_of_the_parent(tmp_path: Path, features: bool) -> None:
    torch.manual_seed(0)
    model = build_model(from_settings({"name": "small-cnn", "widths": [4, 4, 8, 8]}))
    source, view = ImageSource(Digits(), Place()), View(first=50)
    cache = ParentCache(tmp_path, CacheSettings())
    benches = [RunBench(model, source, cache=cache, weights="w") for _ in range(2)]
    benches.append(RunBench(model, source, cache=cache, weights="another"))
    for bench in benches:
        bench.request_features([view] if features else [])
    first, second, other = (bench.outputs(view) for bench in benches)
    assert [bench.passes.total() for bench in benches] == [1, 0, 1]
    assert np.array_equal(first.logits, second.logits)
    assert first.labels is second.labels
    if features:
        assert first.features is not None
        assert second.features is not None
        assert np.array_equal(first.features, second.features)
    assert np.array_equal(first.logits, other.logits)
