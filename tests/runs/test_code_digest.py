"""Code digests: which edits make results stale, on packages made for the purpose and on evalsuite itself."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evalsuite
from evalsuite import plugins
from evalsuite.errors import SuiteError
from evalsuite.evaluators import EVALUATORS
from evalsuite.producers import PRODUCERS
from evalsuite.registry import import_plugin_file
from evalsuite.runs import code_digest as module
from evalsuite.runs import source_modules, source_syntax
from evalsuite.runs.code_digest import Entry, closure, code_digest, third_party
from evalsuite.runs.source_modules import entry_module

SOURCES = Path(module.__file__).parents[1]

LAB = {
    "lab/__init__.py": "from lab import unused\n",
    "lab/plugin.py": '''
        """Measures areas."""

        from __future__ import annotations

        import math
        from typing import TYPE_CHECKING

        from lab import areas
        from lab.exports import twice
        from . import relative

        if TYPE_CHECKING:
            from lab.typed import Length
        else:
            from lab.running import Length


        class Plugin:
            """Measures one area."""

            def measure(self, side: Length) -> float:
                """Returns twice the area."""
                from lab.late import rounded  # heavy

                return rounded(twice(areas.square(side))) + math.pi + relative.zero()


        def unspoken() -> None:
            pass
    ''',
    "lab/areas.py": "def square(x):\n    return x * x\n",
    "lab/exports.py": "from lab.unused import thrice\nfrom lab.doubling import double as twice\nOTHER = 1\n",
    "lab/doubling.py": "def double(x):\n    return 2 * x\n",
    "lab/late.py": "def rounded(x):\n    return round(x)\n",
    "lab/relative.py": "def zero():\n    return 0\n",
    "lab/running.py": "Length = float\n",
    "lab/typed.py": "Length = float\n",
    "lab/unused.py": "def thrice(x):\n    return 3 * x\n",
}


@pytest.fixture(autouse=True)
def _all_modules_count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves no module of evalsuite out, so that small ones such as its exceptions can stand for all."""
    if "as_it_is" not in request.keywords:
        monkeypatch.setattr(module, "_WITHOUT_COMPUTATION", frozenset())
    forget()
    yield
    forget()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, of which nothing stays imported."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith(("lab", "evalsuite_plugin_")):
            del sys.modules[name]
    forget()


def forget() -> None:
    """Does what the start of another process does."""
    importlib.invalidate_caches()
    for part in (module, source_modules, source_syntax):
        for function in vars(part).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def write(folder: Path, files: Mapping[str, str | None]) -> None:
    """Writes files; ``None`` deletes one."""
    for name, text in files.items():
        path = folder / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))


def digest(*entries: Entry) -> str:
    forget()
    return code_digest(entries)


def names(*entries: Entry) -> list[str]:
    """The files of a closure, without their folders."""
    forget()
    return [path.name for path in closure(entries)]


def replaced(name: str, old: str, new: str) -> dict[str, str | None]:
    assert old in LAB[name], "the edit of this test edits nothing"
    return {name: LAB[name].replace(old, new)}


def loaded(path: Path) -> Any:
    """The module that a plug-in file became."""
    before = set(sys.modules)
    import_plugin_file(path)
    (name,) = [name for name in set(sys.modules) - before if name.startswith("evalsuite_plugin_")]
    return sys.modules[name]


# ---- edits -------------------------------------------------------------------------------------------------------

MOVED = {
    "lab/areas.py": None,
    "lab/deep/__init__.py": "",
    "lab/deep/surfaces.py": LAB["lab/areas.py"],
    "lab/plugin.py": LAB["lab/plugin.py"]
    .replace("from lab import areas", "from lab.deep import surfaces")
    .replace("areas.square", "surfaces.square"),
}
SAME: dict[str, dict[str, str | None]] = {
    "a module that nothing imports": {"lab/new.py": "NEW = 1\n"},
    "a package that nothing imports": {"lab/new/__init__.py": "NEW = 1\n"},
    "the docstring of a module": replaced("lab/plugin.py", "Measures areas.", "Measures all."),
    "the docstring of a class": replaced("lab/plugin.py", "Measures one area.", "Measures."),
    "the docstring of a function": replaced("lab/plugin.py", '"""Returns twice the area."""', ""),
    "a docstring instead of pass": replaced("lab/plugin.py", "pass", "'''Says nothing.'''"),
    "a comment": replaced("lab/plugin.py", "# heavy", "# slow"),
    "layout": replaced("lab/doubling.py", "2 * x", "(\n        2\n        * x)  \n\n"),
    "public names": replaced("lab/doubling.py", "def double", "__all__ = ['double']\ndef double"),
    "the order of imports": replaced(
        "lab/plugin.py",
        "from lab import areas\n        from lab.exports import twice",
        "from lab.exports import twice\n        from lab import areas",
    ),
    "an import that becomes early": {
        "lab/plugin.py": LAB["lab/plugin.py"]
        .replace("from lab.late import rounded  # heavy\n", "\n")
        .replace("import math", "import math\n        from lab.late import rounded")
    },
    "an unused module": replaced("lab/unused.py", "3 * x", "4 * x"),
    "a package whose submodule is used": replaced("lab/__init__.py", "unused", "late"),
    "a module that is imported for type checkers": replaced("lab/typed.py", "float", "int"),
    "the name of what type checkers import": replaced("lab/plugin.py", "lab.typed", "lab.missing"),
    "another name of a re-exporting module": replaced("lab/exports.py", "OTHER = 1", "OTHER = 2"),
    "the module behind another re-export": replaced("lab/unused.py", "thrice", "three_times"),
    "an import that no longer goes through a re-export": replaced(
        "lab/plugin.py", "from lab.exports import twice", "from lab.doubling import double as twice"
    ),
    "a module that moves and is renamed": MOVED,
    "a module that becomes a package": {
        "lab/doubling.py": None,
        "lab/doubling/__init__.py": LAB["lab/doubling.py"],
    },
}
OTHER: dict[str, dict[str, str | None]] = {
    "the plug-in": replaced("lab/plugin.py", "math.pi", "math.e"),
    "an imported module": replaced("lab/areas.py", "x * x", "x + x"),
    "a lazily imported module": replaced("lab/late.py", "round(x)", "round(x, 1)"),
    "a module that is imported relatively": replaced("lab/relative.py", "0", "1"),
    "a module that is imported where type checkers import another": replaced(
        "lab/running.py", "float", "int"
    ),
    "the module behind a re-export": replaced("lab/doubling.py", "2 * x", "x + x"),
    "another import below the same name": replaced("lab/plugin.py", "import areas", "import late as areas"),
    "another re-export below the same name": replaced("lab/exports.py", "double as", "triple as"),
    "another default": replaced("lab/late.py", "rounded(x)", "rounded(x=1)"),
    "an annotation": replaced("lab/plugin.py", "-> float", "-> int"),
    "a name of a third party": replaced("lab/plugin.py", "import math", "import cmath as math"),
}


@pytest.mark.parametrize("edit", SAME.values(), ids=SAME)
def test_edits_that_change_nothing(edit: Mapping[str, str | None], lab: Path) -> None:
    write(lab, LAB)
    before = digest("lab.plugin")
    write(lab, edit)
    assert digest("lab.plugin") == before


@pytest.mark.parametrize("edit", OTHER.values(), ids=OTHER)
def test_edits_that_change_results(edit: Mapping[str, str | None], lab: Path) -> None:
    write(lab, LAB)
    before = digest("lab.plugin")
    write(lab, edit)
    assert digest("lab.plugin") != before


def test_the_closure_is_what_runs(lab: Path) -> None:
    write(lab, LAB)
    assert names("lab.plugin") == [
        *("areas.py", "doubling.py", "late.py", "plugin.py", "relative.py", "running.py"),
    ]
    assert names("lab") == ["__init__.py", "unused.py"]
    assert names("lab.exports:twice", "lab.exports:thrice") == ["doubling.py", "unused.py"]


def test_nothing_is_imported(lab: Path) -> None:
    write(lab, LAB)
    digest("lab.plugin")
    assert not [name for name in sys.modules if name.startswith("lab")]


WORDS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8)


@given(
    width=st.integers(1, 8),
    comments=st.lists(st.none() | WORDS, min_size=9, max_size=9),
    blanks=st.lists(st.integers(0, 2), min_size=9, max_size=9),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_layout_and_comments_never_count(
    width: int, comments: list[str | None], blanks: list[int], lab: Path
) -> None:
    lines = [
        *("import math", "class Circle:", "    radius = 1.0", "    def area(self, digits=(2, 3)):"),
        *("        if self.radius:", "            return round(", "                math.pi,"),
        *("            digits[0])", "        return 0"),
    ]
    write(lab, {"lab_layout.py": "\n".join(lines)})
    before = digest("lab_layout")
    edited = []
    for line, comment, blank in zip(lines, comments, blanks, strict=True):
        indented = " " * (width * ((len(line) - len(line.lstrip())) // 4)) + line.lstrip()
        edited += [indented if comment is None else f"{indented} # {comment}", *[""] * blank]
    (lab / "lab_layout.py").write_text("\n".join(edited), "utf-8")
    assert digest("lab_layout") == before


# ---- names to their definitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("from lab.hub import f", ["f.py"]),
        ("from lab.hub import f as g", ["f.py"]),
        ("from lab.hub import renamed", ["g.py"]),
        ("from lab.hub import either", ["f.py", "g.py"]),
        ("from lab.hub import fallback", ["f.py", "g.py", "h.py", "hub.py"]),
        ("from lab.hub import defined", ["f.py", "g.py", "h.py", "hub.py"]),
        ("from lab.hub import set_later", ["f.py", "g.py", "h.py", "hub.py"]),
        ("from lab.hub import missing", ["f.py", "g.py", "h.py", "hub.py"]),
        ("from lab.hub import module", ["g.py"]),
        ("from lab.hub import lab", ["__init__.py"]),
        ("from lab.both import name", ["f.py", "name.py"]),
        ("from lab.twice import f", ["f.py"]),
        ("from lab.twice import h", ["f.py", "g.py", "h.py", "hub.py"]),
        ("from lab.starred import f", ["f.py"]),
        ("from lab.starred import h", ["h.py"]),
        ("from lab.starred import *", ["f.py", "h.py", "starred.py"]),
        ("from lab.round_a import f", ["round_a.py", "round_b.py"]),
        ("import lab.f", ["f.py"]),
        ("import lab.f as g", ["f.py"]),
        ("import lab.f, lab.g", ["f.py", "g.py"]),
        ("import lab.absent", []),
        ("from lab.absent import f", []),
        ("def late():\n    class Inner:\n        import lab.f", ["f.py"]),
        ("from importlib import import_module\nimport_module('lab.f')", ["f.py"]),
        ("from importlib import import_module\nimport_module('.f', 'lab')\nimport_module('')", []),
        ("import typing\nif typing.TYPE_CHECKING:\n    import lab.f\nelif True:\n    import lab.g", ["g.py"]),
        ("if not TYPE_CHECKING:\n    import lab.f\nelse:\n    import lab.g", ["f.py"]),
        ("if RUNNING:\n    import lab.f\nelse:\n    import lab.g", ["f.py", "g.py"]),
        ("from ..lab import f", []),
        ("from lab.space import inside", ["inside.py"]),
        ("from lab.space.inside import f", ["inside.py"]),
        ("from lab import extension", ["__init__.py"]),
        ("import lab.extension", []),
    ],
)
def test_imports_lead_to_definitions(statement: str, files: list[str], lab: Path) -> None:
    write(
        lab,
        {
            "lab/__init__.py": "",
            "lab/plugin.py": statement,
            "lab/f.py": "f = 1",
            "lab/g.py": "f = 2",
            "lab/h.py": "h = 3",
            "lab/hub.py": """
                import lab.f
                import lab.g as module
                from lab.f import f
                from lab.g import f as renamed
                from lab.twice import f as again
                if again:
                    from lab.f import f as either
                else:
                    from lab.g import f as either
                try:
                    from lab.f import f as fallback
                except ImportError:
                    fallback = None
                if again:
                    from lab.f import f as defined, f as set_later
                else:
                    def defined():
                        global set_later
                        set_later = f = 1
                    def unspoken():
                        from lab.h import h as f
            """,
            "lab/both/__init__.py": "from lab.f import f as name",
            "lab/both/name.py": "",
            "lab/twice.py": "from lab.hub import f, h",
            "lab/starred.py": "from lab.f import *\nfrom lab.h import *\nfrom numpy import *",
            "lab/round_a.py": "from lab.round_b import f",
            "lab/round_b.py": "from lab.round_a import f",
            "lab/space/inside.py": "f = 5",
            "lab/extension.so": "",
        },
    )
    assert sorted(names("lab.plugin")) == sorted([*files, "plugin.py"])


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("from lab import Near", ["near.py"]),
        ("from lab import Far", ["far.py"]),
        ("from lab import Aliased", ["near.py"]),
        ("from lab import Relative", ["far.py"]),
        ("import lab\nlab.Near()", ["__init__.py", "near.py"]),
        ("import lab as other\nother.Near()", ["__init__.py", "near.py"]),
        ("import lab\nlab.sub.deep.Deep()", ["__init__.py", "__init__.py", "deep.py"]),
        ("import lab.sub.deep\nlab.Far()", ["deep.py", "far.py"]),
        ("from lab import *", ["__init__.py", "far.py", "near.py"]),
        ("from lab import Absent", ["__init__.py"]),
    ],
)
def test_names_that_are_imported_when_first_used(statement: str, files: list[str], lab: Path) -> None:
    write(
        lab,
        {
            "lab/__init__.py": """
                _HOMES = {"Near": "near", "Far": "lab.far", "Aliased": "lab.near:Near", "Relative": ".far"}
                def __getattr__(name):
                    return name
            """,
            "lab/near.py": "class Near: ...",
            "lab/far.py": "class Far: ...\nclass Relative: ...",
            "lab/sub/__init__.py": "",
            "lab/sub/deep.py": "class Deep: ...",
            "lab/plugin.py": statement,
        },
    )
    assert sorted(names("lab.plugin")) == sorted([*files, "plugin.py"])


@pytest.mark.parametrize(
    "hook", ["__getattr__ = attach(__name__)", "def __getattr__(name):\n        return name"]
)
@pytest.mark.parametrize("condition", ["not TYPE_CHECKING", "True"])
def test_names_that_type_checkers_see_and_others_get_when_first_used(
    hook: str, condition: str, lab: Path
) -> None:
    text = f"""\
if TYPE_CHECKING:
    from lab.near import Near
    from lab.far import Far as Away
if {condition}:
    {hook}
"""
    write(lab, {"lab/near.py": "class Near: ...", "lab/far.py": "class Far: ...", "lab/__init__.py": text})
    write(lab, {"lab/plugin.py": "from lab import Near"})
    assert names("lab.plugin") == ["near.py", "plugin.py"]
    assert names("lab:Away") == ["far.py"]
    before = digest("lab.plugin")
    write(lab, {"lab/plugin.py": "from lab.near import Near"})
    assert digest("lab.plugin") == before
    write(lab, {"lab/__init__.py": text.replace("__getattr__", "unspoken")})
    assert names("lab:Away") == ["__init__.py"]


def test_a_table_of_other_strings_counts(lab: Path) -> None:
    """Strings in a dictionary count unless all of them are modules of a ``__getattr__``."""
    tables = [
        ("{'a': 'near'}", "{'a': 'far'}"),  # no __getattr__
        ("{'a': 'near', 'b': 'no module'}\ndef __getattr__(name): ...",) * 2,
    ]
    tables[1] = (tables[1][0], tables[1][1].replace("near", "far"))
    for first, second in tables:
        write(lab, {"lab/__init__.py": f"TABLE = {first}", "lab/near.py": "", "lab/far.py": ""})
        before = digest("lab")
        write(lab, {"lab/__init__.py": f"TABLE = {second}"})
        assert digest("lab") != before


def test_targets_of_registries_do_not_count(lab: Path) -> None:
    text = "TABLE = {{'a': 'lab.a:A', {}'other': '12:30'}}"
    write(lab, {"lab/__init__.py": text.format(""), "lab/a.py": "class A: ...", "lab/b.py": "class B: ..."})
    assert names("lab") == ["__init__.py"]
    before = digest("lab")
    write(lab, {"lab/__init__.py": text.format("'b': 'lab.b:B', ")})
    assert digest("lab") == before
    write(lab, {"lab/__init__.py": text.format("'b': 'lab.b:B', ").replace("12:30", "12:31")})
    assert digest("lab") != before


def test_functions_of_the_same_name_are_told_apart(lab: Path) -> None:
    """Both modules stay in the closure, and so do all names and aliases."""
    text = "from lab.{} import f as x\nfrom lab.{} import f as y\n"
    write(lab, {"lab/__init__.py": "", "lab/a.py": "def f(): return 1", "lab/b.py": "def f(): return 2"})
    write(lab, {"lab/plugin.py": text.format("a", "b")})
    before = digest("lab.plugin")
    write(lab, {"lab/plugin.py": text.format("b", "a")})
    assert digest("lab.plugin") != before


def test_modules_are_numbered_in_the_order_of_their_use(lab: Path) -> None:
    text = "from lab import a, b\nprint({}.f(), {}.f())"
    write(lab, {"lab/__init__.py": "", "lab/a.py": "def f(): return 1", "lab/b.py": "def f(): return 2"})
    write(lab, {"lab/plugin.py": text.format("a", "b")})
    before = digest("lab.plugin")
    write(lab, {"lab/plugin.py": text.format("b", "a")})
    assert digest("lab.plugin") != before
    write(
        lab,
        {
            "lab/plugin.py": "import lab.b, lab.c\nprint(lab.c.f(), lab.b.f())",
            "lab/c.py": "def f(): return 1",
        },
    )
    assert digest("lab.plugin") == before


def test_cycles(lab: Path) -> None:
    write(lab, {"lab/__init__.py": "", "lab/a.py": "import lab.b\nA = 1", "lab/b.py": "import lab.a\nB = 1"})
    assert names("lab.a") == names("lab.b") == ["a.py", "b.py"]
    assert digest("lab.a") == digest("lab.b")
    before = digest("lab.a")
    write(lab, {"lab/b.py": "import lab.a\nB = 2"})
    assert digest("lab.a") != before


def test_equal_files_count_as_often_as_they_are_there(lab: Path) -> None:
    write(lab, {"lab/__init__.py": "", "lab/a.py": "X = 1", "lab/b.py": "X = 1"})
    assert digest("lab.a") == digest("lab.b") != digest("lab.a", "lab.b")
    assert digest("lab.a", "lab.b") == digest("lab.b", "lab.a", "lab.a")


# ---- whose code it is --------------------------------------------------------------------------------------------

PLUGIN = {
    "plugin.py": """
        import lab_beside, lab_tools.inner, lab_installed, lab_neighbour, pytest, lab_absent
        class Mine(lab_installed.Base):
            def measure(self):
                from lab_not_on_path import value
                return value
    """,
    "lab_beside.py": "import lab_second\n",
    "lab_second.py": "X = 1\n",
    "lab_tools/__init__.py": "",
    "lab_tools/inner.py": "from . import outer\ndef late():\n    from .. import plugin\n",
    "lab_tools/outer.py": "X = 2\n",
    "pytest.py": "raise AssertionError('this is another pytest')\n",
    "lab_unused.py": "",
    "site-packages/lab_installed/__init__.py": "import lab_neighbour\nclass Base: ...\n",
    "site-packages/lab_neighbour.py": "",
}


@pytest.fixture
def plugin(lab: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class in a plug-in file, with modules beside it."""
    write(lab, {**PLUGIN, "lab_absent.py": "", "pytest.py": ""})
    monkeypatch.syspath_prepend(lab / "site-packages")
    kind: type = loaded(lab / "plugin.py").Mine
    write(lab, {"pytest.py": PLUGIN["pytest.py"], "lab_not_on_path.py": "value = 1\n"})
    return kind


def test_a_plugin_file_depends_on_what_lies_beside_it(plugin: type, lab: Path) -> None:
    expected = ["lab_absent.py", "lab_beside.py", "lab_not_on_path.py", "lab_second.py"]
    assert names(plugin) == [*expected, "inner.py", "outer.py", "plugin.py"]
    assert closure([plugin]) == closure([plugin.__module__])
    before = digest(plugin)
    write(
        lab, {"lab_unused.py": "X = 2\n", "pytest.py": "X = 3\n", "site-packages/lab_neighbour.py": "X = 4\n"}
    )
    assert digest(plugin) == before
    write(lab, {"lab_second.py": "X = 2\n"})
    assert digest(plugin) != before


def test_what_lies_beside_a_plugin_file_may_be_put_on_the_path_later(
    plugin: type, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place) != lab])
    assert "lab_not_on_path.py" in names(plugin)


@pytest.mark.parametrize("entry", ["lab.plugin", "lab_plugin"])
def test_a_plugin_depends_on_what_it_uses_of_the_package(entry: str, lab: Path) -> None:
    write(lab, {"lab/__init__.py": "", f"{entry.replace('.', '/')}.py": "from evalsuite import UserError"})
    forget()
    assert SOURCES / "errors.py" in closure([entry])
    assert SOURCES / "__init__.py" not in closure([entry])
    assert third_party([entry]) == frozenset()


def test_third_parties_are_named(plugin: type, lab: Path) -> None:
    forget()
    assert third_party([plugin]) == {"lab_installed", "lab_neighbour", "pytest"}
    write(lab, LAB)
    forget()
    assert third_party(["lab.plugin"]) == frozenset()
    write(
        lab,
        {
            "lab/late.py": """
                import importlib, os.path, torch.nn
                from lab_absentee import x
                importlib.import_module(".f", "lab")
            """
        },
    )
    forget()
    assert third_party(["lab.plugin"]) == {"lab_absentee", "torch"}


def test_an_installed_base_is_a_third_party(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if no import names it."""
    write(lab, {**PLUGIN, "plugin.py": "class Mine(__import__('lab_installed').Base): ..."})
    monkeypatch.syspath_prepend(lab / "site-packages")
    kind = loaded(lab / "plugin.py").Mine
    assert names(kind) == ["plugin.py"]
    assert third_party([kind]) == {"lab_installed"}


def test_an_installed_plugin_depends_on_its_own_package(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(lab, {f"site-packages/{name}": text for name, text in LAB.items()})
    write(lab, {"site-packages/lab_solo.py": "import lab_neighbour", "site-packages/lab_neighbour.py": ""})
    monkeypatch.syspath_prepend(lab / "site-packages")
    assert "doubling.py" in names("lab.plugin")
    assert names("lab_solo") == ["lab_solo.py"]  # what lies beside it belongs to other packages
    assert third_party(["lab_solo"]) == {"lab_neighbour"}
    write(lab, {"site-packages/lab/child.py": "class Child(__import__('lab.base').base.Base): ..."})
    write(lab, {"site-packages/lab/base.py": "class Base: ..."})
    assert names(importlib.import_module("lab.child").Child) == ["base.py", "child.py"]


def test_bases_count_without_an_import(lab: Path) -> None:
    write(
        lab,
        {
            "lab/__init__.py": "",
            "lab/base.py": "class Base:\n    scale = 1\n",
            "lab/middle.py": "class Middle(getattr(__import__('lab.' + 'base').base, 'Base')): ...\n",
            "lab/child.py": "class Child(getattr(__import__('lab.' + 'middle').middle, 'Middle')): ...\n",
            "plugin.py": "class Mine(getattr(__import__('lab.child').child, 'Child')): ...\n",
            "other/plugin.py": "import lab_mine\nclass Other(lab_mine.Mine): ...\n",
        },
    )
    child, mine = importlib.import_module("lab.child").Child, loaded(lab / "plugin.py")
    assert names(child) == ["base.py", "child.py", "middle.py"]
    sys.modules["lab_mine"] = mine  # a plug-in file that builds on another folder's
    other = loaded(lab / "other" / "plugin.py").Other
    assert names(other) == ["base.py", "child.py", "middle.py", "plugin.py", "plugin.py"]
    before = digest(other)
    write(lab, {"lab/base.py": "class Base:\n    scale = 2\n"})
    assert digest(other) != before


def test_bases_without_source(lab: Path) -> None:
    """An extension has a version at most; classes of no module at all are those that extensions make."""
    (lab / "lab_extension.so").touch()
    sys.modules["lab_extension"] = ModuleType("lab_extension")
    sys.modules["lab_extension"].__file__ = str(lab / "lab_extension.so")
    extension = type("Extension", (), {"__module__": "lab_extension"})
    mixin = type("Mixin", (), {"__module__": "lab_nowhere"})
    kind = type("Plugin", (extension, mixin), {"__module__": "evalsuite.errors"})
    assert names(kind) == ["errors.py"]
    assert third_party([kind]) == third_party([extension]) == {"lab_extension"}
    assert names(extension, int, ast.AST) == []


# ---- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"x = 1\ndef (", r"lab_broken\.py, line 2 is not valid Python \(invalid syntax\); correct it"),
        (b"x = '\0'", r"lab_broken\.py, line 1 is not valid Python \(.*null bytes\); correct it"),
        (b"x = '\xff'", r"lab_broken\.py, line 1 is not valid Python \(.*\); correct it"),
    ],
    ids=["syntax", "null bytes", "encoding"],
)
def test_a_file_that_is_no_python(source: bytes, sentence: str, lab: Path) -> None:
    write(lab, {"lab_plugin.py": "def late():\n    import lab_broken\n"})
    (lab / "lab_broken.py").write_bytes(source)
    with pytest.raises(SuiteError, match=sentence):
        digest("lab_plugin")


@pytest.mark.parametrize("entry", ["evalsuite.no_such", "lab_nowhere", "lab_nowhere.deep:name"])
def test_an_entry_that_does_not_exist(entry: str) -> None:
    with pytest.raises(
        ModuleNotFoundError, match=f"no source file of the module '{entry.partition(':')[0]}'"
    ):
        closure([entry])


def test_a_class_without_a_file() -> None:
    """Such as those of a notebook."""
    kind = type("Mine", (), {"__module__": "lab_nowhere"})
    with pytest.raises(
        SuiteError, match=r"^the class lab_nowhere\.Mine has no source file.*; define it in a"
    ):
        closure([kind])


def test_doubtful_escapes_and_encodings_are_read_as_python_reads_them(lab: Path) -> None:
    (lab / "lab_latin.py").write_bytes("# coding: latin-1\nX = 'é\\d'\n".encode("latin-1"))
    (lab / "lab_utf.py").write_bytes("X = 'é\\\\d'\n".encode())
    assert digest("lab_latin") == digest("lab_utf")


# ---- evalsuite ---------------------------------------------------------------------------------------------------

TARGETS = [entry.defined for registry in (EVALUATORS, PRODUCERS) for entry in registry.entries()]


@pytest.mark.extensive
@pytest.mark.parametrize("target", TARGETS)
def test_plugins_of_the_package_depend_on_no_command_and_no_report(target: str) -> None:
    files = closure([target])
    assert SOURCES / Path(*target.partition(":")[0].split(".")[1:]).with_suffix(".py") in files
    assert not {path.relative_to(SOURCES).parts[0] for path in files} & {
        "__init__.py",
        "api.py",
        "cli",
        "report",
    }


def test_a_public_name_is_that_of_its_module() -> None:
    assert closure(["evalsuite:UserError"]) == closure(["evalsuite.errors"]) == (SOURCES / "errors.py",)


@pytest.mark.parametrize("public", [evalsuite, plugins], ids=["evalsuite", "plugins"])
def test_public_names_are_those_of_the_modules_that_define_them(public: ModuleType) -> None:
    for name in public.__all__:
        value = getattr(public, name)
        if (
            isinstance(value, type | FunctionType) and value.__module__ != "typing"
        ):  # as aliases are at run time
            files = closure([f"{public.__name__}:{name}"])
            assert Path(str(sys.modules[value.__module__].__file__)) in files, name
            assert Path(str(public.__file__)) not in files, name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from evalsuite.bygone import UserError", "from evalsuite.errors import UserError"),
        ("from evalsuite.bygone import Old", "from evalsuite.errors import UserError as Old"),
        ("from evalsuite.bygone import Far as x", "from evalsuite.types import Metric as x"),
        ("from evalsuite.bygone import deep", "from evalsuite import types as deep"),
        ("from evalsuite.bygone.deep import Metric", "from evalsuite.types import Metric"),
        ("from evalsuite.errors import Renamed as x", "from evalsuite.errors import UserError as x"),
        ("from evalsuite.errors import Missing as x", "from evalsuite.errors import Missing as x"),
        ("import evalsuite.bygone", "import evalsuite.errors"),
    ],
)
def test_old_names_are_those_that_took_their_place(
    old: str, new: str, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {
        "bygone": ("errors", {"Old": "UserError", "Far": "types:Metric"}),
        "bygone.deep": ("types", {}),
        "errors": ("errors", {"Renamed": "UserError"}),
    }
    monkeypatch.setattr(module, "MOVED", moved)
    write(lab, {"lab_old.py": old, "lab_new.py": new, "bygone.py": ""})
    old_names, new_names = ({*names(name)} - {f"{name}.py"} for name in ("lab_old", "lab_new"))
    assert old_names == new_names != set()
    assert digest("lab_old") == digest("lab_new")


def test_each_file_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    parsed: list[Path] = []
    parse = source_syntax._parsed

    def counted(path: Path) -> ast.Module:
        parsed.append(path)
        return parse(path)

    monkeypatch.setattr(source_syntax, "_parsed", counted)
    digests = {target: code_digest([target, "evalsuite.errors"]) for target in TARGETS}
    assert digests == {target: code_digest(["evalsuite.errors", target]) for target in TARGETS}
    assert len(parsed) == len(set(parsed)) > 50
    assert {*closure(TARGETS)} <= {*parsed}  # and those that re-export


@pytest.mark.as_it_is
def test_a_copy_of_the_package_has_the_same_digest_until_code_changes(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "evalsuite", ignore=shutil.ignore_patterns("__pycache__"))
    script = "from evalsuite.runs.code_digest import code_digest; print(code_digest(['evalsuite.evaluators.base']))"

    def fresh() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", script]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    here = digest("evalsuite.evaluators.base")
    (tmp_path / "evalsuite" / "metrics" / "unused.py").write_text("X = 1\n")
    path = tmp_path / "evalsuite" / "evaluators" / "base.py"
    path.write_text(path.read_text("utf-8") + "\n\n# a comment\n", "utf-8")
    assert fresh() == here
    path.write_text(path.read_text("utf-8") + "X = 1\n", "utf-8")
    assert fresh() != here


@pytest.mark.as_it_is
def test_modules_in_which_no_number_is_computed_do_not_count(lab: Path) -> None:
    """Exceptions, records and tables of names grow with every feature; no result depends on that."""
    plugin = "from evalsuite.errors import UserError\nfrom evalsuite.types import Score\n"
    write(lab, {"lab_plugin.py": plugin + "from evalsuite.metrics.logits import nll\n"})
    reached = names("lab_plugin")
    assert {"logits.py", "lab_plugin.py"} <= set(reached)
    assert not {"errors.py", "types.py"} & set(reached)
    for name in module._WITHOUT_COMPUTATION:
        assert entry_module(name) is not None, f"{name} was moved: correct the list"
