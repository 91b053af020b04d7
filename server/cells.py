"""The metrics of some patients as metrics.json has them: one cell, or an average over sites."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from federation.metrics.calibration import brier_parts, expected_calibration_error
from federation.metrics.decisions import at_threshold
from federation.metrics.estimate import NO_PATIENTS, Estimate, Z
from federation.metrics.intervals import (
    bootstrapped,
    delong,
    resample,
)
from federation.metrics.summary import ScoreSummary
from federation.metrics.utility import net_benefit
from server.operating import Operating

Cell = dict[str, Any]


def cell(summary: ScoreSummary) -> Cell:
    """Every metric of one cell with its interval; the same bits for the same summary."""
    if not summary.n:
        return {"suppressed": NO_PATIENTS}
    drawn = resample(summary, _generator(summary))
    sampled = {name: one.to_json() for name, one in bootstrapped(summary, drawn).items()}
    parts = brier_parts(summary)
    return {
        "n": summary.n,
        "positives": summary.positives,
        "auroc": delong(summary).to_json(),
        "auprc": sampled["auprc"],
        "sensitivity_at_90_specificity": sampled["sensitivity_at_90_specificity"],
        "specificity_at_90_sensitivity": sampled["specificity_at_90_sensitivity"],
        "brier": sampled["brier"],
        "brier_calibration": _bare(parts.calibration),
        "brier_refinement": _bare(parts.refinement),
        "ece": _bare(expected_calibration_error(summary)),
        "calibration_slope": sampled["calibration_slope"],
        "calibration_intercept": sampled["calibration_intercept"],
        "net_benefit": [point.to_json() for point in net_benefit(summary)],
    }


def decided(summaries: Mapping[str, ScoreSummary], operating: Operating) -> Cell:
    """``at_threshold`` of the patients of some sites together, each site at its threshold."""
    confusion, reason = operating.confusion(summaries)
    if confusion is None:
        return {"threshold": None, "reason": reason}
    common = operating.common
    if common is None and len(summaries) == 1:
        common = operating.at(next(iter(summaries)))
    threshold = None if common is None else common.value
    rates = at_threshold(confusion, threshold)
    undefined = [site for site in summaries if operating.at(site).value is None]
    return {
        "threshold": threshold,
        **{name: one.to_json() for name, one in rates.items()},
        **({"undefined_at": undefined} if undefined else {}),
    }


def averaged(summaries: Mapping[str, ScoreSummary]) -> Cell:
    """AUROC, AUPRC and Brier of sites' own models: means of the sites' own, weighted by patients.

    Scores of different models share no scale, so they are never pooled.
    """
    seen = {site: summary for site, summary in summaries.items() if summary.n}
    estimates: dict[str, dict[str, Estimate]] = {"auroc": {}, "auprc": {}, "brier": {}}
    for site, summary in seen.items():
        sampled = bootstrapped(summary, resample(summary, _generator(summary)))
        estimates["auroc"][site] = delong(summary)
        estimates["auprc"][site] = sampled["auprc"]
        estimates["brier"][site] = sampled["brier"]
    return {
        "n": sum(summary.n for summary in seen.values()),
        "positives": sum(summary.positives for summary in seen.values()),
        **{metric: _averaged_json(by_site, seen) for metric, by_site in estimates.items()},
    }


def averaged_auroc(summaries: Mapping[str, ScoreSummary], z: float = Z) -> Estimate:
    """Mean of sites' AUROCs, weighted by patients, with its interval."""
    seen = {site: summary for site, summary in summaries.items() if summary.n}
    return _average({site: delong(summary) for site, summary in seen.items()}, seen, z)


def _averaged_json(by_site: Mapping[str, Estimate], seen: Mapping[str, ScoreSummary]) -> Cell:
    undefined = [site for site, one in by_site.items() if one.value is None]
    mean = _average(by_site, seen, Z).to_json()
    return {**mean, **({"undefined_at": undefined} if undefined else {})}


def _average(
    by_site: Mapping[str, Estimate], summaries: Mapping[str, ScoreSummary], z: float
) -> Estimate:
    """Mean over the sites where the metric is defined, weighted by patients; sites independent."""
    defined = {site: one for site, one in by_site.items() if one.value is not None}
    if not defined:
        return Estimate.undefined(next((one.reason for one in by_site.values()), NO_PATIENTS))
    total = sum(summaries[site].n for site in defined)
    shares = {site: summaries[site].n / total for site in defined}
    mean = Estimate(math.fsum(shares[site] * (one.value or 0.0) for site, one in defined.items()))
    variances = [(shares[site], one.variance) for site, one in defined.items()]
    if any(variance is None for _, variance in variances):
        return replace(mean, reason="no interval: a site has none")
    variance = math.fsum(share**2 * (variance or 0) for share, variance in variances)
    value, half = mean.value or 0.0, z * math.sqrt(variance)
    return mean.between(max(value - half, 0.0), min(value + half, 1.0), variance)


def _bare(estimate: Estimate) -> Cell:
    """A value that has no interval."""
    found = estimate.to_json()
    return {key: part for key, part in found.items() if key in ("value", "reason")}


def _generator(summary: ScoreSummary) -> np.random.Generator:
    """Seeded by the counts themselves: the same cell always has the same interval.

    Nothing private depends on it: bootstrap draws stay at the coordinator.
    """
    digest = hashlib.sha256(np.ascontiguousarray(summary.counts, "<i8").tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
