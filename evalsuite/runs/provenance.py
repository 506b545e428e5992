"""What a result depends on, and what is written down so that it can be had again."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evalsuite.config.suite import Suite, shipped_suites
from evalsuite.errors import UserError
from evalsuite.training.published_recipes import named_recipe

DATA_VARIABLE = "EVALSUITE_DATA"
PACKAGES = (
    "evalsuite",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "foolbox",
    "robustbench",
    "pyautoattack",
    "torch-pruning",
)
MEASURING = (
    "randomness.py",
    "running/limits.py",
    "running/measuring.py",
    "bench.py",
    "gates.py",
    "detectors",
    "data",
    "models",
    "compat",
    "evaluators/contract.py",
    "evaluators/accuracy.py",
    "evaluators/attack.py",
    "evaluators/attack_flags.py",
    "evaluators/published.py",
    "evaluators/weapons.py",
    "metrics",
    "statistics/classes.py",
    "statistics/medians.py",
    "statistics/rates.py",
)
PRODUCING = (
    "axes.py",
    "randomness.py",
    "running/limits.py",
    "storage/digests.py",
    "data",
    "models",
    "compat",
    "training",
    "producers/contract.py",
    "producers/weights.py",
    "producers/allocation.py",
    "producers/budget.py",
    "producers/initial.py",
    "producers/magnitude.py",
    "producers/penalties.py",
    "producers/sensitivity.py",
    "producers/shrinking.py",
    "producers/activations.py",
    "producers/filters.py",
    "producers/controls.py",
    "producers/scratch.py",
    "running/acceptance.py",
    "running/given.py",
    "running/made.py",
    "running/production.py",
    "running/trainings.py",
)


@dataclass(frozen=True)
class Options:
    """Is what one run may choose beside its suite.

    Attributes:
        seed: One seed instead of the suite's.
        device: ``cpu``, ``cuda``, ``cuda:<n>``, or several: ``cuda:0,1``.
        data: Data root instead of `EVALSUITE_DATA` and the suite's.
        download: Whether missing data may be fetched.
        trust_program: Whether whole programs may be loaded that may run code.
        command: How the user asked, where that is not ``run SUITE``.
        workers: How many tasks are done at once; 0 for as many as there are processors, ``None`` for one for
            each device.
        executor: ``serial``, ``local``, ``ray`` or ``ray://host:port``; by default local where there are workers.
        only: Tests and methods that are run; all if none is named.
        retry_failed: Whether cells that ended as ``skipped`` or ``invalid`` are computed again, as those that
            ended in an error always are.
        steps: Places on the ladder of ratios that are measured, by method; all of a method that is not named.
        search: What a search is for, ``metric@condition``.
        recipe: Name of a recipe instead of the suite's, for parents that are trained and for all retraining.
    """

    seed: int | None = None
    device: str = "cpu"
    data: Path | None = None
    download: bool = False
    trust_program: bool = False
    command: str = ""
    workers: int | None = None
    executor: str = ""
    only: tuple[str, ...] = ()
    retry_failed: bool = False
    search: str = ""
    steps: Mapping[str, frozenset[int]] = dataclasses.field(default_factory=dict)
    recipe: str = ""

    def applied(self, suite: Suite) -> Suite:
        """Returns `suite` with the seed and the recipe that were asked for.

        Raises:
            UserError: If the seed is negative, or no recipe has the name.
        """
        if self.seed is not None and self.seed < 0:
            raise UserError(f"found seed {self.seed}, expected an integer from 0 on")
        seeds = suite.seeds if self.seed is None else (self.seed,)
        if not self.recipe:
            return replace(suite, seeds=seeds)
        recipe = named_recipe(self.recipe)
        return replace(suite, seeds=seeds, recipe=recipe, retraining=recipe, retrainings={})


def data_root(suite: Suite | None, options: Options) -> Path | None:
    """Returns the data folder: the option, else the environment's, else the suite's; ``None`` if none is named.

    Raises:
        UserError: If the folder that is named does not exist.
    """
    known = suite.data_root if suite is not None else ""
    inherited = suite.source.parent / Path(known).expanduser() if suite is not None and known else None
    named = [
        ("--data-root" if options.command else "--data", options.data),  # of check, and of run
        (DATA_VARIABLE, os.environ.get(DATA_VARIABLE)),
        ("data_root", inherited),
    ]
    for origin, folder in named:
        if folder:
            path = Path(folder).expanduser()
            if not path.is_dir():
                raise UserError(
                    f"{origin} names the data folder {path}, which does not exist; make it or name another"
                )
            return path.resolve()
    return None


@cache
def code_digest(rooms: tuple[str, ...], plugin: type | None = None) -> str:
    """Returns a digest of the source of some rooms of the package and of a plug-in.

    Results of an older version of the code are never taken for those of this one.
    """
    total = hashlib.sha256()
    for path in sorted(covered(rooms, plugin)):
        total.update(path.read_bytes())
    return total.hexdigest()


def covered(rooms: tuple[str, ...], plugin: type | None = None) -> set[Path]:
    """Returns the files of some rooms of the package, of a plug-in's class, and of the classes it is built on."""
    home = Path(__file__).parents[1]
    paths = {path for room in rooms for path in (list((home / room).rglob("*.py")) or [home / room])}
    bases = () if plugin is None else plugin.__mro__
    return paths | {Path(inspect.getfile(base)) for base in bases if _has_source(base)}


def _has_source(kind: type) -> bool:
    """Whether a class is a plug-in's own: those of Python itself have its version."""
    return kind.__module__ != "builtins" and kind.__module__ not in sys.stdlib_module_names


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def environment_fingerprint() -> dict[str, str]:
    """Returns what must be the same wherever parts of one run are computed: versions, and a digest of the code."""
    return {**versions(), "code": code_digest((*MEASURING, *PRODUCING))}


def git_revision(folder: Path) -> str:
    """Returns the commit of the checkout that holds the code in `folder`, with ``+changes`` if dirty; else nothing.

    A repository in which the code is merely installed has nothing to say about it.
    """
    if not _git(folder, "ls-files", "__init__.py"):
        return ""
    return _git(folder, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*")


def _git(folder: Path, *words: str) -> str:
    command = ("git", "-C", str(folder), *words)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  # fixed words
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def hardware(device: str) -> dict[str, Any]:
    """Returns what the run computes on."""
    return {
        "device": device,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


def described(suite: Suite) -> dict[str, Any]:
    """Returns a suite as plain JSON, every default written out."""
    return {
        "name": suite.name,
        "description": suite.description,
        "seeds": list(suite.seeds),
        "ratios": list(suite.ratios),
        "data": suite.data.table,
        "model": suite.model.table,
        "checkpoint": suite.checkpoint,
        "recipe": dataclasses.asdict(suite.recipe),
        "retraining": dataclasses.asdict(suite.retraining),
        "retrainings": {label: dataclasses.asdict(recipe) for label, recipe in suite.retrainings.items()},
        "producers": [{"label": one.label, **one.table, **one.plugin.remembered} for one in suite.producers],
        "candidates": [dataclasses.asdict(one) for one in suite.candidates],
        "evaluators": [{"label": choice.label, **choice.table} for choice in suite.evaluators],
        "tolerances": dict(suite.tolerances),
        "threads": suite.threads,
        "data_root": suite.data_root,
        "plugins": list(suite.plugins),
        "resources": dataclasses.asdict(suite.resources),
        "source": _called(suite),
    }


def _called(suite: Suite) -> str:
    """What a command line calls a suite: its name if it ships with the package, else its path."""
    return suite.name if shipped_suites().get(suite.name) == suite.source else str(suite.source)


def command(suite: Suite, options: Options) -> str:
    """Returns the command that runs this again."""
    if options.command:
        return options.command
    words = ["python", "-m", "evalsuite", "run", _called(suite)]
    words += ["--seed", str(options.seed)] if options.seed is not None else []
    for name in ("recipe", "search"):
        words += [f"--{name}", value] if (value := getattr(options, name)) else []
    words += ["--device", options.device] if options.device != "cpu" else []
    words += ["--data", str(options.data)] if options.data is not None else []
    words += ["--download"] if options.download else []
    words += [word for name in options.only for word in ("--only", name)]
    return shlex.join(words)


def record(suite: Suite, options: Options) -> dict[str, Any]:
    """Returns what ``run.json`` holds before the clock has run."""
    return {
        "suite": described(suite),
        "command": command(suite, options),
        "tested": {
            label: [suite.ratios[step] for step in sorted(steps)] for label, steps in options.steps.items()
        },
        "versions": versions(),
        "git_revision": git_revision(Path(__file__).parent),
        "hardware": hardware(options.device),
        "python": sys.version,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
