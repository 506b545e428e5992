"""What the commands do, for notebooks and scripts: a few typed functions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evalsuite.config.data import resolve_data
from evalsuite.config.options import Options, data_root
from evalsuite.config.suite import Suite
from evalsuite.datasets import DATASETS
from evalsuite.errors import DataError, UserError
from evalsuite.execution.check import CheckRequest, check_suite_of, places_of
from evalsuite.execution.check_places import named_places
from evalsuite.notebook import Run
from evalsuite.plugin_config import from_table
from evalsuite.random_streams import address
from evalsuite.report.build import report_data
from evalsuite.report.example_images import examples_are_current, save_examples, without_pictures
from evalsuite.report.export import export
from evalsuite.results import run as stored
from evalsuite.results.check_verdicts import verdict_table
from evalsuite.types import ImageSet, Score

if TYPE_CHECKING:
    from torch import nn

    from evalsuite.datasets.base import DataSet
    from evalsuite.evaluation import Bench
    from evalsuite.evaluators.base import Evaluator
    from evalsuite.execution.dry_run import DryRun
    from evalsuite.execution.planning import PreparedRun
    from evalsuite.execution.scheduler import ProgressCallback

log = logging.getLogger(__name__)

Table = Mapping[str, Any]
"""A plug-in's name and settings, as a table of a suite."""

COLUMNS = ("evaluator", "metric", "condition", "group", "value", "n", "unit", "higher_is_better")


def run(
    suite: Suite | str | Path,
    *,
    out: Path | str | None = None,
    options: Options | None = None,
    progress: ProgressCallback | None = None,
    search_for: str = "",
) -> Run:
    """Runs a suite and writes its report; what an earlier run finished is not computed again.

    Args:
        suite: A suite, the path of one, or the name of one that ships with the package. A file is read once, now.
        out: Run folder; ``reports/<suite>`` under the current folder by default.
        options: Seed, device and data, where they differ from the suite's.
        progress: Called after each cell.
        search_for: ``metric@condition`` whose thresholds are searched with fewer ratios; see
            `evalsuite.execution.search`.

    Returns:
        The results; ``run.measurements`` and ``run.thresholds()`` are tables.

    Raises:
        UserError: If the suite, its data or its checkpoint is not as it must be; nothing has been computed then. Also
            if a plug-in did not report a condition that has a tolerance: then tables and page are written.
    """
    from evalsuite.execution.planning import prepare  # torch takes seconds to import
    from evalsuite.execution.scheduler import execute
    from evalsuite.execution.search import search

    options = options or Options()
    if search_for:
        options = replace(options, search=search_for)
    prepared = prepare(suite, out=out, options=options)
    done = search(prepared, progress=progress) if options.search else execute(prepared, progress=progress)
    results = Run(done.path)
    _write_pictures(results, prepared)
    publish(results)
    for metric, conditions in results.unmatched_tolerances.items():
        raise UserError(
            f"{prepared.suite.source}, [tolerances]: {metric}: no test reported it on {', '.join(conditions)}; the "
            f"tables and the page are in {results.path}, without thresholds for it; correct the name and start it again"
        )
    return results


def _write_pictures(results: Run, prepared: PreparedRun) -> None:
    """Writes the pictures of a run into its folder, if they are not there: they need data and models."""
    from evalsuite.execution.attacked_samples import attacked

    if examples_are_current(results):
        return
    try:
        attacks = attacked(results, prepared.suite, prepared.image_source)
    except Exception:  # a picture may not cost a run its report
        log.warning("no attacked images for the report", exc_info=True)
        attacks = []
    save_examples(results, prepared.image_source, attacks=attacks)


def publish(run: stored.Run | Path | str, *, pictures: bool = True) -> Path:
    """Writes the tables and the page of a run from its cells, without torch and without the models.

    Args:
        run: A run, or its folder. Of a run over another axis (``Run(path, axis="macs")``) they go into a folder
            ``by-macs`` below the run's.
        pictures: Whether the page shows test images. They stay in the run folder in any case.

    Returns:
        The path of ``index.html``; ``measurements.csv``, ``thresholds.csv``, ``reliability.csv`` and
        ``excess.csv`` lie beside it.

    Raises:
        StoreError: If the folder is no run, holds no finished cell, or cannot be written.
        UserError: If no candidate saves anything on the axis.
    """
    from evalsuite.report.page import write_page  # jinja takes a while to import

    results = run if isinstance(run, stored.Run) else Run(run)
    folder = results.path / f"by-{results.axis}" if results.axis else results.path
    export(results, "csv", folder)
    results.keep_tables()
    data = report_data(results)
    return write_page(data if pictures else without_pictures(data), folder)


def pixel_matrix(
    suite: Suite | str | Path,
    *,
    method: str,
    out: Path | str | None = None,
    options: Options | None = None,
    settings: Table | None = None,
) -> pd.DataFrame:
    """Returns which networks of a finished run recognise images by the pixels that another one needs most.

    Args:
        suite: As for `run`.
        method: Label of a producer.
        out: Run folder, as for `run`.
        options: As for `run`.
        settings: Of the evaluator ``pixels``: images, share, step.

    Returns:
        See `evalsuite.execution.pixel_matrix`: rows chose the pixels, columns see them.

    Raises:
        UserError: If the run has no candidates of the method.
    """
    from evalsuite.evaluators import EVALUATORS  # torch takes seconds to import
    from evalsuite.evaluators.pixels import Pixels
    from evalsuite.execution.pixel_matrix import pixel_matrix as matrix
    from evalsuite.execution.planning import prepare

    prepared = prepare(suite, out=out, options=options)
    config = from_table(EVALUATORS, {"name": "pixels", **(settings or {})}, where="settings")
    if not isinstance(config.plugin, Pixels):
        raise UserError("pixels is another evaluator here; leave the plug-in of this name out")
    results = Run(prepared.runner.context.root)
    return matrix(results, prepared.suite, prepared.image_source, method=method, pixels=config.plugin)


def check(
    request: CheckRequest,
    *,
    out: Path | str = Path("reports/check"),
    options: Options | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[pd.DataFrame, Run]:
    """Compares finished models with their parent and writes the same report as `run`.

    Args:
        request: The models to check.
        out: Run folder.
        options: Device and data root.
        progress: Called after each cell.

    Returns:
        One row per candidate, metric and condition with the columns ``passed`` and ``verdict``, and the run.

    Raises:
        UserError: If a file cannot be read, does not fit, or the request has another mistake.
    """
    with named_places(places_of(request, Path.cwd())):
        suite, options = _suite_of_check(request, options or Options())
        results = run(suite, out=out, options=options, progress=progress)
    names = [control.method for control in request.controls]
    return verdict_table(results, undecided=request.undecided, controls=names), results


def _suite_of_check(request: CheckRequest, options: Options) -> tuple[Suite, Options]:
    """The suite that answers a request, and the options with the data root that its data names."""
    suite, root = check_suite_of(request, folder=Path.cwd(), root=data_root(None, options))
    if root is not None and options.data_root is not None and options.data_root.resolve() != root.resolve():
        raise UserError(
            f"--data names data in {root}, and --data-root the folder {options.data_root}; leave one of them out"
        )
    return suite, replace(options, data_root=root or options.data_root)


def check_dry_run(
    request: CheckRequest, *, out: Path | str = Path("reports/check"), options: Options | None = None
) -> DryRun:
    """Returns what `check` would do with the same arguments; nothing is computed or written.

    Raises:
        UserError: As `check`, in the same words.
    """
    from evalsuite.execution.dry_run import describe_run
    from evalsuite.execution.planning import prepare  # torch takes seconds to import

    with named_places(places_of(request, Path.cwd())):
        suite, options = _suite_of_check(request, options or Options())
        return describe_run(prepare(suite, out=out, options=options))


def evaluate(
    model: nn.Module,
    *,
    data: str | Table | ImageSet | DataSet = "digits",
    evaluators: str | Table | Evaluator | Iterable[str | Table | Evaluator] = "accuracy",
    parent: nn.Module | None = None,
    options: Options | None = None,
    channels: int | None = None,
) -> pd.DataFrame:
    """Returns the scores of one model that is in memory.

    Args:
        model: Takes float images in [0, 1], (B, C, H, W), and returns logits (B, K); it normalises by itself.
            It is evaluated in evaluation mode and given back as it was.
        data: Name, path, table or instance of a data set, or labelled test images.
        evaluators: One or several names, tables or instances.
        parent: The unpruned network, for agreement; the model itself by default.
        options: Seed of the changes of images, limit of test images, batch size, and the data root.
        channels: Of the images that the model takes: pictures become grey for one, RGB for three. By default those of
            its first convolution.

    Returns:
        Columns evaluator, metric, condition, group, value, n, unit, higher_is_better.

    Raises:
        UserError: If data or evaluators are not as they must be.
        CellError: If the model or a plug-in breaks its contract.
    """
    from evalsuite.datasets.base import Place
    from evalsuite.datasets.source import ImageSource
    from evalsuite.evaluation import Bench
    from evalsuite.execution.measuring import scored

    options = options or Options()
    seed = options.seed or 0
    data_set, root = _source(data, data_root(None, options))
    place = Place(
        root,
        options.download,
        seed,
        channels=_input_channels(model) if channels is None else channels,
        skip_unreadable=options.skip_unreadable,
        verify=options.verify,
    )
    image_source = ImageSource(data_set, place, limit=options.limit or 0)
    chosen = _labelled(evaluators)
    rows = []
    with _unchanged(model), _unchanged(parent):
        dense = None if parent is None else Bench(parent, image_source)
        if dense is not None:
            dense.batch_size = options.batch_size or dense.batch_size
            _check_parent(dense)
        bench = Bench(model, image_source, parent=dense, seed=address(seed, "bench"))
        bench.batch_size = options.batch_size or bench.batch_size
        bench.request_features([view for _, evaluator in chosen for view in evaluator.features])
        for label, evaluator in chosen:
            rows += [_row(label, evaluator, score) for score in scored(evaluator, bench)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _input_channels(model: nn.Module) -> int:
    """Number of channels of the images that a model takes: that of its normalisation, or of its first convolution."""
    from torch import nn

    from evalsuite.models.architectures.base import Normalized

    if isinstance(model, Normalized):
        return model.mean.numel()
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    first = next(layers, None)
    return first.in_channels if isinstance(first, nn.Conv2d) else 3


def _check_parent(dense: Bench) -> None:
    """Refuses a parent that does not classify the labelled test images."""
    from evalsuite.datasets.views import View
    from evalsuite.execution.parent_checks import check_parent, is_constant

    images = dense.images(View())
    if images.labels is not None:
        filtered = getattr(dense.image_source.data, "filtered", False)
        outputs = dense.outputs(View())
        check_parent(
            int(outputs.correct.sum()), images, constant=is_constant(outputs.predictions), filtered=filtered
        )


@contextmanager
def _unchanged(model: nn.Module | None) -> Iterator[None]:
    """Puts every part of a network back into training or evaluation mode, as it was."""
    modes = {} if model is None else {part: part.training for part in model.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _row(label: str, evaluator: Evaluator, score: Score) -> tuple[Any, ...]:
    (metric,) = (metric for metric in evaluator.metrics if metric.name == score.metric)
    values = (score.metric, score.condition, score.group, score.value, score.n)
    return label, *values, metric.unit, metric.higher_is_better


def _source(
    data: str | Table | ImageSet | DataSet, root: Path | None
) -> tuple[DataSet | ImageSet, Path | None]:
    """The data set that was named, and the data root."""
    if isinstance(data, str | Mapping):
        resolved = resolve_data(data, where="data", root=root)
        if resolved.warning:
            log.warning("data: %s", resolved.warning)
        return from_table(DATASETS, resolved.table, where="data").plugin, resolved.root or root
    if isinstance(data, ImageSet) and data.labels is None:
        raise DataError(f"image set {data.name!r} has no labels: expected labelled test images")
    return data, root


def _labelled(
    evaluators: str | Table | Evaluator | Iterable[str | Table | Evaluator],
) -> list[tuple[str, Evaluator]]:
    """One or several evaluators, each with its label."""
    if isinstance(evaluators, Iterable) and not isinstance(evaluators, str | Mapping):
        return list(map(_evaluator, evaluators))
    return [_evaluator(evaluators)]


def _evaluator(evaluator: str | Table | Evaluator) -> tuple[str, Evaluator]:
    from evalsuite.evaluators import EVALUATORS

    if isinstance(evaluator, str | Mapping):
        choice = from_table(EVALUATORS, evaluator, where="evaluators")
        return choice.label, choice.plugin
    return type(evaluator).__name__.lower(), evaluator
