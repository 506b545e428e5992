"""A suite file read: every mistake has its own sentence with file, table, key and near miss."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.config.manifest import read_manifest
from evalsuite.config.options import Options
from evalsuite.config.suite import Suite
from evalsuite.config.suite_file import find_suite, load_suite, parse_suite, shipped_suites
from evalsuite.datasets import DATASETS
from evalsuite.errors import SuiteError, UserError
from evalsuite.evaluators import EVALUATORS
from evalsuite.evaluators.attack import Attack
from evalsuite.models import MODELS
from evalsuite.plugin_config import OPTIONAL_KEY, from_table
from evalsuite.producers import PRODUCERS
from evalsuite.training.published_recipes import named_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalsuite.registry import Registry

TOP = """
name = "mistakes"
seeds = [0, 3]
ratios = [0.5, 0.9]
control = false
"""
TABLES = """
[data]
name = "digits"
[model]
name = "small-cnn"
[recipe]
epochs = 1
[[producers]]
name = "magnitude"
[[producers]]
name = "random"
[[evaluators]]
name = "accuracy"
[[evaluators]]
name = "noise"
epsilons = [16]
[[evaluators]]
name = "calibration"
[tolerances]
accuracy = 0.01
"""
SOURCE = Path("somewhere", "mistakes.toml")


def read(text: str = TOP + TABLES) -> Suite:
    return parse_suite(text, source=SOURCE)


def changed(changes: Mapping[str, str]) -> str:
    text = TOP + TABLES
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text


MISTAKES = [
    # the top level
    pytest.param({"seeds =": "sedes ="}, [r"unknown key 'sedes'", r"did you mean 'seeds'"], id="unknown key"),
    pytest.param({'name = "mistakes"': ""}, [r"the key 'name' is missing"], id="no name"),
    pytest.param({'name = "mistakes"': 'name = "a/b"'}, [r"found name = 'a/b'", "folder"], id="name with a slash"),
    pytest.param({'name = "mistakes"': 'name = ".."'}, [r"found name = '\.\.'"], id="name that climbs"),
    pytest.param({'name = "mistakes"': 'name = ""'}, [r"found name = ''"], id="empty name"),
    pytest.param({'name = "mistakes"': "name = 3"}, [r"key 'name': found 3", "string"], id="number for text"),
    pytest.param({"[0, 3]": '["0"]'}, [r"key 'seeds'\[0\]: found '0'", "integer"], id="text for a count"),
    pytest.param({"[0, 3]": "[0.5]"}, [r"key 'seeds'\[0\]: found 0\.5", "integer"], id="fraction for a count"),
    pytest.param({"[0, 3]": "[1.0]"}, [r"key 'seeds'\[0\]: found 1\.0", "integer"], id="float for a count"),
    pytest.param({"[0, 3]": "[true]"}, [r"key 'seeds'\[0\]: found True", "integer"], id="bool for a count"),
    pytest.param({"[0, 3]": "0"}, [r"key 'seeds': found 0", "array|tuple|list"], id="one number for a list"),
    pytest.param({"[0, 3]": "[]"}, [r"found seeds = \[\]"], id="no seeds"),
    pytest.param({"[0, 3]": "[3, 3]"}, [r"found seeds = \[3, 3\]", "different"], id="seed twice"),
    pytest.param({"[0, 3]": "[-1]"}, [r"found seeds = \[-1\]", "from 0 on"], id="negative seed"),
    pytest.param({"ratios = [0.5, 0.9]": ""}, [r"found ratios = \[\]", r"\(0, 1\)"], id="no key ratios"),
    pytest.param({"[0.5, 0.9]": "[]"}, [r"found ratios = \[\]", r"\(0, 1\)"], id="no ratios"),
    pytest.param({"[0.5, 0.9]": "[0.0, 0.9]"}, [r"found the ratio 0\.0", r"\(0, 1\)"], id="ratio 0"),
    pytest.param({"[0.5, 0.9]": "[0.5, 1]"}, [r"found the ratio 1\.0", r"\(0, 1\)"], id="ratio 1"),
    pytest.param({"[0.5, 0.9]": "[50, 90]"}, [r"found the ratio 50", r"\(0, 1\)"], id="per cent"),
    pytest.param({"[0.5, 0.9]": "[0.5, nan]"}, [r"found the ratio nan", r"\(0, 1\)"], id="ratio NaN"),
    pytest.param({"[0.5, 0.9]": "[0.9, 0.5]"}, [r"found ratios = \[0\.9, 0\.5\]", "rising"], id="falling"),
    pytest.param({"[0.5, 0.9]": "[0.5, 0.5]"}, [r"found ratios = \[0\.5, 0\.5\]", "repeats"], id="repeated"),
    pytest.param({"[0.5, 0.9]": '[0.5, "0.9"]'}, [r"key 'ratios'\[1\]: found '0\.9'", "number"], id="text ratio"),
    pytest.param({"seeds =": "threads = 0\nseeds ="}, [r"found threads = 0", "at least 1"], id="no threads"),
    pytest.param({"[data]": "[dat]"}, [r"unknown key 'dat'", r"did you mean 'data'"], id="unknown table"),
    pytest.param({'[data]\nname = "digits"': ""}, [r"the key 'data' is missing"], id="no data"),
    pytest.param({"[[producers]]": "[[x]]"}, [r"unknown key 'x'"], id="unknown array of tables"),
    pytest.param({"seeds =": "producers = []\nseeds ="}, ["not valid TOML"], id="a key twice"),
    pytest.param({"ratios =": "ratios"}, ["not valid TOML", r"line 4"], id="not TOML"),
    # plug-ins
    pytest.param(
        {'"digits"': '"digit"'}, [r"\[data\]", r"unknown data set 'digit'", r"did you mean 'digits'"],
        id="unknown data set",
    ),
    pytest.param(
        {'"small-cnn"': '"smal-cnn"'}, [r"\[model\]", r"unknown model 'smal-cnn'", r"mean 'small-cnn'"],
        id="unknown model",
    ),
    pytest.param(
        {'"magnitude"': '"magnitud"'}, [r"\[\[producers\]\]", r"unknown producer 'magnitud'", r"mean 'magnitude'"],
        id="unknown producer",
    ),
    pytest.param(
        {'"noise"': '"noice"'}, [r"\[\[evaluators\]\]", r"unknown evaluator 'noice'", r"mean 'noise'"],
        id="unknown evaluator",
    ),
    pytest.param(
        {'name = "noise"\nepsilons = [16]': 'name = "ood"\nnear = ["leters"]'},
        [r"\[\[evaluators\]\], ood", r"unknown data set 'leters'", r"mean 'letters'"],
        id="unknown data set of an evaluator",
    ),
    pytest.param({'name = "digits"\n[model]': "[model]"}, [r"\[data\]", "found no name", "digits"], id="nameless"),
    pytest.param({'name = "digits"': "name = 3"}, [r"\[data\]", "found no name"], id="a number for a name"),
    pytest.param(
        {"epsilons = [16]": "epsilon = [16]"},
        [r"\[\[evaluators\]\], noise", r"unknown key 'epsilon'", r"did you mean 'epsilons'"],
        id="unknown key of a plug-in",
    ),
    pytest.param(
        {"epsilons = [16]": 'epsilons = ["16"]'},
        [r"\[\[evaluators\]\], noise, key 'epsilons'\[0\]: found '16'", "number"],
        id="text for a number",
    ),
    pytest.param(
        {"epsilons = [16]": "epsilons = [true]"},
        [r"\[\[evaluators\]\], noise, key 'epsilons'\[0\]: found True", "number"],
        id="bool for a number",
    ),
    pytest.param(
        {"epsilons = [16]": "epsilons = []"},
        [r"\[\[evaluators\]\], noise", r"found epsilons = \[\]", "at least one"],
        id="empty list of a plug-in",
    ),
    pytest.param(
        {'"calibration"': '"calibration"\nheld_out = "test"'},
        [r"\[\[evaluators\]\], calibration, key 'held_out': found 'test'", "'validation' or 'cross-fit'"],
        id="word that is no choice",
    ),
    pytest.param(
        {'"small-cnn"': '"small-cnn"\nwidths = [4, 4, 4]'}, [r"\[model\], small-cnn, key 'widths'"],
        id="too few numbers",
    ),
    pytest.param(
        {'"small-cnn"': '"small-cnn"\nwidths = [4, 4, 4, 0]'},
        [r"\[model\], small-cnn", r"found widths = \(4, 4, 4, 0\)", "at least 1"],
        id="setting that the model refuses",
    ),
    pytest.param(
        {"epochs": "epoch"}, [r"\[recipe\]", r"unknown key 'epoch'", r"did you mean 'epochs'"],
        id="unknown key of the recipe",
    ),
    pytest.param({"epochs = 1": "epochs = 0"}, [r"\[recipe\]", r"found epochs = 0"], id="no epochs"),
    pytest.param(
        {"epochs = 1": "epochs = 1.5"}, [r"\[recipe\], key 'epochs': found 1\.5", "integer"], id="half an epoch"
    ),
    pytest.param(
        {'name = "random"': 'name = "magnitude"'}, [r"\[\[producers\]\]", r"the label 'magnitude' is there twice"],
        id="label twice",
    ),
    pytest.param(
        {'name = "random"': 'name = "random"\nlabel = "dense"'},
        [r"\[\[producers\]\]", r"the label 'dense' is reserved for the parent"],
        id="label of the parent",
    ),
    pytest.param(
        {'name = "noise"': 'name = "noise"\nlabel = "production"'},
        [r"\[\[evaluators\]\]", r"the label 'production' is reserved for"],
        id="label of the production",
    ),
    pytest.param(
        {'name = "random"': 'name = "random"\nlabel = " "'}, [r"\[\[producers\]\]", "found label = ' '"],
        id="blank label",
    ),
    # tolerances
    pytest.param(
        {"accuracy = 0.01": "acuracy = 0.01"},
        [r"\[tolerances\]", r"no evaluator of this suite reports metric 'acuracy'", r"did you mean 'accuracy'"],
        id="tolerance for nothing",
    ),
    pytest.param(
        {"accuracy = 0.01": "accuracy = -0.01"}, [r"\[tolerances\]: accuracy: the tolerance is -0\.01", "at least 0"],
        id="negative tolerance",
    ),
    pytest.param(
        {"accuracy = 0.01": "accuracy = inf"}, [r"\[tolerances\]: accuracy: the tolerance is inf"],
        id="infinite tolerance",
    ),
    pytest.param(
        {"accuracy = 0.01": "temperature = 0.1"}, [r"\[tolerances\]", r"temperature has no direction"],
        id="tolerance without a direction",
    ),
    pytest.param(
        {"accuracy = 0.01": 'accuracy = "little"'}, [r"\[tolerances\]: accuracy: the tolerance is 'little'", "'5%'"],
        id="text for a tolerance",
    ),
    pytest.param(
        {"accuracy = 0.01": 'accuracy = {clean = -1}'}, [r"\[tolerances\]: accuracy: the tolerance on 'clean' is -1"],
        id="negative tolerance of a condition",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentences"), MISTAKES)
def test_each_mistake_has_its_own_sentence(changes: Mapping[str, str], sentences: list[str]) -> None:
    with pytest.raises(SuiteError) as caught:
        read(changed(changes))
    message = str(caught.value)
    assert message.startswith(str(SOURCE))
    assert "\n" not in message
    for sentence in sentences:
        assert re.search(sentence, message), message


def test_a_sentence_without_near_miss_lists_what_there_is() -> None:
    with pytest.raises(
        SuiteError, match=r"unknown producer 'zzz'; known: .*filter-l1, .*magnitude, .*random"
    ):
        read(changed({'"magnitude"': '"zzz"'}))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.toml", r"suite nowhere\.toml: no such file.*digits"),
        ("digit", r"unknown suite 'digit': did you mean 'digits'"),
    ],
)
def test_a_suite_that_is_not_there(name: str, sentence: str) -> None:
    with pytest.raises(SuiteError, match=sentence):
        load_suite(name)


def test_a_folder_is_no_suite_and_hides_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "folder").mkdir()
    assert find_suite("digits") == shipped_suites()["digits"]
    with pytest.raises(SuiteError, match="suite folder: no such file"):
        find_suite("folder")


@pytest.mark.parametrize("name", ["study.tml", "studdy.toml", "study"])
def test_a_mistyped_file_of_a_suite_is_suggested(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text("")
    with pytest.raises(SuiteError, match=r"did you mean the file study\.toml\?"):
        find_suite(name)
    with pytest.raises(SuiteError) as caught:
        find_suite("nothing like it")
    assert "did you mean" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "picture.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match=r"picture\.toml cannot be read"):
        load_suite(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_in_front_of_a_text_is_no_mistake(encoding: str, tmp_path: Path) -> None:
    text = find_suite("digits").read_text("utf-8")
    (tmp_path / "marked.toml").write_text(text, encoding, newline="\r\n")
    (tmp_path / "plain.toml").write_text(text, "utf-8")
    marked, plain = (load_suite(tmp_path / f"{name}.toml") for name in ("marked", "plain"))
    assert marked.evaluators == plain.evaluators
    assert marked.producers == plain.producers


@pytest.mark.parametrize(
    "deep", ["x = " + "[" * 500 + "]" * 500, "x = " + "{a=" * 400 + "1" + "}" * 400, "a." * 60 + "b = 1"]
)
def test_tables_without_end_are_a_sentence(deep: str, tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(deep)
    for read in (load_suite, read_manifest):
        with pytest.raises(SuiteError, match=r"deep\.toml: found tables or lists nested more than 20 deep"):
            read(tmp_path / "deep.toml")


@pytest.mark.parametrize(
    ("top", "sentence"),
    [
        (
            f"ratios = {[i / 100_001 for i in range(1, 100_001)]}",
            "found 100,000 ratios, expected at most 2,000",
        ),
        (f"ratios = {[0.5, 0.4] * 50_000}", r"ratios = \[0\.5, 0\.4, .* and 99992 more\], expected rising"),
        (
            f"seeds = {[*range(60_000)]}",
            r"found 300,000 models \(60,000 seeds, 2 methods, 2 ratios\), expected at",
        ),
        (f"seeds = {[1] * 20_000}", r"seeds = \[1, 1, 1, .* and 19992 more\], expected different integers"),
    ],
    ids=["ratios", "falling ratios", "seeds", "equal seeds"],
)
def test_numbers_that_nobody_means_are_a_short_sentence(top: str, sentence: str) -> None:
    key = top.partition(" ")[0]
    old = {"ratios": "ratios = [0.5, 0.9]", "seeds": "seeds = [0, 3]"}[key]
    with pytest.raises(SuiteError, match=sentence) as refused:
        read(changed({old: top}))
    assert len(str(refused.value)) < 300


PLUGIN = """
from dataclasses import dataclass
from evalsuite.plugins import register_producer
from evalsuite.producers.base import Producer
{decorator}
class Mine({base}):
    "One line."
    {body}
"""
WHOLE = "def produce(self, parent, ratios, context):\n        yield parent"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(None, r"plug-in file .*mine\.py: no such Python file", id="missing"),
        pytest.param(
            "1 / 0", r"plug-in file .*mine\.py does not run: ZeroDivisionError: division", id="raises"
        ),
        pytest.param("def", r"plug-in file .*mine\.py does not run: SyntaxError", id="no Python"),
        pytest.param("import nowhere_at_all", r"mine\.py does not run: ModuleNotFoundError", id="no module"),
        pytest.param("raise SystemExit(3)", r"mine\.py does not run: SystemExit", id="leaves"),
        pytest.param(
            PLUGIN.format(
                decorator='@register_producer("magnitude")\n@dataclass(frozen=True)',
                base="Producer",
                body=WHOLE,
            ),
            r"the producer name 'magnitude' is taken by evalsuite\.producers\.unstructured\.magnitude:Magnitude",
            id="taken name",
        ),
        pytest.param(
            PLUGIN.format(decorator='@register_producer("bare-plug-in")', base="Producer", body=WHOLE),
            r"\[\[producers\]\], bare-plug-in: .*Mine.* frozen dataclass",
            id="no dataclass",
        ),
        pytest.param(
            PLUGIN.format(
                decorator='@register_producer("bare-plug-in")\n@dataclass(frozen=True)',
                base="Producer",
                body="",
            ),
            r"\[\[producers\]\], bare-plug-in: .*abstract.*produce",
            id="no produce",
        ),
    ],
)
def test_a_plug_in_file_that_does_not_serve(
    content: str | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PRODUCERS, "_loaded", dict(PRODUCERS._loaded))
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    text = changed({"seeds =": 'plugins = ["mine.py"]\nseeds =', '"magnitude"': '"bare-plug-in"'})
    with pytest.raises(SuiteError, match=sentence):
        parse_suite(text, source=tmp_path / "mistakes.toml")


def test_a_plug_in_file_beside_the_suite_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PRODUCERS, "_loaded", dict(PRODUCERS._loaded))
    decorator = '@register_producer("own-plug-in")\n@dataclass(frozen=True)'
    (tmp_path / "mine.py").write_text(
        PLUGIN.format(decorator=decorator, base="Producer", body=f"x: int = 2\n    {WHOLE}")
    )
    text = changed({"seeds =": 'plugins = ["mine.py"]\nseeds =', '"magnitude"': '"own-plug-in"\nx = 5'})
    first = parse_suite(text, source=tmp_path / "mistakes.toml")
    again = parse_suite(text, source=tmp_path / "mistakes.toml")
    assert first == again
    assert first.producers[0].table == {"name": "own-plug-in", "x": 5}


def test_two_evaluators_may_not_mean_different_things_by_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EVALUATORS, "_loaded", dict(EVALUATORS._loaded))
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from evalsuite.plugins import register_evaluator\n"
        "from evalsuite.evaluators.base import Evaluator\n"
        "from evalsuite.types import Metric\n"
        '@register_evaluator("liar")\n@dataclass(frozen=True)\n'
        'class Liar(Evaluator):\n    "One line."\n    needs = ()\n'
        '    metrics = (Metric("accuracy", False, "per cent", "The opposite."),)\n'
        "    def evaluate(self, bench):\n        yield from ()\n"
    )
    text = changed({"seeds =": 'plugins = ["mine.py"]\nseeds =', '"noise"\nepsilons = [16]': '"liar"'})
    with pytest.raises(SuiteError, match=r"liar: another evaluator means something else by 'accuracy'"):
        parse_suite(text, source=tmp_path / "mistakes.toml")


def test_what_is_left_out_has_its_default_and_what_is_said_is_kept() -> None:
    suite = read()
    assert (suite.name, suite.seeds, suite.ratios) == ("mistakes", (0, 3), (0.5, 0.9))
    assert (suite.threads, suite.checkpoint, suite.description, suite.plugins) == (1, "", "", ())
    assert [choice.label for choice in suite.producers] == ["magnitude", "random"]
    assert suite.recipe.epochs == 1
    assert suite.tolerances == {"accuracy": 0.01}
    assert {"accuracy", "nll", "agreement", "temperature", "brier"} <= set(suite.metrics)
    assert suite.evaluators[1].settings["epsilons"] == [16.0]


@pytest.mark.parametrize(
    "registry", [PRODUCERS, EVALUATORS, MODELS, DATASETS], ids=lambda registry: registry.kind
)
def test_the_table_of_a_choice_makes_the_same_choice_again(registry: Registry[Any], vit_folder: Path) -> None:
    required: dict[str, dict[str, Any]] = {
        "function": {"target": "torch.nn.utils.prune:remove"},
        "ood": {"far": ["letters"]},
        "shift": {"sets": ["cifar10.1"]},
        "folder": {"path": "x"},
        "image-list": {"path": "x.txt"},
        "huggingface": {"path": "x"},
        "arrays": {"folder": "x", "classes": 3},
        "python": {"target": "torch.nn:Identity"},
        "hf": {"model": str(vit_folder)},
        "robustbench": {"model": "Standard"},
        "timm": {"model": "resnet18"},
        "torchvision": {"model": "resnet18"},
    }
    for name in registry:
        kind = dataclasses.fields(registry.get(name))
        fields = {field.name for field in kind}
        always = {field.name for field in kind if not OPTIONAL_KEY.items() <= field.metadata.items()}
        table = {
            "name": name,
            **{key: value for key, value in required.get(name, {}).items() if key in fields},
        }
        choice = from_table(registry, table, where="test")
        assert from_table(registry, choice.table, where="test") == choice
        assert {"name"} | always <= set(choice.table) <= {"name"} | fields


@given(
    epsilons=st.lists(
        st.floats(0.001, 255) | st.integers(1, 255),
        min_size=1,
        max_size=3,
        unique_by=lambda epsilon: f"{epsilon:g}",
    ),
    steps=st.integers(1, 50),
    images=st.integers(0, 500),
)
def test_settings_survive_their_own_table(epsilons: list[float], steps: int, images: int) -> None:
    table = {"name": "attack", "epsilons": epsilons, "steps": steps, "images": images}
    choice = from_table(EVALUATORS, table, where="test")
    assert choice.plugin == Attack(epsilons=tuple(map(float, epsilons)), steps=steps, images=images)
    assert from_table(EVALUATORS, choice.table, where="test").plugin == choice.plugin


def test_every_suite_that_ships_can_be_read() -> None:
    assert "digits" in shipped_suites()
    for name in shipped_suites():
        suite = load_suite(name)
        assert suite.name == name
        assert suite.description
        assert suite.tolerances


def test_a_producer_may_retrain_by_a_recipe_of_its_own() -> None:
    own_recipe = {'name = "random"': 'name = "random"\nretraining = {epochs = 7}'}
    suite = read(changed({**own_recipe, "[recipe]": "[recipe]\nlearning_rate = 0.3"}))
    assert suite.retraining_of("magnitude") == suite.retraining
    own = suite.retraining_of("random")
    assert (own.epochs, own.learning_rate) == (7, 0.3)
    published = read(changed({'name = "random"': 'name = "random"\nretraining = "lost-cifar-resnet"'}))
    assert published.retraining_of("random").epochs == 182


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ("3", "random: found retraining = 3, expected a recipe's name or a table"),
        ('"lost-cifar-resnt"', "unknown recipe 'lost-cifar-resnt': did you mean 'lost-cifar-resnet'"),
        ("{epoch = 3}", "random: unknown key 'epoch': did you mean 'epochs'"),
    ],
)
def test_a_retraining_that_is_none_is_named(own: str, sentence: str) -> None:
    with pytest.raises(SuiteError, match=re.escape(sentence)):
        read(changed({'name = "random"': f'name = "random"\nretraining = {own}'}))


def test_a_recipe_that_is_asked_for_stands_for_all_of_the_suites() -> None:
    suite = read(changed({'name = "random"': 'name = "random"\nretraining = {epochs = 7}'}))
    asked = Options(recipe="rethinking-cifar").applied(suite)
    assert (
        asked.recipe == asked.retraining == asked.retraining_of("random") == named_recipe("rethinking-cifar")
    )
    with pytest.raises(UserError, match="unknown recipe 'x'"):
        Options(recipe="x").applied(suite)
