"""The summary of several outcomes of the same patients: classes, or findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.metrics.summary import Counts, ScoreSummary
from federation.metrics.suppression import WITHHELD, withheld_levels


@dataclass(frozen=True, eq=False)
class Agreement:
    """True classes beside the likeliest ones, of a site as a whole.

    Args:
        counts: (classes, classes + 1) int64, patients by true and by predicted class; the last
            column holds those whose predicted class is withheld, because too few share it.
        correct: patients whose predicted class is the true one, the withheld ones too.
    """

    counts: Counts
    correct: int

    def __post_init__(self) -> None:
        counts = np.array(self.counts)
        if counts.ndim != 2 or counts.shape[1] != counts.shape[0] + 1:
            raise ValueError("agreement must be whole numbers of shape (classes, classes + 1)")
        if not np.issubdtype(counts.dtype, np.integer) or counts.min(initial=0) < 0:
            raise ValueError("agreement must be whole numbers that are not negative")
        known = int(np.trace(counts))
        if not known <= self.correct <= known + int(counts[:, -1].sum()):
            raise ValueError("more or fewer are right than the agreement holds")
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts.astype(np.int64))

    @classmethod
    def of(cls, true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Agreement:
        """Count patients by their true and their predicted class, (patients,) each."""
        flat = np.bincount(true * (classes + 1) + predicted, minlength=classes * (classes + 1))
        counts = flat.reshape(classes, classes + 1).astype(np.int64)
        return cls(counts, int((true == predicted).sum()))

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.counts + other.counts, self.correct + other.correct)

    def merged(self, minimum: int) -> Agreement:
        """Withhold predicted classes of fewer than ``minimum`` patients, and what guards them.

        Their patients go together into the last column, by their true classes, as label counts do
        in a score bin; together they are ``minimum`` or more.
        """
        sizes = self.counts[:, :-1].sum(axis=0)
        hidden = withheld_levels({f"{k:03d}": int(n) for k, n in enumerate(sizes)}, minimum)
        counts = self.counts.copy()
        for name in hidden:
            counts[:, -1] += counts[:, int(name)]
            counts[:, int(name)] = 0
        return Agreement(counts, self.correct)

    def to_json(self) -> dict[str, Any]:
        """Exact both ways."""
        return {"counts": self.counts.tolist(), "correct": self.correct}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Agreement:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: if it cannot belong to any patients.
        """
        rows, correct = document.get("counts"), document.get("correct")
        whole = isinstance(rows, list) and all(
            isinstance(row, list) and all(type(n) is int and 0 <= n < 2**31 for n in row)
            for row in rows
        )
        if not whole or type(correct) is not int or set(document) != {"counts", "correct"}:
            raise ValueError("agreement must be whole numbers")
        return cls(np.array(rows, np.int64), correct)


@dataclass(frozen=True)
class OutcomesSummary:
    """Scores and labels of one cell, outcome by outcome.

    Args:
        outcomes: the summary of each outcome that may leave, by its name.
        withheld: why the others may not.
        agreement: of classes that exclude each other, and of a whole site alone.
    """

    outcomes: Mapping[str, ScoreSummary]
    withheld: Mapping[str, str] = field(default_factory=dict)
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        if (not self.outcomes and not self.withheld) or set(self.outcomes) & set(self.withheld):
            raise ValueError("an outcome is either told or withheld")
        if self.agreement is not None:
            rows = self.agreement.counts.sum(axis=1).tolist()
            sizes = {one.n for one in self.outcomes.values()}
            positives = [one.positives for one in self.outcomes.values()]
            if self.withheld or rows != positives or sizes != {sum(rows)}:
                raise ValueError("the agreement is of other patients than the outcomes")

    @property
    def n(self) -> int:
        """Most patients of whom any outcome is told."""
        return max((one.n for one in self.outcomes.values()), default=0)

    @property
    def names(self) -> set[str]:
        """The outcomes, those that are withheld too."""
        return {*self.outcomes, *self.withheld}

    def merged(self, minimum: int) -> OutcomesSummary:
        """Join bins of each outcome, as ``ScoreSummary.merged``, and withhold rare predictions."""
        return OutcomesSummary(
            {name: one.merged(minimum) for name, one in self.outcomes.items()},
            self.withheld,
            None if self.agreement is None else self.agreement.merged(minimum),
        )

    def without(self, withheld: Mapping[str, str]) -> OutcomesSummary:
        """Leave some outcomes out, for the reasons given."""
        if not withheld:
            return self
        kept = {name: one for name, one in self.outcomes.items() if name not in withheld}
        return OutcomesSummary(kept, {**self.withheld, **withheld})

    def of_subgroup(self) -> OutcomesSummary:
        """What a subgroup tells: predictions that are withheld would follow by subtraction."""
        return OutcomesSummary(self.outcomes, self.withheld)

    def too_small(self, minimum: int, merged: bool) -> str:
        """Why it must not leave a site; empty if it may."""
        for one in self.outcomes.values():
            if reason := one.too_small(minimum, merged):
                return reason
        if self.agreement is not None and merged:
            sizes = self.agreement.counts.sum(axis=0)
            if ((sizes > 0) & (sizes < minimum)).any():
                return "a predicted class of fewer patients than the site's minimum"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Exact both ways."""
        document: dict[str, Any] = {
            "outcomes": {name: one.to_json() for name, one in self.outcomes.items()}
        }
        if self.withheld:
            document["withheld"] = dict(self.withheld)
        if self.agreement is not None:
            document["agreement"] = self.agreement.to_json()
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> OutcomesSummary:
        """Read what ``to_json`` wrote; what a site sends is checked, not trusted.

        Raises:
            ValueError: if a part is missing, or cannot belong to any patients.
        """
        outcomes, withheld = document.get("outcomes"), document.get("withheld", {})
        if not isinstance(outcomes, Mapping) or not isinstance(withheld, Mapping):
            raise ValueError("outcomes and withheld must be tables")
        if set(document) - {"outcomes", "withheld", "agreement"}:
            raise ValueError("a cell holds more than a summary")
        if not all(WITHHELD.fullmatch(str(why)) for why in withheld.values()):
            raise ValueError("a reason that is none")
        agreement = document.get("agreement")
        if agreement is not None and not isinstance(agreement, Mapping):
            raise ValueError("agreement must be a table")
        return cls(
            {str(name): ScoreSummary.from_json(one) for name, one in outcomes.items()},
            {str(name): str(why) for name, why in withheld.items()},
            None if agreement is None else Agreement.from_json(agreement),
        )


def add_agreements(found: Iterable[Agreement | None]) -> Agreement | None:
    """Add up the agreements of sites; None if no site told one."""
    total: Agreement | None = None
    for one in found:
        if one is not None:
            total = one if total is None else total + one
    return total
