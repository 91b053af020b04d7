"""What metrics.json says of a model whose counts came with noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from federation.metrics.estimate import Estimate
from federation.metrics.noised import (
    NOT_TOLD,
    NoisedSummary,
    choose,
    estimates,
    rates,
    together,
)
from federation.metrics.threshold import Threshold
from federation.study import ThresholdSection
from server.cells import Cell
from server.evaluator import ALL_WITHHELD, NOBODY_SENT
from server.operating import UNTOLD
from server.site_evaluation import SiteEvaluation, ordered

NO_GAPS = "not told from counts with noise"


def noised_model(
    held_out: Sequence[SiteEvaluation],
    tuning: Sequence[SiteEvaluation],
    section: ThresholdSection,
) -> dict[str, Any]:
    """One model on all sites, as ``evaluator.evaluate_model``, with fewer metrics.

    Args:
        held_out: what the sites sent of the held-out split, with noise.
        tuning: of the tuning split, which chooses the threshold.
        section: the study's rule.
    """
    sent = ordered(held_out)
    threshold = _threshold(tuning, section)
    names = sorted({name for one in sent for name in (*one.noised, *one.withheld) if name})
    return {
        "overall": _joint(sent, "", threshold),
        "sites": {one.site: _site(one, "", threshold) for one in sent},
        "subgroups": {name: _joint(sent, name, threshold) for name in names},
        "site_subgroups": {
            one.site: {
                name: _site(one, name, threshold)
                for name in sorted({*one.noised, *one.withheld} - {""})
            }
            for one in sent
        },
        "threshold": _told(threshold, section),
        "worst": {"site": None, "subgroup": None},
        "fairness": {},
        "noised": True,
    }


def noised_headline(summaries: Iterable[NoisedSummary]) -> dict[str, float | None]:
    """AUROC and Brier of all sites together, for a round's record."""
    found = estimates(together(summaries))
    return {
        "auroc": found["auroc"].value,
        "auprc": None,
        "brier": found["brier"].value,
    }


def noise_told(evaluations: Iterable[SiteEvaluation]) -> dict[str, dict[str, Any]]:
    """With what noise each site told its counts."""
    return {
        one.site: one.noise.model_dump(mode="json") for one in evaluations if one.noise is not None
    }


def _joint(sent: Sequence[SiteEvaluation], name: str, threshold: Threshold) -> Cell:
    excludes = [one.site for one in sent if one.reason(name)]
    seen = [one.noised[name] for one in sent if name in one.noised]
    if not seen:
        return {"suppressed": ALL_WITHHELD if sent else NOBODY_SENT, "excludes": excludes}
    return {**_cell(together(seen), threshold), "excludes": excludes}


def _site(one: SiteEvaluation, name: str, threshold: Threshold) -> Cell:
    if reason := one.reason(name):
        return {"suppressed": reason}
    return _cell(one.noised[name], threshold)


def _cell(summary: NoisedSummary, threshold: Threshold) -> Cell:
    found = estimates(summary)
    decided: Cell = {"threshold": None, "reason": threshold.reason}
    if threshold.value is not None:
        told = rates(summary, threshold.value)
        decided = {
            "threshold": threshold.value,
            **{name: one.to_json() for name, one in told.items()},
        }
    untold = Estimate.undefined(NOT_TOLD).to_json()
    return {
        "n": summary.n,
        "positives": summary.positives,
        "noise_variance": round(summary.variance, 6),
        **{name: one.to_json() for name, one in found.items()},
        "auprc": untold,
        "calibration_slope": untold,
        "at_threshold": decided,
    }


def _threshold(tuning: Sequence[SiteEvaluation], section: ThresholdSection) -> Threshold:
    if section.rule == "fixed":
        return Threshold(section.value)
    seen = [one.noised[""] for one in tuning if "" in one.noised]
    if not seen:
        return Threshold(None, UNTOLD)
    return choose(together(seen), section.rule, section.value)


def _told(threshold: Threshold, section: ThresholdSection) -> Mapping[str, Any]:
    told: dict[str, Any] = {"rule": section.rule, "value": threshold.value}
    if section.rule == "sensitivity":
        told["sensitivity"] = section.value
    if threshold.reason:
        told["reason"] = threshold.reason
    return told if section.rule == "fixed" else {**told, "split": "tuning"}
