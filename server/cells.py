"""The metrics of some patients as metrics.json has them: cells, or an average over sites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from federation.metrics.calibration import binned, briers, intercepts, slopes
from federation.metrics.column import Column
from federation.metrics.decisions import Decisions, decided
from federation.metrics.estimate import NO_PATIENTS, Estimate, Z
from federation.metrics.intervals import auprcs, aurocs, curve_ends, delong
from federation.metrics.stack import Stack, stack_of, stacks
from federation.metrics.summaries import Summary
from federation.metrics.summary import Confusion, ScoreSummary
from federation.metrics.utility import benefit_curves
from server.operating import Operating

Cell = dict[str, Any]


def cell(summary: ScoreSummary) -> Cell:
    """Every metric of one cell with its interval."""
    return cells([summary])[0]


def cells(summaries: Sequence[ScoreSummary]) -> list[Cell]:
    """Every metric of each cell with its interval; the same bits for the same summary."""
    found: list[Cell] = [{"suppressed": NO_PATIENTS} for _ in summaries]
    for places, stack in stacks(summaries):
        for place, filled, one in zip(places, stack.n > 0, _cells(stack), strict=True):
            if filled:
                found[place] = one
    return found


def decisions(asked: Sequence[Mapping[str, ScoreSummary]], operating: Operating) -> list[Cell]:
    """``at_threshold`` of the patients of some sites together, each site at its threshold.

    Args:
        asked: for each cell its summaries by site.
        operating: the thresholds.
    """
    counted = [operating.confusion(summaries) for summaries in asked]
    thresholds = [_threshold(summaries, operating) for summaries in asked]
    columns = decided(
        Decisions.of(confusion or Confusion(0, 0, 0, 0) for confusion, _ in counted),
        np.array([math.nan if at is None else at for at in thresholds]),
    )
    rows = zip(*(one.to_json() for one in columns.values()), strict=True)
    found: list[Cell] = []
    for summaries, (confusion, reason), at, row in zip(
        asked, counted, thresholds, rows, strict=True
    ):
        if confusion is None:
            found.append({"threshold": None, "reason": reason})
            continue
        told = {"threshold": at, **dict(zip(columns, row, strict=True))}
        if at is None:
            del told["net_benefit"]
        if undefined := [site for site in summaries if operating.at(site).value is None]:
            told["undefined_at"] = undefined
        found.append(told)
    return found


def averaged(summaries: Mapping[str, ScoreSummary]) -> Cell:
    """AUROC, AUPRC and Brier of sites' own models: means of the sites' own, weighted by patients.

    Scores of different models share no scale, so they are never pooled.
    """
    seen = {site: summary for site, summary in summaries.items() if summary.n}
    estimates: dict[str, dict[str, Estimate]] = {"auroc": {}, "auprc": {}, "brier": {}}
    for site, summary in seen.items():
        stack = stack_of(summary)
        estimates["auroc"][site] = aurocs(stack).at(0)
        estimates["auprc"][site] = auprcs(stack).at(0)
        estimates["brier"][site] = briers(stack).at(0)
    return {
        "n": sum(summary.n for summary in seen.values()),
        "positives": sum(summary.positives for summary in seen.values()),
        **{metric: _averaged_json(by_site, seen) for metric, by_site in estimates.items()},
    }


def averaged_auroc(summaries: Mapping[str, ScoreSummary], z: float = Z) -> Estimate:
    """Mean of sites' AUROCs, weighted by patients, with its interval."""
    seen = {site: summary for site, summary in summaries.items() if summary.n}
    return average({site: delong(summary) for site, summary in seen.items()}, seen, z)


def _averaged_json(by_site: Mapping[str, Estimate], seen: Mapping[str, ScoreSummary]) -> Cell:
    undefined = [site for site, one in by_site.items() if one.value is None]
    mean = average(by_site, seen, Z).to_json()
    return {**mean, **({"undefined_at": undefined} if undefined else {})}


def average(
    by_site: Mapping[str, Estimate], summaries: Mapping[str, Summary], z: float
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


def _cells(stack: Stack) -> list[Cell]:
    ends, parts = curve_ends(stack), binned(stack)
    columns = {
        "auroc": aurocs(stack).to_json(),
        "auprc": auprcs(stack).to_json(),
        "sensitivity_at_90_specificity": ends.sensitivity_at_90_specificity.to_json(),
        "specificity_at_90_sensitivity": ends.specificity_at_90_sensitivity.to_json(),
        "brier": briers(stack).to_json(),
        "brier_calibration": _bare(parts.brier_calibration),
        "brier_refinement": _bare(parts.brier_refinement),
        "ece": _bare(parts.ece),
        "calibration_slope": slopes(stack).to_json(),
        "calibration_intercept": intercepts(stack).to_json(),
        "net_benefit": benefit_curves(stack).to_json(),
    }
    counts = zip(stack.n.astype(int).tolist(), stack.positives.astype(int).tolist(), strict=True)
    return [
        {"n": n, "positives": positives, **dict(zip(columns, row, strict=True))}
        for (n, positives), row in zip(counts, zip(*columns.values(), strict=True), strict=True)
    ]


def _threshold(summaries: Mapping[str, ScoreSummary], operating: Operating) -> float | None:
    """The one threshold of some sites' patients; None where each site has its own."""
    if operating.common is not None:
        return operating.common.value
    return operating.at(next(iter(summaries))).value if len(summaries) == 1 else None


def _bare(column: Column) -> list[Cell]:
    """Values that have no interval."""
    return [
        {key: part for key, part in one.items() if key in ("value", "reason")}
        for one in column.to_json()
    ]
