"""A run as large as the real one, with numbers that behave like those of pruned networks."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, takewhile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalsuite.report.data import ReportData
from evalsuite.results import check_verdicts
from evalsuite.results.verdict_tables import GROUP_COLUMNS, MEAN, NETWORK, VERDICT_COLUMNS, count_table
from evalsuite.runs.store import Key
from evalsuite.types import Candidate, Cost, Metric, Picture, Score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from evalsuite.results.run import Run

KINDS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
STRENGTH = {"magnitude": 1.0, "filter-l1": 0.62, "random": 0.4}
TOLERANCES = {
    "accuracy": 0.01,
    "agreement": 0.03,
    "robust_accuracy": 0.02,
    "msp_auroc": 0.02,
    "energy_auroc": 0.02,
}
TOLERANCES |= {"msp_fpr95_ood_positive": 0.05, "ece_equal_width": 0.01, "nll": 0.05, "brier": 0.02}
OOD = ("auroc", "aupr_in", "aupr_out", "fpr95_ood_positive", "fpr95_id_positive")
LOWER = ("nll", "brier", "ece_equal_width", "ece_equal_mass", "fpr95_ood_positive", "fpr95_id_positive")


@dataclass(frozen=True)
class Check:
    """A metric on a condition with its fragility: 1 is that of test accuracy."""

    evaluator: str
    metric: str
    condition: str
    group: str
    parent: float
    fragility: float


@dataclass(frozen=True)
class Setting:
    """The settings of a synthetic run."""

    methods: Sequence[str] = ("magnitude", "filter-l1", "random")
    ratios: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    seeds: Sequence[int] = (0,)
    severities: Sequence[int] = (3,)
    tolerances: dict[str, float] = field(default_factory=lambda: dict(TOLERANCES))
    failures: int = 0


def checks_of_suite(severities: Sequence[int]) -> Iterator[Check]:
    for metric, parent in (("accuracy", 0.9733), ("nll", 0.094), ("agreement", 1.0)):
        yield Check("accuracy", metric, "clean", "", parent, 1.0)
        yield Check("corruptions", metric, "corruptions", "", parent if metric != "accuracy" else 0.86, 1.6)
    for index, kind in enumerate(KINDS):
        for severity in severities:
            hard = 1 + 0.35 * severity + 0.12 * (index % 5)
            yield Check(
                "corruptions", "accuracy", f"{kind}/{severity}", "corruptions", 0.97 - 0.05 * severity, hard
            )
            yield Check("corruptions", "agreement", f"{kind}/{severity}", "corruptions", 1.0, hard)
    for index, eps in enumerate((4, 8, 16, 32)):
        yield Check(
            "noise", "accuracy", f"uniform/{eps}:255", "noise", 0.97 - 0.01 * index, 1.1 + 0.2 * index
        )
    for index, eps in enumerate((1, 2, 4)):
        for attack in ("fgsm", "linf-pgd"):
            yield Check(
                attack, "robust_accuracy", f"{attack}/{eps}:255", "attack", 0.9 - 0.2 * index, 1.5 + index
            )
    for name, group in {"letters": "ood-near", "photographs": "ood-far", "uniform-noise": "ood-far"}.items():
        for score in ("msp", "energy"):
            for metric in OOD:
                yield Check("ood", f"{score}_{metric}", name, group, 0.15 if metric in LOWER else 0.93, 2.2)
    for metric, parent in (("ece_equal_width", 0.012), ("ece_equal_mass", 0.011), ("brier", 0.04)):
        yield Check("calibration", metric, "clean", "", parent, 1.3)
        yield Check("calibration", f"{metric}_scaled", "clean", "", parent * 0.8, 1.1)


def higher(metric: str) -> bool:
    return not metric.removeprefix("msp_").removeprefix("energy_").removesuffix("_scaled").startswith(LOWER)


def synthetic(setting: Setting | None = None) -> ReportData:
    """Returns the data of a report of a synthetic run."""
    setting = setting or Setting()
    measurements = _measurements(setting)
    thresholds = pd.DataFrame(_thresholds(measurements, setting), columns=THRESHOLDS)
    metrics = {
        name: Metric(name, higher(name), "fraction", f"How the {name} of a model is defined (Doe 2020).")
        for name in measurements["metric"].dropna().unique()
    }
    checks = pd.DataFrame(_verdicts(measurements, setting), columns=[*VERDICT_COLUMNS, "group"])
    return ReportData(
        measurements,
        thresholds,
        _reliability(setting),
        metrics,
        _record(setting),
        verdicts=checks[list(VERDICT_COLUMNS)],
        groups=pd.DataFrame(_groups(checks), columns=GROUP_COLUMNS),
        counts=counted(checks),
    )


def _candidates(setting: Setting) -> Iterator[dict[str, Any]]:
    for seed in setting.seeds:
        for method, target in [("dense", 0.0), *((m, r) for m in setting.methods for r in setting.ratios)]:
            ratio = target - 0.0003 * (target > 0) * (1 + seed)
            left = 1 - ratio
            yield {
                "method": method,
                "seed": seed,
                "target_ratio": target,
                "ratio": ratio,
                "prunable_ratio": min(1.0, ratio * 1.01),
                "parameters": int(72_000 * (left if method == "filter-l1" else 1)),
                "nonzero": int(72_000 * left),
                "macs": int(6_300_000 * (left if method == "filter-l1" else 1)),
                "macs_nonzero": int(6_300_000 * left),
                "bytes": 289_000,
            }


def _measurements(setting: Setting) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    asked = list(checks_of_suite(setting.severities))
    rows = [c | _measured(c, check, rng) for c in _candidates(setting) for check in asked]
    for index in range(setting.failures):
        broken = {
            "status": "error",
            "reason": "RuntimeError: attack <b>diverged</b>",
            "value": np.nan,
            "drop": np.nan,
        }
        rows[-1 - index] |= broken | {"drop_low": np.nan, "drop_high": np.nan}
    return pd.DataFrame(rows)


def _measured(candidate: dict[str, Any], check: Check, rng: np.random.Generator) -> dict[str, Any]:
    parent = candidate["method"] == "dense"
    strength = STRENGTH.get(candidate["method"], 1.0)
    damage = check.fragility / strength * 0.02 * np.exp(6 * (candidate["target_ratio"] - 0.93))
    drop = 0.0 if parent else min(float(damage * check.parent + rng.normal(0, 0.002)), check.parent)
    sign = 1 if higher(check.metric) else -1
    known = not parent
    return {
        "evaluator": check.evaluator,
        "metric": check.metric,
        "condition": check.condition,
        "group": check.group,
        "value": check.parent - sign * drop,
        "n": 899,
        "drop": drop,
        "drop_low": drop - 0.004 if known else np.nan,
        "drop_high": drop + 0.005 if known else np.nan,
        "status": "ok",
        "reason": "",
        "flags": "",
    }


THRESHOLDS = (
    "method",
    "seed",
    "metric",
    "condition",
    "group",
    "aggregate",
    "unit",
    "higher_is_better",
    "tolerance",
    "reference",
    "potential",
    "potential_any",
    "potential_any_mean",
    "potential_any_std",
    "noninferior_up_to",
    "inferior_from",
    "first_failure",
    "censored",
    "infeasible",
    "non_monotone",
    "incomplete",
    "underpowered",
    "n",
    "tested",
)


def _thresholds(measurements: pd.DataFrame, setting: Setting) -> Iterator[dict[str, Any]]:
    judged = measurements[
        (measurements["method"] != "dense") & measurements["metric"].isin(list(setting.tolerances))
    ]
    for (method, metric, condition), rows in judged.groupby(["method", "metric", "condition"], sort=False):
        about = {"method": method, "metric": metric, "condition": condition, "group": rows["group"].iloc[0]}
        about |= {"aggregate": "of-mean" if condition == "corruptions" else "single", "unit": "fraction"}
        about["group"] = "corruptions" if condition == "corruptions" else about["group"]
        tolerance = setting.tolerances[str(metric)]
        shared = about | {"higher_is_better": higher(str(metric)), "tolerance": tolerance, "n": 899}
        parents = measurements[(measurements["method"] == "dense") & (measurements["metric"] == metric)]
        shared["reference"] = parents.loc[parents["condition"] == condition, "value"].mean()
        each = [shared | {"seed": s} | _potential(r, tolerance) for s, r in rows.groupby("seed")]
        anys = [row["potential_any"] for row in each]
        yield from each
        spread = {
            "potential_any_mean": np.mean(anys),
            "potential_any_std": np.std(anys, ddof=1) if anys[1:] else np.nan,
        }
        yield shared | {"seed": "all"} | _potential(rows, tolerance) | spread
    yield from _summaries(judged, setting)


def _summaries(judged: pd.DataFrame, setting: Setting) -> Iterator[dict[str, Any]]:
    inside = judged[judged["group"] != ""]
    for (method, metric, group), rows in inside.groupby(["method", "metric", "group"], sort=False):
        tolerance = setting.tolerances[str(metric)]
        found = [_potential(r, tolerance) for _, r in rows.groupby("condition", sort=False)]
        worst = min(found, key=lambda item: item["potential"])
        about = {
            "method": method,
            "seed": "all",
            "metric": metric,
            "condition": group,
            "group": group,
            "n": 899,
        }
        about |= {"unit": "fraction", "higher_is_better": higher(str(metric)), "tolerance": tolerance}
        yield about | worst | {"aggregate": "minimum"}
        mean = {"potential": float(np.mean([f["potential"] for f in found]))}
        yield about | worst | mean | {"aggregate": "mean"}


def _potential(rows: pd.DataFrame, tolerance: float) -> dict[str, Any]:
    curve = rows.groupby("target_ratio")[["ratio", "drop"]].mean()
    good = [bool(drop <= tolerance) for drop in curve["drop"]]
    ratios = [float(ratio) for ratio in curve["ratio"]]
    held = good.index(False) if False in good else len(good)
    passed = [ratio for ratio, fine in zip(ratios, good, strict=True) if fine]
    return {
        "potential": ratios[held - 1] if held else 0.0,
        "potential_any": max(passed, default=0.0),
        "first_failure": ratios[held] if held < len(good) else np.nan,
        "noninferior_up_to": ratios[held - 2] if held > 1 else 0.0,
        "inferior_from": ratios[held] if held < len(good) else np.nan,
        "censored": held == len(good),
        "infeasible": held == 0,
        "non_monotone": any(good[held:]),
        "incomplete": bool(rows["value"].isna().any()),
        "underpowered": tolerance < 0.009,
        "tested": " ".join(f"{ratio:.6g}" for ratio in ratios),
    }


def counted(checks: pd.DataFrame) -> pd.DataFrame:
    """Counts of verdicts; a harmless copy fails two checks, up to five."""
    places = checks[["method", "seed", "target_ratio"]].drop_duplicates()
    return count_table(checks, places.assign(harmless_median=2, harmless_upper_95=5))


def _verdicts(measurements: pd.DataFrame, setting: Setting) -> Iterator[dict[str, Any]]:
    """Verdicts by the intervals alone, in the scope of each network, and of the mean where there are several."""
    judged = measurements[
        (measurements["method"] != "dense")
        & measurements["metric"].isin(list(setting.tolerances))
        & measurements["value"].notna()
    ]
    scopes = [(NETWORK, judged)]
    if len(setting.seeds) > 1:
        keys = ["method", "target_ratio", "metric", "condition", "group"]
        mean = judged.groupby(keys, sort=False)[["drop", "drop_low", "drop_high", "ratio"]].mean()
        scopes.append((MEAN, mean.reset_index().assign(seed="all")))
    for scope, table in scopes:
        for row in table.to_dict("records"):
            limit = setting.tolerances[row["metric"]]
            state = "inferior" if row["drop_low"] > limit else "undecided"
            yield (
                dict.fromkeys(VERDICT_COLUMNS)
                | {str(key): value for key, value in row.items()}
                | {
                    "scope": scope,
                    "networks": len(setting.seeds) if scope == MEAN else 1,
                    "aggregate": "single",
                    "drop_tolerance": limit,
                    "noninferiority_p": 0.01,
                    "measured_failure": row["drop"] > limit,
                    "verdict": "non-inferior" if row["drop_high"] <= limit else state,
                    "beyond_control_verdict": "",
                }
            )


def _groups(checks: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Intervals of the potential of the groups, and of everything, by the verdicts alone."""
    for (method, scope, seed), mine in checks.groupby(["method", "scope", "seed"], sort=False):
        groups = {"everything": mine} | {str(g): rows for g, rows in mine.groupby("group", sort=False) if g}
        for group, rows in groups.items():
            by_ratio = rows.groupby("target_ratio")["verdict"]
            states = {float(str(ratio)): set(found) for ratio, found in by_ratio}
            kept = list(takewhile(lambda ratio: states[ratio] == {"non-inferior"}, sorted(states)))  # noqa: B023
            failing = [ratio for ratio, found in states.items() if "inferior" in found]
            yield {
                "method": method,
                "scope": scope,
                "seed": seed,
                "group": group,
                "checks": len(rows[["metric", "condition"]].drop_duplicates()),
                "never_decided": 0,
                "noninferior_up_to": max(kept, default=0.0),
                "inferior_from": min(failing, default=np.nan),
            }


def _reliability(setting: Setting) -> pd.DataFrame:
    edges = np.linspace(0, 1, 16)
    rows = []
    for candidate in _candidates(setting):
        tilt = 0.25 * candidate["target_ratio"] ** 6
        for low, high in pairwise(edges):
            middle = (low + high) / 2
            count = int(899 * np.exp(9 * (middle - 1.15))) if middle > 0.2 else 0
            known = {k: candidate[k] for k in ("method", "seed", "ratio")}
            accuracy = max(0.0, min(1.0, middle - tilt * middle)) if count else np.nan
            rows.append(
                known
                | {"lower": low, "upper": high, "count": count}
                | {"confidence": middle if count else np.nan, "accuracy": accuracy}
            )
    return pd.DataFrame(rows)


def _record(setting: Setting) -> dict[str, Any]:
    description = "Handwritten digits, a small network, three ways to prune it, and five kinds of test."
    return {
        "suite": {
            "name": "digits",
            "description": description,
            "ratios": list(setting.ratios),
            "seeds": list(setting.seeds),
            "tolerances": setting.tolerances,
            "producers": [{"label": method, "name": method} for method in setting.methods],
        },
        "versions": {"evalsuite": "0.1.0", "torch": "2.9.0", "numpy": "2.4.6"},
        "git": {"revision": "0123abc", "dirty": False},
        "hardware": {"machine": "x86_64", "cpu": "2 cores", "device": "cpu"},
        "seconds": 71.25,
        "format": 1,
        "command": "python -m evalsuite run digits --seed 0",
    }


@pytest.fixture(scope="session")
def synthesis() -> Callable[..., ReportData]:
    """Returns a function that makes report data; its arguments are those of `Setting`."""
    return lambda **settings: synthetic(Setting(**settings))


@pytest.fixture(scope="session")
def findings() -> ReportData:
    return synthetic()


def shot(kind: Any, row: str, column: str, note: str = "") -> Picture:
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "PNG")
    return Picture(kind, row, column, note, file.getvalue())


@pytest.fixture(scope="session")
def full(synthesis: Callable[..., ReportData]) -> ReportData:
    """Report data with all optional parts."""
    found = synthesis(ratios=(0.5, 0.8, 0.9), severities=(1, 3))
    robust = [
        {"method": m, "seed": s, "target_ratio": t, "ratio": t, "norm": "Linf", "attack": a}
        | {"epsilon": e, "value": 0.9 - 0.1 * e - 0.2 * t - 0.02 * s, "n": 200}
        for m, t in (("dense", 0.0), ("magnitude", 0.8), ("random", 0.8))
        for s in (0, 1)
        for a in ("fgsm", "worst")
        for e in (0.0, 1.0, 2.0)
    ]
    scores = [
        {"method": m, "seed": 0, "target_ratio": t, "ratio": t, "detector": "msp", "sample": sample}
        | {"group": "", "low": -1 + 0.5 * i, "high": -0.5 + 0.5 * i, "count": 10 * i + 1}
        for m, t in (("dense", 0.0), ("magnitude", 0.8))
        for sample in ("test", "letters")
        for i in (1, 0)
    ]
    steep = {"method": "magnitude", "seed": "all", "condition": "corruptions", "points": 3, "n": 899}
    steep |= {"slope": 4.5, "images_low": 3.0, "images_high": 6.0, "seeds_low": None, "seeds_high": None}
    steep |= {"published_low": 4.0, "published_high": 5.0}
    fair = {"first": "magnitude", "second": "<q>random", "pairs": 3, "setup": "S2", "fair": False}
    fair |= {"why": "at 50 %: 5 and 7 epochs of retraining", "S1": True, "S2": True, "S3.1": False}
    fair |= {"S3.2": False, "S4.1": None, "S4.2": None, "SX-A": False, "SX-B": False}
    record = {
        **found.record,
        "spent": {"attack": {"cells": 19, "seconds": 8.0}, "ood": {"cells": 1, "seconds": 9.5}},
    }
    return dataclasses.replace(
        found,
        robust=pd.DataFrame(robust),
        histograms=pd.DataFrame(scores),
        excess=pd.DataFrame([steep]),
        comparability=pd.DataFrame([fair]),
        record=record,
        pictures=(
            shot("misclassified", "", "class <i>3", "magnitude at 50 %"),
            shot("corruption", "", "as it is"),
            shot("corruption", "fog", "severity 3"),
            shot("corruption", "fog", "severity 5"),
            shot("attack", "parent, fgsm", "class 1"),
        ),
        no_pictures={},
    )


@pytest.fixture(name="checked")
def _checked(findings: ReportData) -> ReportData:
    """A check of two candidates, of which one fails in what it loses most."""
    rows: list[dict[str, Any]] = []
    for candidate, size in (("light", 0.001), ("<b>heavy", 0.004)):
        for index in range(20):
            drop = size * index
            state = "inferior" if drop > 0.07 else "non-inferior"
            rows.append(
                {"candidate": candidate, "seed": 0, "ratio": 0.5, "parameters": 1000, "macs": 12_345_678}
                | {"metric": "accuracy", "condition": f"fog/{index}", "value": 0.9 - drop, "parent": 0.9}
                | {"drop": drop, "drop_low": drop - 0.01, "drop_high": drop + 0.01, "tolerance": 0.05}
                | {"verdict": state, "passed": drop <= 0.05, "decidable": True, "controls": 2}
                | {"controls_failed": int(index == 19), "reason": "", "flags": "", "sample": ""}
                | {"images": 899, "images_available": 899, "stopping": ""}
            )
    suite = {**findings.record["suite"], "check": {"undecided": "measured", "controls": ["control a"]}}
    return dataclasses.replace(
        findings,
        checked=pd.DataFrame(rows, columns=list(check_verdicts.COLUMNS)),
        record={**findings.record, "suite": suite},
    )


@pytest.fixture(name="compared")
def _compared(synthesis: Callable[..., ReportData]) -> ReportData:
    """Two runs side by side, on two data sets, of which one has a control."""
    names = ("magnitude (a)", "magnitude (b)", "random (b)")
    return dataclasses.replace(
        synthesis(methods=names),
        controls=("random (b)",),
        runs={name: name[-2] for name in names},
        data_sets={name: f"data of {name[-2]}" for name in names},
    )


DENSE, RANDOM = Key("dense", 0, 0.0), Key("random", 0, 0.5)
CORRECT = {
    DENSE: [1, 1, 1, 1, 0, 1],
    Key("magnitude", 0, 0.5): [1, 1, 0, 1, 1, 1],
    Key("magnitude", 0, 0.9): [1, 0, 0, 1, 0, 1],
    RANDOM: [1, 1, 0, 1, 0, 0],
}
"""Which of six images each network of a small run classifies correctly."""


def candidate_of(key: Key) -> Candidate:
    cost = Cost(100, 50, 90, 45, 1_000, 500, 400)
    ratio = key.target_ratio
    return Candidate(
        key.method, key.seed, ratio, ratio, ratio, cost, f"w{key.method}{ratio}", {"name": "net"}
    )


def score_of(metric: str, condition: str, group: str = "", **evidence: Any) -> Score:
    arrays = {name: np.asarray(values) for name, values in evidence.items()}
    (first, *_) = arrays.values()
    return Score(metric, condition, float(first.mean()), len(first), arrays, group)


def run_of(path: Path, scores: Mapping[Key, Sequence[Score]], **record: Any) -> Run:
    by_place = {
        (key, score.metric, score.condition): score for key, several in scores.items() for score in several
    }
    suite = {
        "seeds": [0],
        "producers": [{"label": "magnitude"}],
        "evaluators": [],
        "data": {"name": "digits"},
    }
    stand_in = SimpleNamespace(
        path=path,
        record={"suite": suite, "inputs": {"a": 1}, **record},
        comparison=SimpleNamespace(scores=by_place, on_all_images=by_place),
        candidates={key: candidate_of(key) for key in CORRECT},
        axis="",
        controls=(),
        notes=list(record.get("notes") or ()),
        plan=SimpleNamespace(tests=[SimpleNamespace(inputs="a")]),
    )
    return cast("Run", stand_in)


@pytest.fixture
def candidate() -> Callable[[Key], Candidate]:
    """The function from an address to the record of a candidate."""
    return candidate_of


@pytest.fixture
def score() -> Callable[..., Score]:
    """The function from metric, condition, group and evidence to a score."""
    return score_of


@pytest.fixture
def run_with(tmp_path: Path) -> Callable[..., Run]:
    """The function from scores by network, and keys of the record, to what the report reads of a run."""
    return partial(run_of, tmp_path)


@pytest.fixture
def measured() -> Callable[[Path], Run]:
    """The function from a folder to a run there whose networks' accuracy is measured."""
    clean = {key: [score_of("accuracy", "clean", test=np.array(CORRECT[key], bool))] for key in CORRECT}
    return lambda path: run_of(path, clean)
