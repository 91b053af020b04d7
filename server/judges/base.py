"""What every judge answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from federation.metrics.summaries import Summary
from federation.study import EvaluationSection
from federation.tasks import Task
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation

S = TypeVar("S", bound=Summary)

Headline = dict[str, float | None]
Document = dict[str, Any]
BySite = Mapping[str, Sequence[SiteEvaluation[S]]]


class Judge(ABC, Generic[S]):
    """Makes the entries of metrics.json and rounds.jsonl from summaries of one kind."""

    def __init__(self, task: Task, evaluation: EvaluationSection):
        self.task, self.evaluation = task, evaluation

    @abstractmethod
    def headline(self, summaries: Sequence[S], own: bool = False) -> Headline:
        """The task's metrics without intervals, cheap enough for every round.

        Args:
            summaries: of the sites, in order.
            own: whether each is of a model of the site's own: then the mean over sites.
        """

    @abstractmethod
    def model(self, tested: Scored) -> Document:
        """One model that all sites used: overall, by site, by subgroup, and by both."""

    @abstractmethod
    def own_models(self, tested: Sequence[SiteEvaluation[S]], tuning: BySite[S]) -> Document:
        """A model of each site's own, each on its own patients.

        Args:
            tested: on the held-out split.
            tuning: the tuning splits, scored by that model, that choose each site's threshold.
        """

    @abstractmethod
    def local_models(self, tested: BySite[S], tuning: BySite[S]) -> tuple[Document, Document]:
        """Models that each site trained alone: ``models["local"]`` and ``cross_site``.

        Args:
            tested: by the site that trained a model, that model's evaluations at every site.
            tuning: as for ``own_models``.
        """

    @abstractmethod
    def joining(
        self,
        federated: Sequence[SiteEvaluation[S]],
        local: BySite[S],
        together: Sequence[SiteEvaluation[S]],
    ) -> Document:
        """What each site gains by joining; ``together`` is of sites that scored both at once."""

    @abstractmethod
    def doubt(self, model: Document) -> str:
        """Why a model's entry lacks its first metric; empty if it does not."""
