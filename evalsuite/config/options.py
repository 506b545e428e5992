"""Options of one run beside its suite, and where its data is."""

from __future__ import annotations

import dataclasses
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from evalsuite.config.suite import DATA_VARIABLE, Suite
from evalsuite.errors import UserError
from evalsuite.plugin_config import PluginConfig, from_table
from evalsuite.producers import PRODUCERS
from evalsuite.registry import unknown_name
from evalsuite.training.published_recipes import named_recipe
from evalsuite.types import InferencePrecision

if TYPE_CHECKING:
    from evalsuite.producers.base import Producer

__all__ = ["DATA_VARIABLE", "Options", "data_root"]


@dataclass(frozen=True)
class Options:
    """The choices of one run beside its suite.

    Attributes:
        seed: One seed instead of the suite's.
        device: ``cpu``, ``cuda``, ``cuda:<n>``, or several: ``cuda:0,1``.
        data_root: Folder with data instead of `EVALSUITE_DATA` and the suite's.
        download: Whether missing data may be fetched.
        trust_program: Whether whole programs may be loaded that may run code.
        command: The user's command, where that is not ``run SUITE``.
        workers: How many tasks are done at once; 0 for as many as there are processors, ``None`` for one for
            each device.
        executor: ``serial``, ``local``, ``ray`` or ``ray://host:port``; by default local where there are workers.
        only: Tests and methods that are run; all if none is named.
        retry_failed: Whether cells that ended as ``skipped`` or ``invalid`` are computed again, as those that
            ended in an error always are.
        search: What a search is for, ``metric@condition``.
        limit: Size of a seeded, class-stratified sample of the test images, and most images of every other test set;
            ``None`` for all.
        batch_size: Images per forward pass instead of the suite's; ``None`` for the suite's.
        skip_unreadable: Whether pictures that cannot be read are left out and counted.
        verify: Whether pictures are read again that an earlier run has decoded, whatever their times say.
        recipe: Name of a recipe instead of the suite's, for parents that are trained and for all retraining.
        precision: ``exact`` or ``screened`` instead of the suite's; empty for the suite's.
        cache: Whether what parents compute is taken from earlier runs and kept for later ones.
        candidates_from: Functions of the user's, ``file.py:function``, that prune beside the suite's methods.
        data: Old name of `data_root`.
    """

    seed: int | None = None
    device: str = "cpu"
    data_root: Path | None = None
    download: bool = False
    trust_program: bool = False
    command: str = ""
    workers: int | None = None
    executor: str = ""
    only: tuple[str, ...] = ()
    retry_failed: bool = False
    search: str = ""
    recipe: str = ""
    limit: int | None = None
    batch_size: int | None = None
    skip_unreadable: bool = False
    verify: bool = False
    candidates_from: tuple[str, ...] = ()
    precision: str = ""
    cache: bool = True
    data: dataclasses.InitVar[Path | None] = None

    def __post_init__(self, data: Path | None) -> None:
        if data is not None:
            warnings.warn("Options(data=...) is now Options(data_root=...)", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "data_root", self.data_root or data)

    def applied(self, suite: Suite) -> Suite:
        """Returns `suite` with the seed, limit, batch size and recipe that were asked for.

        Raises:
            UserError: If the seed is negative, the limit or the batch size below 1, or no recipe has the name.
        """
        if self.limit is not None and self.limit < 1:
            raise UserError(f"found --limit {self.limit}, expected a number of images from 1 on")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"found seed {self.seed}, expected an integer from 0 on")
        seeds = suite.seeds if self.seed is None else (self.seed,)
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(
                f"found --batch-size {self.batch_size}, expected images per forward pass, from 1 on"
            )
        resources = replace(
            suite.resources,
            batch_size=self.batch_size or suite.resources.batch_size,
            precision=self._chosen_precision or suite.resources.precision,
        )
        suite = replace(suite, limit=self.limit or suite.limit, resources=resources)
        suite = replace(suite, producers=(*suite.producers, *self._functions(suite)))
        if not self.recipe:
            return replace(suite, seeds=seeds)
        recipe = named_recipe(self.recipe)
        return replace(suite, seeds=seeds, recipe=recipe, retraining=recipe, retrainings={})

    @property
    def _chosen_precision(self) -> InferencePrecision | None:
        """The precision that was asked for; ``None`` for the suite's."""
        for choice in get_args(InferencePrecision):
            if self.precision == choice:
                return choice  # type: ignore[no-any-return]  # what it is compared with has the type
        if self.precision:
            raise UserError(
                f"--precision: {unknown_name('precision', self.precision, get_args(InferencePrecision))}"
            )
        return None

    def _functions(self, suite: Suite) -> tuple[PluginConfig[Producer], ...]:
        """The user's functions as producers, labelled with their names."""
        configs = []
        labels = {config.label for config in suite.producers}
        for target in self.candidates_from:
            place, _, name = target.rpartition(":")
            where = str(Path(place).resolve()) if place.endswith(".py") else place
            if name in labels:
                raise UserError(
                    f"--candidates-from {target}: the suite has a method {name!r} already; rename the function"
                )
            labels.add(name)
            table = {"name": "function", "label": name, "target": f"{where}:{name}"}
            configs.append(from_table(PRODUCERS, table, where="--candidates-from"))
        return tuple(configs)


def data_root(suite: Suite | None, options: Options) -> Path | None:
    """Returns the data folder: the option, else the environment's, else the suite's; ``None`` if none is named.

    Raises:
        UserError: If the folder that is named does not exist.
    """
    folder_of_suite = None
    if suite is not None and suite.data_root:
        folder_of_suite = suite.source.parent / Path(suite.data_root).expanduser()
    origins = [
        ("--data-root", options.data_root),
        (DATA_VARIABLE, os.environ.get(DATA_VARIABLE)),
        ("data_root", folder_of_suite),
    ]
    for origin, folder in origins:
        if folder:
            path = Path(folder).expanduser()
            if not path.is_dir():
                raise UserError(
                    f"{origin} names the data folder {path}, which does not exist; make it or name another"
                )
            return path.resolve()
    return None
