"""Training conditions and held-out conditions: the published sets of corruptions, and which condition is on which side.

A network that was trained on corruptions must be judged apart on those that it has seen and on those that it has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from evalsuite.errors import SuiteError
from evalsuite.registry import unknown_name
from evalsuite.types import SYNTHETIC_FROST

CORRUPTION_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mix1": (
            *("contrast", "elastic_transform", "gaussian_blur", "impulse_noise", "motion_blur"),
            *("pixelate", "shot_noise", "snow", "zoom_blur"),
        ),
        "mix2": (
            *("brightness", "defocus_blur", "fog", "frost", "gaussian_noise"),
            *("glass_blur", "jpeg_compression", "saturate", "spatter", "speckle_noise"),
        ),
    }
)
"""Sets of corruptions by name: those that are trained on and those that are held out in Liebenwein et al. 2021, arXiv
2103.03014, section 6, whose authors drew them once at random."""

KINDS: tuple[str, ...] = tuple(sorted(kind for kinds in CORRUPTION_SETS.values() for kind in kinds))
"""The 19 corruptions: the two sets together."""


def corruption_kinds(names: Iterable[str], *, where: str) -> tuple[str, ...]:
    """Returns the corruptions that names mean: of a set all of its own.

    Args:
        names: Sets of `CORRUPTION_SETS`, or single corruptions.
        where: Place in a file, for error messages.

    Raises:
        SuiteError: If a name is neither, or a corruption is there twice.

    >>> corruption_kinds(["mix1", "fog"], where="")[-2:]
    ('zoom_blur', 'fog')
    """
    kinds: list[str] = []
    for name in names:
        if name not in CORRUPTION_SETS and name not in KINDS:
            raise SuiteError(f"{where}: {unknown_name('corruption', name, (*CORRUPTION_SETS, *KINDS))}")
        kinds += CORRUPTION_SETS.get(name, (name,))
    if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        raise SuiteError(f"{where}: found {', '.join(twice)} twice; name each corruption once")
    return tuple(kinds)


@dataclass(frozen=True)
class ConditionSplits:
    """The table ``[conditions]`` of a suite: which conditions a network was trained on, and which are held out.

    A name is that of a condition (``clean``, ``cifar10.1``, ``fog/3``), of a corruption at every severity that is
    measured (``fog``), or of a published set (``mix1``, ``mix2``). Synthetic frost has a name of its own.

    Attributes:
        train: Conditions of the training, clean images among them.
        held_out: Conditions that no training has seen.
    """

    train: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.train or not self.held_out:
            raise SuiteError(
                f"found train = {list(self.train)} and held_out = {list(self.held_out)}, expected conditions on both "
                'sides, for example train = ["clean", "mix1"], held_out = ["mix2"]'
            )
        train, held_out = self._names
        if both := sorted(train & held_out):
            raise SuiteError(f"found {', '.join(both)} in train and in held_out, expected it on one side")

    def side_of(self, condition: str) -> str:
        """Returns the side of a condition, ``train`` or ``held-out``; empty for one that is on neither.

        >>> splits = ConditionSplits(("clean", "mix1"), ("mix2", "cifar10.1"))
        >>> splits.side_of("snow/3"), splits.side_of("fog official/3"), splits.side_of("cifar10.1"), splits.side_of("x")
        ('train', 'held-out', 'held-out', '')
        """
        kind = condition.partition("/")[0].removesuffix(" official")
        train, held_out = ({condition, kind} & names for names in self._names)
        return "train" if train else "held-out" if held_out else ""

    def holds_out(self, corruption: str) -> bool:
        """Whether a corruption is held out, at any severity, generated or official.

        >>> ConditionSplits(("clean",), ("fog official/3",)).holds_out("fog")
        True
        """
        _, held_out = self._names
        return corruption in {kind for name in held_out for kind in _names_of(name)}

    def unused_names(self, conditions: Iterable[str]) -> list[str]:
        """Returns the names that none of the measured `conditions` has; synthetic frost is in the place of frost."""
        known = {name for condition in conditions for name in _names_of(condition)}
        known |= {"frost"} if SYNTHETIC_FROST in known else set()
        return sorted(name for names in self._names for name in names if name not in known)

    @property
    def _names(self) -> tuple[set[str], set[str]]:
        train, held_out = (
            {kind for name in names for kind in CORRUPTION_SETS.get(name, (name,))}
            for names in (self.train, self.held_out)
        )
        return train, held_out


def _names_of(condition: str) -> tuple[str, str]:
    return condition, condition.partition("/")[0].removesuffix(" official")
