"""Judging one yes-or-no outcome."""

from __future__ import annotations

from collections.abc import Sequence

from federation.metrics.summary import ScoreSummary, merge
from server.evaluator import (
    evaluate_local_models,
    evaluate_model,
    evaluate_own_models,
    headline,
    own_headline,
)
from server.joining import joining
from server.judges.base import BySite, Document, Headline, Judge
from server.noised import noised_model
from server.operating import common_threshold, thresholds_of
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation


class BinaryJudge(Judge[ScoreSummary]):
    """See `Judge`; what each entry holds is in ``server.evaluator``."""

    def headline(self, summaries: Sequence[ScoreSummary], own: bool = False) -> Headline:
        """See `Judge`."""
        return own_headline(summaries) if own else headline(merge(summaries))

    def model(self, tested: Scored) -> Document:
        """See `Judge`."""
        rule = self.study.evaluation.threshold
        if self.study.evaluation.noise is not None:
            return noised_model(tested.held_out, tested.tuning, rule)
        return evaluate_model(tested.held_out, common_threshold(tested.tuning, rule))

    def own_models(
        self, tested: Sequence[SiteEvaluation], tuning: BySite[ScoreSummary]
    ) -> Document:
        """See `Judge`."""
        rule = self.study.evaluation.threshold
        return evaluate_own_models(tested, thresholds_of(tuning, rule))

    def local_models(
        self, tested: BySite[ScoreSummary], tuning: BySite[ScoreSummary]
    ) -> tuple[Document, Document]:
        """See `Judge`."""
        rule = self.study.evaluation.threshold
        return evaluate_local_models(tested, thresholds_of(tuning, rule))

    def joining(
        self,
        federated: Sequence[SiteEvaluation],
        local: BySite[ScoreSummary],
        together: Sequence[SiteEvaluation],
    ) -> Document:
        """See `Judge`."""
        return joining(federated, local, together)

    def doubt(self, model: Document) -> str:
        """See `Judge`."""
        reason = model["overall"].get("auroc", {}).get("reason")
        return f"The federated model has no AUROC: {reason}." if reason else ""
