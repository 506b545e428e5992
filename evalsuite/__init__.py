"""Robustness beyond accuracy for pruned image classifiers.

Public is what this module, `evalsuite.plugins` (for authors of plug-ins) and `evalsuite.testing` export; every other
module may move. Names are imported when they are first used, so that ``import evalsuite`` costs nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evalsuite import _deprecated, _lazy

if TYPE_CHECKING:
    from evalsuite.api import check, evaluate, publish, run
    from evalsuite.config.options import Options
    from evalsuite.config.suite import Suite
    from evalsuite.datasets.base import DataSet
    from evalsuite.errors import EvalsuiteError, UserError
    from evalsuite.evaluators.base import Evaluator
    from evalsuite.execution.check import CheckRequest
    from evalsuite.models.architectures.base import Architecture
    from evalsuite.notebook import Run
    from evalsuite.producers.base import Context, Producer
    from evalsuite.statistics.sample_size import required_images, required_seeds
    from evalsuite.thresholds.threshold import threshold, thresholds
    from evalsuite.types import Candidate, ImageSet, Metric, Score, Threshold

    __version__: str

__all__ = [
    "Architecture",
    "Candidate",
    "CheckRequest",
    "Context",
    "DataSet",
    "EvalsuiteError",
    "Evaluator",
    "ImageSet",
    "Metric",
    "Options",
    "Producer",
    "Run",
    "Score",
    "Suite",
    "Threshold",
    "UserError",
    "__version__",
    "check",
    "evaluate",
    "publish",
    "required_images",
    "required_seeds",
    "run",
    "threshold",
    "thresholds",
]

_public = _lazy.attach(__name__, __file__)


if not TYPE_CHECKING:  # a type checker would take any name of a module with __getattr__ for Any

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version(__name__)
        return _public(name)

    def __dir__() -> list[str]:
        return sorted(__all__)


class _Package(ModuleType):
    """This module: a package below it does not take the place of the public function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
_deprecated.install()
