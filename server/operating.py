"""At which threshold each site's decisions are judged: fixed on the tuning split, then kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.metrics.estimate import NO_PATIENTS
from federation.metrics.summary import Confusion, ScoreSummary, merge
from federation.metrics.threshold import Threshold, choose_threshold
from federation.study import ThresholdSection
from server.site_evaluation import SiteEvaluation

UNTOLD = "no site sent its tuning split"


@dataclass(frozen=True)
class Operating:
    """The threshold of one model, or of each site's own model.

    Attributes:
        common: one for all sites; None where each site has its own.
        own: by site.
        told: what metrics.json says of it.
    """

    common: Threshold | None
    own: Mapping[str, Threshold] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    def at(self, site: str) -> Threshold:
        """The threshold of a site's patients."""
        if self.common is not None:
            return self.common
        return self.own.get(site, Threshold(None, UNTOLD))

    def confusion(self, summaries: Mapping[str, ScoreSummary]) -> tuple[Confusion | None, str]:
        """Decisions on sites' patients together; None and the reason if no site has a threshold."""
        chosen = {site: self.at(site) for site in summaries}
        decided = [
            summaries[site].confusion(one.value)
            for site, one in chosen.items()
            if one.value is not None
        ]
        if not decided:
            return None, next((one.reason for one in chosen.values()), NO_PATIENTS)
        return sum(decided, Confusion(0, 0, 0, 0)), ""


def common_threshold(tuning: Iterable[SiteEvaluation], section: ThresholdSection) -> Operating:
    """One threshold for a model that all sites use, from their tuning splits together.

    Args:
        tuning: what each site sent of the model on its tuning split.
        section: the study's rule.
    """
    sent = sorted(tuning, key=lambda one: one.site)
    seen = [one for one in sent if "" in one.cells]
    together = merge(one.cells[""] for one in seen)
    chosen = _chosen(together, section)
    told: dict[str, Any] = {**_rule(section), **_as_json(chosen)}
    if section.rule != "fixed":
        told |= {
            "n": together.n,
            "positives": together.positives,
            "excludes": [one.site for one in sent if one not in seen],
        }
    return Operating(chosen, told=told)


def own_thresholds(tuning: Iterable[SiteEvaluation], section: ThresholdSection) -> Operating:
    """A threshold for each site's own model, from its own tuning split; ``tuning`` has one a site.

    Scores of different models share no scale, and so no threshold that is not given.
    """
    if section.rule == "fixed":
        return common_threshold((), section)
    chosen = {
        one.site: _chosen(one.cells.get("", ScoreSummary.empty()), section)
        for one in sorted(tuning, key=lambda one: one.site)
    }
    return given_thresholds(chosen, section)


def given_thresholds(chosen: Mapping[str, Threshold], section: ThresholdSection) -> Operating:
    """Thresholds that were chosen for each site."""
    sites = {site: _as_json(one) for site, one in sorted(chosen.items())}
    return Operating(None, dict(chosen), {**_rule(section), "value": None, "sites": sites})


def _chosen(summary: ScoreSummary, section: ThresholdSection) -> Threshold:
    if section.rule != "fixed" and not summary.n:
        return Threshold(None, UNTOLD)
    return choose_threshold(summary, section.rule, section.value)


def _rule(section: ThresholdSection) -> dict[str, Any]:
    rule: dict[str, Any] = {"rule": section.rule}
    if section.rule == "sensitivity":
        rule["sensitivity"] = section.value
    return rule if section.rule == "fixed" else rule | {"split": "tuning"}


def _as_json(chosen: Threshold) -> dict[str, Any]:
    return {"value": chosen.value, **({"reason": chosen.reason} if chosen.reason else {})}
