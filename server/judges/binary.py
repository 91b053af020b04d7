"""Judging one yes-or-no outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from server.operating import Operating, common_threshold, thresholds_of
from server.recalibration import Recalibration, before, recalibration
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation


class BinaryJudge(Judge[ScoreSummary]):
    """See `Judge`; what each entry holds is in ``server.evaluator``."""

    def headline(self, summaries: Sequence[ScoreSummary], own: bool = False) -> Headline:
        """See `Judge`."""
        return own_headline(summaries) if own else headline(merge(summaries))

    def model(self, tested: Scored) -> Document:
        """See `Judge`."""
        rule = self.evaluation.threshold
        if self.evaluation.noise is not None:
            return noised_model(tested.held_out, tested.tuning, rule)
        section = self.evaluation.recalibration if tested.ours else None
        moved = recalibration(tested.tuning, section)
        threshold = common_threshold(moved.of(tested.tuning), rule)
        found = evaluate_model(moved.of(tested.held_out), threshold)
        if section is None:
            return found
        return {**found, "recalibration": {**moved.told, "before": before(tested.held_out)}}

    def own_models(
        self, tested: Sequence[SiteEvaluation], tuning: BySite[ScoreSummary]
    ) -> Document:
        """See `Judge`."""
        moved = self._of_each(tuning)
        recalibrated = [one for seen in tested for one in _moved(moved, seen.site, [seen])]
        return self._told(evaluate_own_models(recalibrated, self._thresholds(moved, tuning)), moved)

    def local_models(
        self, tested: BySite[ScoreSummary], tuning: BySite[ScoreSummary]
    ) -> tuple[Document, Document]:
        """See `Judge`."""
        moved = self._of_each(tuning)
        recalibrated = {site: _moved(moved, site, seen) for site, seen in tested.items()}
        models, cross_site = evaluate_local_models(recalibrated, self._thresholds(moved, tuning))
        return self._told(models, moved), cross_site

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

    def _of_each(self, tuning: BySite[ScoreSummary]) -> dict[str, Recalibration]:
        section = self.evaluation.recalibration
        if section is None:
            return {}
        return {site: recalibration(seen, section) for site, seen in sorted(tuning.items())}

    def _thresholds(
        self, moved: Mapping[str, Recalibration], tuning: BySite[ScoreSummary]
    ) -> Operating:
        seen = {site: _moved(moved, site, sent) for site, sent in tuning.items()}
        return thresholds_of(seen, self.evaluation.threshold)

    def _told(self, models: Document, moved: Mapping[str, Recalibration]) -> Document:
        section = self.evaluation.recalibration
        if section is None:
            return models
        sites = {site: dict(one.told) for site, one in moved.items()}
        return {**models, "recalibration": {"method": section.method, "sites": sites}}


def _moved(
    moved: Mapping[str, Recalibration], site: str, evaluations: Sequence[SiteEvaluation]
) -> list[SiteEvaluation]:
    """Evaluations of a site's own model, recalibrated where it has a line."""
    return moved.get(site, Recalibration()).of(evaluations)
