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
        if self.common is not None and self.common.value is not None:
            return merge(summaries.values()).confusion(self.common.value), ""
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


def thresholds_of(
    tuning: Mapping[str, Iterable[SiteEvaluation]], section: ThresholdSection
) -> Operating:
    """A threshold for each site's model.

    Scores of different models share no scale, and so no threshold that is not given.

    Args:
        tuning: the tuning splits, scored by that model, that choose each site's threshold.
        section: the study's rule.
    """
    if section.rule == "fixed":
        return common_threshold((), section)
    by_site = {site: common_threshold(seen, section) for site, seen in sorted(tuning.items())}
    told = {
        site: {key: part for key, part in one.told.items() if key in ("value", "reason")}
        for site, one in by_site.items()
    }
    own = {site: one.common for site, one in by_site.items() if one.common is not None}
    return Operating(None, own, {**_rule(section), "value": None, "sites": told})


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
