"""Merges what the sites sent and computes metrics.json: values, intervals and reasons."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from federation.metrics.between import auroc_between
from federation.metrics.calibration import brier
from federation.metrics.discrimination import auprc, auroc
from federation.metrics.estimate import Estimate, Z
from federation.metrics.fairness import Group, fairness
from federation.metrics.intervals import at_once, delong
from federation.metrics.summary import ScoreSummary, merge
from federation.subgroups import UNKNOWN
from server.cells import Cell, averaged, averaged_auroc, cells, decisions
from server.operating import Operating
from server.site_evaluation import SiteEvaluation, ordered, present, subgroups

SCHEMA = "wardround.metrics/1"
ALL_WITHHELD = "every site withheld it"
NOBODY_SENT = "no site sent an evaluation"


def evaluate_model(evaluations: Sequence[SiteEvaluation], operating: Operating) -> dict[str, Any]:
    """One model on all sites: overall, by site, by subgroup, and by both.

    The result does not depend on the order of the evaluations.

    Args:
        evaluations: of the held-out split.
        operating: the model's threshold.

    Raises:
        ValueError: if a site appears twice, or says nothing about its patients as a whole.
    """
    return _model(ordered(evaluations), operating, pooled=True)


def evaluate_local_models(
    by_trained_site: Mapping[str, Sequence[SiteEvaluation]], operating: Operating
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Models that each site trained alone: each at home, and each at every other site.

    Args:
        by_trained_site: for each site that trained a model, that model's evaluations.
        operating: each model's threshold, by the site that trained it.

    Returns:
        ``models["local"]`` and ``cross_site`` of metrics.json: ``cross_site[A][B]`` is A's model
        on B's patients, at A's threshold.
    """
    trained = sorted(by_trained_site)
    tested = {site: ordered(by_trained_site[site]) for site in trained}
    home = [one for site in trained for one in tested[site] if one.site == site]
    cross_site = {
        site: dict(
            zip(
                (one.site for one in tested[site]),
                _site_cells([(one, "") for one in tested[site]], Operating(operating.at(site))),
                strict=True,
            )
        )
        for site in trained
    }
    return evaluate_own_models(home, operating), cross_site


def evaluate_own_models(
    evaluations: Sequence[SiteEvaluation], operating: Operating
) -> dict[str, Any]:
    """A model of each site's own, each on its own patients.

    Scores of different models share no scale, so what is said of several sites is never pooled: it
    is the mean of the sites' own metrics, weighted by their patients, with an interval from their
    variances. Decisions, each at its site's own threshold, are counted together.

    Raises:
        ValueError: as ``evaluate_model``.
    """
    return _model(ordered(evaluations), operating, pooled=False)


def metrics_document(
    study_name: str,
    fingerprint: str,
    seed: int,
    models: Mapping[str, dict[str, Any]],
    cross_site: Mapping[str, Any],
    joining: Mapping[str, Any] | None = None,
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
        **({"joining": dict(joining)} if joining else {}),
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


def _model(
    evaluations: Sequence[SiteEvaluation],
    operating: Operating,
    pooled: bool,
) -> dict[str, Any]:
    names = subgroups(evaluations)
    joint = _joint_cells(evaluations, ["", *names], operating, pooled)
    asked = [(one, name) for one in evaluations for name in ("", *subgroups([one]))]
    here = {one.site: dict[str, Cell]() for one in evaluations}
    for (one, name), found in zip(asked, _site_cells(asked, operating), strict=True):
        here[one.site][name] = found
    sites, _ = present(evaluations, "")
    return {
        "overall": joint[""],
        "sites": {site: by_name[""] for site, by_name in here.items()},
        "subgroups": {name: joint[name] for name in names},
        "site_subgroups": {
            site: {name: found for name, found in by_name.items() if name}
            for site, by_name in here.items()
        },
        "threshold": dict(operating.told),
        "worst": {
            "site": _worst({site: _area({site: one}, pooled) for site, one in sites.items()}),
            "subgroup": _worst(
                {name: _area(present(evaluations, name)[0], pooled) for name in names}
            ),
        },
        "fairness": _fairness(evaluations, names, operating, pooled),
        "between_sites": auroc_between(sites).to_json(),
    }


def _joint_cells(
    evaluations: Sequence[SiteEvaluation], names: Sequence[str], operating: Operating, pooled: bool
) -> dict[str, Cell]:
    """Cells of all sites together, by name."""
    seen = {name: present(evaluations, name) for name in names}
    sent = {name: by_site for name, (by_site, _) in seen.items() if by_site}
    if pooled:
        computed = cells([merge(by_site.values()) for by_site in sent.values()])
    else:
        computed = [averaged(by_site) for by_site in sent.values()]
    decided = decisions(list(sent.values()), operating)
    withheld = {"suppressed": ALL_WITHHELD if evaluations else NOBODY_SENT}
    found: dict[str, Cell] = dict.fromkeys(names, withheld)
    for name, one, at_threshold in zip(sent, computed, decided, strict=True):
        found[name] = one if "suppressed" in one else {**one, "at_threshold": at_threshold}
    marks = {} if pooled else {"averaged_over_sites": True}
    return {name: {**found[name], "excludes": seen[name][1], **marks} for name in names}


def _site_cells(asked: Sequence[tuple[SiteEvaluation, str]], operating: Operating) -> list[Cell]:
    """Cells of single sites, each by the site's evaluation and the cell's name."""
    found: list[Cell] = [{"suppressed": one.reason(name)} for one, name in asked]
    told = [place for place, (one, name) in enumerate(asked) if not one.reason(name)]
    summaries = [asked[place][0].cells[asked[place][1]] for place in told]
    sites = [asked[place][0].site for place in told]
    decided = decisions([{s: one} for s, one in zip(sites, summaries, strict=True)], operating)
    for place, one, at_threshold in zip(told, cells(summaries), decided, strict=True):
        found[place] = one if "suppressed" in one else {**one, "at_threshold": at_threshold}
    return found


def _area(seen: Mapping[str, ScoreSummary], pooled: bool) -> Callable[[float], Estimate]:
    """AUROC of some patients, given the normal quantile of its interval."""
    if pooled:
        merged = merge(seen.values())
        return lambda z: delong(merged, z)
    return lambda z: averaged_auroc(seen, z)


def _worst(areas: Mapping[str, Callable[[float], Estimate]]) -> Cell | None:
    """The lowest AUROC of some groups, with an interval that holds for all of them at once.

    Whoever comes out lowest was unlucky too: an interval of one group alone would not allow for
    that.
    """
    points = {name: area(Z).value for name, area in sorted(areas.items())}
    known = {name: value for name, value in points.items() if value is not None}
    if not known:
        return None
    name = min(known, key=known.__getitem__)
    return {"name": name, "of": len(known), "auroc": areas[name](at_once(len(known))).to_json()}


def _fairness(
    evaluations: Sequence[SiteEvaluation],
    names: Sequence[str],
    operating: Operating,
    pooled: bool,
) -> dict[str, Any]:
    """Gaps between the levels of each attribute; patients whose level is unknown are no group."""
    attributes: dict[str, dict[str, Group]] = {}
    for name in names:
        attribute, _, level = name.partition("=")
        seen, _ = present(evaluations, name)
        if level != UNKNOWN and seen:
            group = Group(_area(seen, pooled), list(seen.values()), operating.confusion(seen)[0])
            attributes.setdefault(attribute, {})[name] = group
    return {
        attribute: {measure: gap.to_json() for measure, gap in fairness(groups).items()}
        for attribute, groups in attributes.items()
    }
