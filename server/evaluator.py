"""Merges what the sites sent and computes metrics.json: values, intervals and reasons."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.metrics.calibration import brier, expected_calibration_error
from federation.metrics.discrimination import auprc, auroc
from federation.metrics.estimate import NO_PATIENTS, Estimate
from federation.metrics.intervals import (
    Z,
    bootstrapped,
    bootstrapped_net_benefit,
    delong,
    resample,
)
from federation.metrics.summary import ScoreSummary, merge

SCHEMA = "wardround.metrics/1"
ALL_WITHHELD = "every site withheld it"
NOBODY_SENT = "no site sent an evaluation"

Cell = dict[str, Any]


@dataclass(frozen=True)
class SiteEvaluation:
    """What one site sent about one model.

    Args:
        site: its name.
        cells: summaries by cell; "" is all patients of the site, "sex=female" a subgroup.
        withheld: reason by withheld cell; "" withholds the whole site.
    """

    site: str
    cells: Mapping[str, ScoreSummary]
    withheld: Mapping[str, str]


def evaluate_model(evaluations: Sequence[SiteEvaluation]) -> dict[str, Any]:
    """One model on all sites: overall, by site, by subgroup, and by both.

    The result does not depend on the order of the evaluations.

    Raises:
        ValueError: if a site appears twice, or says nothing about its patients as a whole.
    """
    ordered = _ordered(evaluations)
    subgroups = _subgroups(ordered)
    return {
        "overall": _merged_cell(ordered, ""),
        "sites": {one.site: _site_cell(one, "") for one in ordered},
        "subgroups": {name: _merged_cell(ordered, name) for name in subgroups},
        "site_subgroups": {one.site: _subgroup_cells(one) for one in ordered},
    }


def evaluate_local_models(
    by_trained_site: Mapping[str, Sequence[SiteEvaluation]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Models that each site trained alone: each at home, and each at every other site.

    Args:
        by_trained_site: for each site that trained a model, that model's evaluations.

    Returns:
        ``models["local"]`` and ``cross_site`` of metrics.json: ``cross_site[A][B]`` is A's model
        on B's patients.
    """
    trained = sorted(by_trained_site)
    tested = {site: _ordered(by_trained_site[site]) for site in trained}
    home = [one for site in trained for one in tested[site] if one.site == site]
    cross_site = {site: {one.site: _site_cell(one, "") for one in tested[site]} for site in trained}
    return evaluate_own_models(home), cross_site


def evaluate_own_models(evaluations: Sequence[SiteEvaluation]) -> dict[str, Any]:
    """A model of each site's own, each on its own patients.

    Scores of different models share no scale, so what is said of several sites is never pooled: it
    is the mean of the sites' own metrics, weighted by their patients, with an interval from their
    variances.

    Raises:
        ValueError: as ``evaluate_model``.
    """
    home = _ordered(evaluations)
    return {
        "overall": _averaged_cell(home, ""),
        "sites": {one.site: _site_cell(one, "") for one in home},
        "subgroups": {name: _averaged_cell(home, name) for name in _subgroups(home)},
        "site_subgroups": {one.site: _subgroup_cells(one) for one in home},
    }


def metrics_document(
    study_name: str,
    fingerprint: str,
    seed: int,
    models: Mapping[str, dict[str, Any]],
    cross_site: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole of metrics.json.

    Raises:
        ValueError: if something in it is not strict JSON (NaN, an infinity).
    """
    document = {
        "schema": SCHEMA,
        "study": study_name,
        "fingerprint": fingerprint,
        "seed": seed,
        "models": dict(models),
        "cross_site": dict(cross_site),
    }
    json.dumps(document, allow_nan=False)
    return document


def headline(summary: ScoreSummary) -> dict[str, float | None]:
    """AUROC, AUPRC and Brier without intervals, cheap enough for every round."""
    points = {"auroc": auroc(summary), "auprc": auprc(summary), "brier": brier(summary)}
    return {name: point.to_json()["value"] for name, point in points.items()}


def own_headline(summaries: Iterable[ScoreSummary]) -> dict[str, float | None]:
    """As `headline`, of models of the sites' own: the mean over sites, weighted by patients."""
    told = [(headline(summary), summary.n) for summary in summaries]
    found: dict[str, float | None] = {}
    for name in ("auroc", "auprc", "brier"):
        known = [(value, n) for metrics, n in told if (value := metrics[name]) is not None]
        total = sum(n for _, n in known)
        found[name] = math.fsum(value * n for value, n in known) / total if total else None
    return found


def cell(summary: ScoreSummary) -> Cell:
    """Every metric of one cell with its interval; the same bits for the same summary."""
    counted: Cell = {"n": summary.n, "positives": summary.positives}
    if not summary.n:
        return {"suppressed": NO_PATIENTS}
    drawn = resample(summary, _generator(summary))
    sampled = {name: one.to_json() for name, one in bootstrapped(summary, drawn).items()}
    ece = expected_calibration_error(summary).to_json()
    return {
        **counted,
        "auroc": delong(summary).to_json(),
        "auprc": sampled["auprc"],
        "sensitivity_at_90_specificity": sampled["sensitivity_at_90_specificity"],
        "brier": sampled["brier"],
        "ece": {key: part for key, part in ece.items() if key in ("value", "reason")},
        "calibration_slope": sampled["calibration_slope"],
        "calibration_intercept": sampled["calibration_intercept"],
        "net_benefit": [point.to_json() for point in bootstrapped_net_benefit(summary, drawn)],
    }


def _ordered(evaluations: Iterable[SiteEvaluation]) -> list[SiteEvaluation]:
    """By site, because sums of floats depend on their order and messages arrive in any."""
    ordered = sorted(evaluations, key=lambda one: one.site)
    names = [one.site for one in ordered]
    if len(set(names)) != len(names):
        raise ValueError("a site's evaluation of one model was given twice")
    for one in ordered:
        if "" not in one.cells and "" not in one.withheld:
            raise ValueError(f'site "{one.site}" says nothing about its patients as a whole')
    return ordered


def _subgroups(evaluations: Iterable[SiteEvaluation]) -> list[str]:
    return sorted({name for one in evaluations for name in (*one.cells, *one.withheld) if name})


def _reason(one: SiteEvaluation, name: str) -> str:
    """Why a site's cell is withheld, empty if it is not; a withheld site withholds every cell."""
    return one.withheld.get("", "") or one.withheld.get(name, "")


def _site_cell(one: SiteEvaluation, name: str) -> Cell:
    reason = _reason(one, name)
    return {"suppressed": reason} if reason else cell(one.cells[name])


def _subgroup_cells(one: SiteEvaluation) -> dict[str, Cell]:
    return {name: _site_cell(one, name) for name in _subgroups([one])}


def _merged_cell(evaluations: Sequence[SiteEvaluation], name: str) -> Cell:
    present, excluded = _present(evaluations, name)
    if not present:
        reason = ALL_WITHHELD if evaluations else NOBODY_SENT
        return {"suppressed": reason, "excludes": excluded}
    return {**cell(merge(one.cells[name] for one in present)), "excludes": excluded}


def _present(
    evaluations: Sequence[SiteEvaluation], name: str
) -> tuple[list[SiteEvaluation], list[str]]:
    """The sites whose cell can be used, and those that withheld it."""
    excluded = [one.site for one in evaluations if _reason(one, name)]
    present = [one for one in evaluations if name in one.cells and one.site not in excluded]
    return present, excluded


def _averaged_cell(evaluations: Sequence[SiteEvaluation], name: str) -> Cell:
    present, excluded = _present(evaluations, name)
    if not present:
        reason = ALL_WITHHELD if evaluations else NOBODY_SENT
        return {"suppressed": reason, "excludes": excluded, "averaged_over_sites": True}
    summaries = {one.site: one.cells[name] for one in present if one.cells[name].n}
    estimates: dict[str, dict[str, Estimate]] = {"auroc": {}, "auprc": {}, "brier": {}}
    for site, summary in summaries.items():
        sampled = bootstrapped(summary, resample(summary, _generator(summary)))
        estimates["auroc"][site] = delong(summary)
        estimates["auprc"][site] = sampled["auprc"]
        estimates["brier"][site] = sampled["brier"]
    return {
        "n": sum(summary.n for summary in summaries.values()),
        "positives": sum(summary.positives for summary in summaries.values()),
        **{metric: _average(by_site, summaries) for metric, by_site in estimates.items()},
        "excludes": excluded,
        "averaged_over_sites": True,
    }


def _average(by_site: Mapping[str, Estimate], summaries: Mapping[str, ScoreSummary]) -> Cell:
    """Mean over the sites where the metric is defined, weighted by patients; sites independent."""
    defined = {site: one for site, one in by_site.items() if one.value is not None}
    undefined = [site for site in by_site if site not in defined]
    if not defined:
        reason = next((one.reason for one in by_site.values()), NO_PATIENTS)
        return {**Estimate.undefined(reason).to_json(), "undefined_at": undefined}
    total = sum(summaries[site].n for site in defined)
    shares = {site: summaries[site].n / total for site in defined}
    mean = Estimate(math.fsum(shares[site] * (one.value or 0.0) for site, one in defined.items()))
    variances = [(shares[site], one.variance) for site, one in defined.items()]
    if all(variance is not None for _, variance in variances):
        half = Z * math.sqrt(math.fsum(share**2 * (variance or 0) for share, variance in variances))
        value = mean.value or 0.0
        mean = mean.between(max(value - half, 0.0), min(value + half, 1.0))
    else:
        mean = Estimate(mean.value, reason="no interval: a site has none")
    return {**mean.to_json(), **({"undefined_at": undefined} if undefined else {})}


def _generator(summary: ScoreSummary) -> np.random.Generator:
    """Seeded by the counts themselves: the same cell always has the same interval.

    Nothing private depends on it: bootstrap draws stay at the coordinator.
    """
    digest = hashlib.sha256(np.ascontiguousarray(summary.counts, "<i8").tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
