"""One evaluator on one candidate: its scores are checked, and a failure is written down."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from evalsuite.errors import ContractError, InvalidModelError, SkippedError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution.limits import is_out_of_memory, limited
from evalsuite.metrics.functionals import evaluate
from evalsuite.runs.store import Cell
from evalsuite.types import Metric, Score

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One try at a cell.

    Attributes:
        cell: The result.
        retryable: Whether another try may end otherwise.
        out_of_memory: Whether memory ran out: the next try must take less.
    """

    cell: Cell
    retryable: bool = False
    out_of_memory: bool = False


def measured(evaluator: Evaluator, bench: Bench, *, digest: str = "") -> Cell:
    """Returns the cell of one evaluator on one candidate, also where it fails.

    What does not apply to a model makes the cell ``skipped``, a model that breaks its contract ``invalid``, any
    other exception ``error``; the reason is kept and there are no numbers.
    """
    return attempted(evaluator, bench, digest=digest).cell


def attempted(evaluator: Evaluator, bench: Bench, *, digest: str = "", limit: float | None = None) -> Attempt:
    """Tries to fill a cell, as `measured` does.

    Args:
        evaluator: The test.
        bench: The candidate's.
        digest: Of what the cell depends on.
        limit: Seconds that it may take; ``None`` for any number.
    """
    return tried(
        lambda: Cell(digest, "ok", metrics=evaluator.metrics, scores=scored(evaluator, bench)),
        name=type(evaluator).__name__,
        digest=digest,
        limit=limit,
    )


def tried(measure: Callable[[], Cell], *, name: str, digest: str, limit: float | None) -> Attempt:
    """Tries to fill a cell, and writes down in it how that failed.

    Args:
        measure: Returns the cell.
        name: Of the evaluator, for the log.
        digest: Of what the cell depends on.
        limit: Seconds that it may take; ``None`` for any number.
    """
    try:
        with limited(limit):
            cell = measure()
    except SkippedError as error:
        return Attempt(Cell(digest, "skipped", str(error)))
    except InvalidModelError as error:
        return Attempt(Cell(digest, "invalid", str(error)))
    except (Exception, SystemExit) as error:  # a test that wants to exit does not end the run
        log.info("evaluator %s failed", name, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        retryable = not isinstance(error, ContractError)  # a plug-in that is wrong stays wrong
        return Attempt(Cell(digest, "error", reason), retryable, is_out_of_memory(error))
    return Attempt(cell)


def scored(evaluator: Evaluator, bench: Bench) -> tuple[Score, ...]:
    """Returns the scores of `evaluator`, with values computed from evidence.

    Raises:
        ContractError: If a score names an unknown metric, has neither value nor evidence, is not finite, or
            is there twice.
        InvalidModelError: If the model breaks its contract.
    """
    bench.request_features(evaluator.features)
    bench.restrict_inputs({*evaluator.needs, *evaluator.features})
    declared = {metric.name: metric for metric in evaluator.metrics}
    try:
        scores = tuple(_completed(score, declared) for score in evaluator.evaluate(bench))
    finally:
        bench.restrict_inputs(None)
    _check_unique(scores)
    return scores


def _completed(score: Score, declared: Mapping[str, Metric]) -> Score:
    if score.metric not in declared:
        raise ContractError(
            f"a score names the metric {score.metric!r}, declared are {', '.join(sorted(declared))}"
        )
    if score.reason:
        return score
    if score.evidence:
        value = float(evaluate(declared[score.metric].functional, score.evidence))
        score = replace(score, value=value, n=sum(len(rows) for rows in score.evidence.values()))
    if score.value is not None and not math.isfinite(score.value):
        raise ContractError(
            f"the score {score.metric} on {score.condition} is {score.value}, expected a finite number"
        )
    if missing := [name for name in ("value", "n") if getattr(score, name) is None]:
        raise ContractError(
            f"the score {score.metric} on {score.condition} has no evidence, so it needs value and n: "
            f"there is no {' and no '.join(missing)}"
        )
    return score


def _check_unique(scores: tuple[Score, ...]) -> None:
    names = Counter((score.metric, score.condition) for score in scores)
    if not names:
        raise ContractError("the evaluator yielded no score, expected at least one")
    for (metric, condition), times in names.items():
        if times > 1:
            raise ContractError(f"the score {metric} on {condition} is there twice")
