"""The summary of several tasks of the same patients, each of those in whom it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.metrics.outcomes import OutcomesSummary
from federation.metrics.single import SingleSummary, read_single_summary
from federation.metrics.suppression import WITHHELD

WITHIN = "/"
"""Between a task and one of its outcomes."""


@dataclass(frozen=True)
class SeveralSummary:
    """What one cell tells of each task.

    Args:
        tasks: the summary of each task that may leave, by its name.
        withheld: why the others may not.
    """

    tasks: Mapping[str, SingleSummary]
    withheld: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (not self.tasks and not self.withheld) or set(self.tasks) & set(self.withheld):
            raise ValueError("a task is either told or withheld")

    @property
    def n(self) -> int:
        """Most patients of whom any task is told."""
        return max((one.n for one in self.tasks.values()), default=0)

    @property
    def names(self) -> set[str]:
        """The tasks, those that are withheld too."""
        return {*self.tasks, *self.withheld}

    def merged(self, minimum: int) -> SeveralSummary:
        """Join bins within each task, as that task's own summary does."""
        told = {name: one.merged(minimum) for name, one in self.tasks.items()}
        return SeveralSummary(told, self.withheld)

    def without(self, withheld: Mapping[str, str]) -> SeveralSummary:
        """Leave some tasks, or outcomes of them (``findings/effusion``), out for these reasons."""
        told: dict[str, SingleSummary] = {}
        for name, one in self.tasks.items():
            if name in withheld:
                continue
            inside = {
                key.removeprefix(name + WITHIN): why
                for key, why in withheld.items()
                if key.startswith(name + WITHIN)
            }
            told[name] = one.without(inside) if isinstance(one, OutcomesSummary) else one
        whole = {name: withheld[name] for name in self.tasks if name in withheld}
        return SeveralSummary(told, {**self.withheld, **whole})

    def of_subgroup(self) -> SeveralSummary:
        """What a subgroup tells of each task."""
        told = {
            name: one.of_subgroup() if isinstance(one, OutcomesSummary) else one
            for name, one in self.tasks.items()
        }
        return SeveralSummary(told, self.withheld)

    def too_small(self, minimum: int, merged: bool) -> str:
        """Why it must not leave a site; empty if it may."""
        found = (one.too_small(minimum, merged) for one in self.tasks.values())
        return next(filter(None, found), "")

    def to_json(self) -> dict[str, Any]:
        """Exact both ways."""
        document: dict[str, Any] = {
            "tasks": {name: one.to_json() for name, one in self.tasks.items()}
        }
        if self.withheld:
            document["withheld"] = dict(self.withheld)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SeveralSummary:
        """Read what ``to_json`` wrote; what a site sends is checked, not trusted.

        Raises:
            ValueError: if a part is missing, or cannot belong to any patients.
        """
        tasks, withheld = document.get("tasks"), document.get("withheld", {})
        if not isinstance(tasks, Mapping) or not isinstance(withheld, Mapping):
            raise ValueError("tasks and withheld must be tables")
        if set(document) - {"tasks", "withheld"}:
            raise ValueError("a cell holds more than a summary")
        if not all(WITHHELD.fullmatch(str(why)) for why in withheld.values()):
            raise ValueError("a reason that is none")
        return cls(
            {str(name): read_single_summary(one) for name, one in tasks.items()},
            {str(name): str(why) for name, why in withheld.items()},
        )
