"""Transfer of adversarial images: what an attack on the unpruned network does to a model without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalsuite.attacks.specs import AttackBudget, attack_spec, attack_target, check_settings, transfer_attack
from evalsuite.datasets.views import View
from evalsuite.errors import SkippedError, SuiteError
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, check_epsilons
from evalsuite.evaluators.subset import population_of, subset_rows
from evalsuite.models.inference import gradient_obstacle
from evalsuite.types import Metric, Score

if TYPE_CHECKING:
    from evalsuite.evaluation import Bench

GROUP = "transfer"
ATTACK = "linf-pgd"
TRANSFER_ACCURACY = Metric(
    "transfer_accuracy", higher_is_better=True, unit="fraction",
    text="Share of images that are classified correctly before and after the attack, where the attack was made for the "
    "unpruned network: an upper bound of the robust accuracy, and for a quantised model all that gradients can say.",
)  # fmt: skip


@dataclass(frozen=True)
class Transfer(Evaluator):
    """Accuracy on adversarial images of the unpruned network: in the place of white-box attacks without gradients.

    The unpruned network is attacked once, by PGD, and every candidate sees the images where the attack ended. The
    unpruned network's own number is its white-box robust accuracy at the last step. No candidate is judged by the
    difference unless the suite has a tolerance for it: an attack that was made for another network is weaker, so a
    candidate with a higher number is not more robust. Candidates are compared with each other, and with the control.

    Attributes:
        epsilons: Linf radii on [0, 1] images in units of 1/255.
        steps: Gradient steps of PGD, each 2.5 / steps of the radius.
        images: The first so many test images, or evenly spaced ones where the images are sorted by class; 0 for all.

    References:
        Papernot et al. 2017, arXiv 1602.02697 (substitute networks); Madry et al. 2018, arXiv 1706.06083 (PGD);
        Carlini et al. 2019, arXiv 1902.06705 (what an upper bound is worth).
    """

    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0)
    steps: int = 20
    images: int = 200

    def __post_init__(self) -> None:
        check_epsilons("transfer", self.epsilons)
        if self.images < 0:
            raise SuiteError(f"transfer: found images = {self.images}, expected a count, or 0 for all")
        check_settings(attack_spec(ATTACK), 0.1, self._budget)  # refuses a number of steps out of range

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy after the transfer."""
        return (TRANSFER_ACCURACY,)

    @property
    def needs(self) -> tuple[View, ...]:
        """The clean test images."""
        return (View(),)

    def conditions(self, data: DataSummary) -> Iterable[Condition]:  # noqa: ARG002  # the same for all data
        """Yields one per radius."""
        for radius in sorted(self.epsilons):
            yield Condition(TRANSFER_ACCURACY.name, _condition(radius), GROUP)

    def evaluate(self, bench: Bench) -> Iterator[Score]:
        """Yields one score per radius.

        Raises:
            SkippedError: If the unpruned network has no gradients.
        """
        if obstacle := gradient_obstacle(bench.parent.model):
            raise SkippedError(
                f"the unpruned network has no gradients ({obstacle}), so nothing can be transferred"
            )
        labels = bench.outputs(View()).true_labels
        rows = subset_rows(labels, self.images)
        target = attack_target(bench, rows)
        target = replace(target, parent=target.parent or target.model)
        for radius in sorted(self.epsilons):
            wrong = transfer_attack(target, float("inf"), radius / 255, budget=self._budget)
            evidence = {population_of(rows, len(labels)): target.correct & ~wrong}
            yield Score(TRANSFER_ACCURACY.name, _condition(radius), evidence=evidence, group=GROUP)

    @property
    def _budget(self) -> AttackBudget:
        return AttackBudget(steps=self.steps)


def _condition(radius: float) -> str:
    return f"{ATTACK} of parent/{radius:g}:255"
