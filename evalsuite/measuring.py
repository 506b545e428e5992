"""One evaluator on one candidate: what it yields is checked, and what goes wrong is written down."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace

from evalsuite.bench import Bench
from evalsuite.errors import ContractError, InvalidModelError, SkippedError
from evalsuite.evaluators.contract import Evaluator
from evalsuite.metrics import evaluate
from evalsuite.records import Metric, Score
from evalsuite.store import Cell

log = logging.getLogger(__name__)


def measured(evaluator: Evaluator, bench: Bench, *, digest: str = "") -> Cell:
    """Returns the cell of one evaluator on one candidate, whatever happens.

    What does not apply to a model makes the cell ``skipped``, a model that breaks its contract ``invalid``, any
    other exception ``error``; the reason is kept and there are no numbers.
    """
    try:
        scores = scored(evaluator, bench)
    except SkippedError as error:
        return Cell(digest, "skipped", str(error))
    except InvalidModelError as error:
        return Cell(digest, "invalid", str(error))
    except Exception as error:
        log.info("evaluator %s failed", type(evaluator).__name__, exc_info=True)
        return Cell(digest, "error", f"{type(error).__name__}: {error}")
    return Cell(digest, "ok", metrics=evaluator.metrics, scores=scores)


def scored(evaluator: Evaluator, bench: Bench) -> tuple[Score, ...]:
    """Returns what `evaluator` yields, with values computed from evidence.

    Raises:
        ContractError: If a score names an unknown metric, has neither value nor evidence, is not finite, or
            is there twice.
        InvalidModelError: If the model breaks its contract.
    """
    bench.allow(evaluator.needs)
    try:
        scores = tuple(_completed(score, evaluator.metrics) for score in evaluator.evaluate(bench))
    finally:
        bench.allow(None)
    _check_unique(scores)
    return scores


def _completed(score: Score, metrics: Iterable[Metric]) -> Score:
    known = {metric.name: metric for metric in metrics}
    if score.metric not in known:
        raise ContractError(
            f"a score names the metric {score.metric!r}, declared are {', '.join(sorted(known))}"
        )
    if score.reason:
        return score
    if score.evidence:
        value = float(evaluate(known[score.metric].functional, score.evidence))
        score = replace(score, value=value, n=sum(len(rows) for rows in score.evidence.values()))
    if score.value is None or score.n is None:
        raise ContractError(
            f"the score {score.metric} on {score.condition} has no evidence, so it needs value and n"
        )
    if not math.isfinite(score.value):
        raise ContractError(
            f"the score {score.metric} on {score.condition} is {score.value}, expected a finite number"
        )
    return score


def _check_unique(scores: tuple[Score, ...]) -> None:
    names = [(score.metric, score.condition) for score in scores]
    if not names:
        raise ContractError("the evaluator yielded no score, expected at least one")
    for name in names:
        if names.count(name) > 1:
            raise ContractError(f"the score {name[0]} on {name[1]} is there twice")
