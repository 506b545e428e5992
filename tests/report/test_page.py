"""The page as a whole: true numbers, no markup from outside, nothing from the network, well formed."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from evalsuite.datasets.transforms.common_corruptions import kinds as corruptions
from evalsuite.errors import StoreError
from evalsuite.report import labels, verdict_cards
from evalsuite.report.breakdown import breakdown
from evalsuite.report.comparability import SETUPS, TOTALS
from evalsuite.report.diagnostics import glossary
from evalsuite.report.page import page, write_page
from evalsuite.types import Metric, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from evalsuite.report.data import ReportData
    from evalsuite.types import PictureKind

VOID = {"meta", "link", "input", "br", "col", "img", "hr"}
ATTACK = "<script>alert(1)</script>\"' onload=x \u2028</script><!--"


class Reader(HTMLParser):
    """Checks that tags balance, and keeps what tests look at."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[str(self.tags[-1][1].get("id"))] = data
        elif self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def attributes(self, name: str) -> Iterator[str]:
        return (str(found[name]) for _, found in self.tags if found.get(name) is not None)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def text(findings: ReportData) -> str:
    return page(findings)


def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(text: str) -> None:
    reader = read(text)
    ids = list(reader.attributes("id"))
    assert len(ids) == len(set(ids))
    links = {href.removeprefix("#") for href in reader.attributes("href") if href.startswith("#")}
    targets = {link for link in links if not link.startswith("curve=")}
    assert targets <= set(ids)
    drawn = {(c["condition"], c["metric"]) for c in json.loads(reader.scripts["curve-data"])["curves"]}
    choices = [parse_qs(link, strict_parsing=True) for link in links - targets]
    assert len(choices) >= 8
    assert {(choice["curve"][0], choice["metric"][0]) for choice in choices} <= drawn
    assert {"answer", "curves", "diagnostics", "glossary"} <= targets


def test_tables_are_tables(text: str) -> None:
    reader = read(text)
    headers = [found for tag, found in reader.tags if tag == "th"]
    assert len(headers) > 100
    assert all(found.get("scope") in ("row", "col", "rowgroup", "colgroup") for found in headers)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("caption") == tags.count("table") == 3 + 3 + 3  # a map and bars for each method
    assert all(found.get("aria-label") for _, found in reader.tags if found.get("role") in ("region", "img"))


def test_nothing_comes_from_the_network(text: str) -> None:
    reader = read(text)
    for name in ("src", "href", "action", "data", "poster", "srcset"):
        for address in reader.attributes(name):
            assert address.startswith(("#", "data:")), address
    assert "@import" not in text
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert all(address.startswith('"data:image/') for address in re.findall(r"url\(([^)]*)", style))
    policy = next(
        str(f["content"]) for _, f in reader.tags if f.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    scripts = policy.partition("script-src")[2].partition(";")[0]
    assert "unsafe" not in scripts
    assert scripts.count("'sha256-") == 5


def test_the_table_has_the_numbers_of_the_frame_to_the_digit(findings: ReportData, text: str) -> None:
    shown = re.findall(r'<td class="num potential"[^>]*?><data value="([^"]+)">', text)
    failures = re.findall(r'<td class="num failure"><data value="([^"]+)">', text)
    rows = findings.thresholds[findings.thresholds["seed"] == "all"]
    assert sorted(map(float, shown)) == sorted(rows["potential"])
    assert sorted(map(float, failures)) == sorted(rows["first_failure"].dropna())


def test_the_curves_have_the_numbers_of_the_frame_to_the_digit(findings: ReportData, text: str) -> None:
    data = json.loads(read(text).scripts["curve-data"])
    found = {}
    for curve in data["curves"]:
        for index, value, *_ in curve["points"]:
            candidate = data["candidates"][index]
            key = (candidate["method"], candidate["seed"], candidate["target_ratio"])
            found[(*key, curve["metric"], curve["condition"])] = value
    keys = ["method", "seed", "target_ratio", "metric", "condition"]
    assert found == findings.measurements.set_index(keys)["value"].to_dict()


def test_the_band_is_the_interval_of_the_drop_around_the_value(findings: ReportData, text: str) -> None:
    data = json.loads(read(text).scripts["curve-data"])
    for metric, sign in (("accuracy", -1), ("nll", 1)):
        curve = next(c for c in data["curves"] if (c["metric"], c["condition"]) == (metric, "clean"))
        index, value, low, high = curve["points"][3]
        row = _row(findings.measurements, data["candidates"][index], metric)
        ends = sorted(value + sign * (row[end] - row["drop"]) for end in ("drop_low", "drop_high"))
        assert [low, high] == pytest.approx(ends, rel=1e-5)
        assert low < value < high


def _row(measurements: pd.DataFrame, candidate: dict[str, Any], metric: str) -> Any:
    same = (measurements["metric"] == metric) & (measurements["condition"] == "clean")
    for key in ("method", "target_ratio"):
        same &= measurements[key] == candidate[key]
    return measurements[same].iloc[0]


def test_markup_in_texts_of_a_run_is_escaped(synthesis: Callable[..., ReportData]) -> None:
    found = synthesis(methods=(ATTACK, "magnitude"), failures=2)
    measurements = found.measurements.assign(reason=ATTACK, evaluator=ATTACK)
    measurements.loc[measurements["group"] == "noise", "condition"] = ATTACK
    thresholds = found.thresholds.copy()
    thresholds.loc[thresholds["group"] == "noise", "condition"] = ATTACK
    metrics = {name: Metric(name, True, ATTACK, ATTACK) for name in found.metrics}
    record: dict[str, Any] = {
        "suite": {"name": ATTACK, "description": ATTACK},
        "command": ATTACK,
        ATTACK: ATTACK,
    }
    record |= {"notes": [{"method": ATTACK, "seed": ATTACK, "note": ATTACK}], "versions": {ATTACK: ATTACK}}
    kinds: tuple[PictureKind, ...] = ("misclassified", "corruption", "attack")
    attacked = dataclasses.replace(
        found,
        measurements=measurements.assign(flags=ATTACK),
        thresholds=thresholds,
        metrics=metrics,
        record=record,
        pictures=tuple(Picture(kind, ATTACK, ATTACK, ATTACK, b"") for kind in kinds[:2]),
        no_pictures={kinds[2]: ATTACK},
        robust=_rows(norm="linf", attack=ATTACK, epsilon=[0.0, 1.0], value=0.5, n=9, ratio=[0.0, 0.5]),
        histograms=_rows(
            detector=ATTACK, sample=ATTACK, group="ood-near", low=0.0, high=1.0, count=3, ratio=0.5
        ),
        comparability=_rows(
            first=ATTACK,
            second=ATTACK,
            pairs=1,
            setup=None,
            fair=False,
            why=ATTACK,
            **dict.fromkeys([*SETUPS, *TOTALS], False),
        ),
    )
    reader = read(page(attacked))
    assert reader.words.count(ATTACK.partition(" ")[0]) > 40
    assert ATTACK.partition(" ")[0] in reader.words
    scripts = [found for tag, found in reader.tags if tag == "script"]
    assert len(scripts) == 3 + 1 + 4
    assert not any("onload" in found for _, found in reader.tags)
    data = json.loads(reader.scripts["curve-data"])
    assert data["methods"][0] == ATTACK
    assert not set("<>&\u2028") & set(
        "".join(reader.scripts[name] for name in ("curve-data", "charts", "breakdown-data"))
    )


def _rows(**columns: Any) -> pd.DataFrame:
    """Rows about a method whose name is an attack."""
    import pandas as pd

    about = {"method": ATTACK, "seed": 0, "target_ratio": 0.5}
    several = {name: value for name, value in columns.items() if isinstance(value, list)}
    return pd.DataFrame(several or {"method": [ATTACK]}).assign(**{**about, **columns})


def test_failures_are_shown_with_their_reason(synthesis: Callable[..., ReportData], text: str) -> None:
    words = read(page(synthesis(failures=5))).words
    assert "5 numbers are missing." in words
    assert "RuntimeError: attack <b>diverged</b>" in words
    calm = read(text).words
    assert "missing" not in calm
    assert "no cell failed, none was skipped" in calm


def test_several_seeds_stand_beside_their_mean(synthesis: Callable[..., ReportData]) -> None:
    data = synthesis(seeds=(0, 1, 2))
    text = page(data)
    reader = read(text)
    table = data.thresholds
    mine = (
        (table["method"] == "magnitude") & (table["metric"] == "accuracy") & (table["condition"] == "clean")
    )
    each = table[mine & (table["seed"] != "all")]["potential"]
    assert " · ".join(f"{100 * ratio:.1f}" for ratio in each) in reader.words
    both = table[mine & (table["seed"] == "all")].iloc[0]
    mean, std = (100 * both[f"potential_any_{name}"] for name in ("mean", "std"))
    assert f"∅ {mean:.1f} ± {std:.1f}" in reader.words
    assert len(json.loads(reader.scripts["curve-data"])["candidates"]) == 3 * (1 + 3 * 6)


def test_one_method_is_enough(synthesis: Callable[..., ReportData]) -> None:
    reader = read(page(synthesis(methods=("magnitude",))))
    assert [tag for tag, found in reader.tags if found.get("role") == "rowheader"] == ["th"]


def test_without_tolerances_the_page_has_no_thresholds(synthesis: Callable[..., ReportData]) -> None:
    data = synthesis(tolerances={})
    assert data.thresholds.empty
    reader = read(page(data))
    assert "No tolerance was set" in reader.words
    assert "matrix" not in list(reader.attributes("class"))
    assert json.loads(reader.scripts["curve-data"])["curves"]


def test_a_run_in_which_everything_failed_still_has_a_page(synthesis: Callable[..., ReportData]) -> None:
    data = synthesis(tolerances={})
    broken = data.measurements.assign(status="error", value=float("nan"), reason="no memory", n=None)
    reader = read(page(dataclasses.replace(data, measurements=broken, reliability=data.reliability.head(0))))
    assert "Nothing was measured." in reader.words
    assert "no memory" in reader.words


def test_the_same_findings_give_the_same_bytes(findings: ReportData, text: str) -> None:
    assert page(findings) == text


@pytest.mark.extensive
def test_a_large_run_stays_small(synthesis: Callable[..., ReportData]) -> None:
    large = synthesis(
        methods=tuple("abcde"), ratios=tuple((i + 1) / 21 for i in range(20)), severities=(1, 5)
    )
    assert large.measurements["condition"].nunique() >= 40
    assert len(page(large).encode()) < 5_000_000


def test_write_replaces_the_page_and_leaves_nothing_else(findings: ReportData, tmp_path: Path) -> None:
    folder = tmp_path / "a run" / "of mine"
    first = write_page(findings, folder)
    assert write_page(findings, folder) == first == folder / "index.html"
    assert [path.name for path in folder.iterdir()] == ["index.html"]
    assert first.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_the_page_is_on_the_disk_before_it_replaces_the_old_one(
    findings: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without, a machine that loses power after the rename has an empty page and no old one."""
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        steps.append("sync file" if name.startswith(".index.html.") else "sync folder")
        sync(handle)

    def renamed(old: Any, new: Any, **options: Any) -> None:
        steps.append(f"rename to {Path(new).name}")
        replace(old, new, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    write_page(findings, tmp_path)
    assert steps == ["sync file", "rename to index.html", "sync folder"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(findings: ReportData, tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(
        StoreError, match=r"index.html cannot be written: .*; free space or name another folder"
    ):
        write_page(findings, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_report_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, torchvision=None)\n"
        "import evalsuite.report.page\n"
        "heavy = {'altair', 'vl_convert'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_approximate_corruptions_are_those_of_the_generator() -> None:
    assert set(labels.APPROXIMATE) == corruptions.APPROXIMATE


def test_the_page_shows_and_escapes_all_sections(full: ReportData) -> None:
    text = page(full)
    for words in (
        "Breakdown",
        "Comparability of the methods",
        "below S3.2",
        "5 and 7 epochs",
        "Computing time",
    ):
        assert words in text
    assert "<q>random" not in text
    assert "<i>3" not in text
    assert len(re.findall(r'<img src="data:image/png;base64,', text)) == 5
    assert len(re.findall('<div class="strip">', text)) == 3
    data = json.loads(text.partition('id="breakdown-data">')[2].partition("</script>")[0])
    assert data["drops"] == breakdown(full).data["drops"]


def test_a_control_is_no_unfair_comparison(full: ReportData) -> None:
    """Every run with a control said that its methods are not compared fairly, because the control is not pruned."""
    assert "not compared fairly" in page(full)
    assert "not compared fairly" not in page(dataclasses.replace(full, controls=("<q>random",)))


def test_detectors_and_their_measures_are_explained_once(full: ReportData) -> None:
    names = ("auroc", "fpr95_id_positive")
    metrics = {
        f"{detector}_{name}": Metric(
            f"{detector}_{name}", True, "fraction", f"The {name}; score: that of {detector}."
        )
        for detector in ("msp", "ash_b")
        for name in names
    }
    scaled = {name: Metric(name, False, "", f"A {name}.") for name in ("brier", "brier_scaled")}
    table = full.measurements.head(6).assign(metric=[*metrics, *scaled])
    entries = glossary(dataclasses.replace(full, measurements=table, metrics=metrics | scaled))
    assert [entry["name"] for entry in entries] == [
        "AUROC",
        "MSP (OOD detector)",
        "FPR95 ID positive",
        "ash b (OOD detector)",
        "brier",
        "... scaled",
    ]


def test_without_pictures_the_page_has_the_reason(findings: ReportData) -> None:
    text = page(dataclasses.replace(findings, no_pictures={"misclassified": "the images are <lost>"}))
    assert "None to show: the images are &lt;lost&gt;." in text
    assert "Comparability of the methods" not in text


@pytest.mark.parametrize(
    ("phrase", "term", "error"),
    [
        ("Fails from ", "fails from, shown to fail (inferior)", "in 0 to 1.0 %"),
        ("Holds up to ", "holds up to, shown to hold (non-inferior)", "too far in 0 of 200 samples"),
        ("it loses most in ", "fails from, shown to fail (inferior)", "<em>Loses most in</em>"),
        ("undecided", "undecided", "more images are needed"),
        ("chance alone", "chance alone", "400 exchanges"),
        ("Beyond the control", "control", "by the same tests"),
    ],
)
def test_each_sentence_of_the_first_screen_is_explained_with_its_error(
    phrase: str, term: str, error: str, findings: ReportData
) -> None:
    """What it says, how it is tested, and how often simulations found it wrong."""
    sentences = inspect.getsource(verdict_cards)
    assert phrase in sentences
    text = page(findings)
    entry = text.partition(f"<dt>{term}</dt><dd>")[2].partition("</dd>")[0]
    assert error in entry


def test_the_level_of_a_bar_is_not_that_of_named_checks(findings: ReportData) -> None:
    """Bars are tested one by one: one ended at 50 % where Holm's procedure named none of its checks below 70 %."""
    text = page(findings).replace("\N{NARROW NO-BREAK SPACE}", " ").replace("&#8239;", " ")
    legend = text.partition('<ul class="states">')[2].partition("</ul>")[0]
    assert "97.5 % for each bar by itself; where checks are named or counted, for all checks" in legend
    entry = text.partition("<dt>fails from, shown to fail (inferior)</dt><dd>")[2].partition("</dd>")[0]
    assert "at 2.5 % for each bar by itself" in entry
    everything = text.partition("<dt>everything</dt><dd>")[2].partition("</dd>")[0]
    assert "the worst of several attacks" in everything  # numbers beside bars add up with these alone


def test_non_inferior_has_one_level(findings: ReportData) -> None:
    """It is 97.5 % in every verdict; certified ratios, of tests at 95 %, were called so too."""
    text = page(findings)
    entry = text.partition("<dt>certified up to</dt><dd>")[2].partition("</dd>")[0]
    assert "at 95 %" in entry
    assert "non-inferior" not in entry


def test_one_word_is_not_used_for_what_is_shown_and_for_what_is_measured(findings: ReportData) -> None:
    table = page(findings).partition('id="every"')[2].partition("</table>")[0]
    assert "passes up to" in table
    assert "holds up to" not in table.lower()
