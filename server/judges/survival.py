"""Judging times until an outcome."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from federation.metrics.estimate import NO_PATIENTS, Estimate, Z
from federation.metrics.survival import SurvivalSummary
from federation.metrics.time_to_event import (
    NO_PROBABILITY,
    auroc_at,
    brier_at,
    c_index,
    integrated_brier,
    risk_at,
)
from federation.study import EvaluationSection
from federation.tasks import SurvivalTask, Task
from server.cells import Cell, average
from server.evaluator import ALL_WITHHELD, NOBODY_SENT
from server.judges.base import BySite, Document, Headline, Judge
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation, ordered, present, subgroups

Sent = Sequence[SiteEvaluation[SurvivalSummary]]


class SurvivalJudge(Judge[SurvivalSummary]):
    """See `Judge`; there is no threshold, and no decision at one."""

    def __init__(self, task: Task, evaluation: EvaluationSection):
        super().__init__(task, evaluation)
        assert isinstance(task, SurvivalTask)
        self._probabilities = task.model == "discrete"

    def headline(self, summaries: Sequence[SurvivalSummary], own: bool = False) -> Headline:
        """See `Judge`."""
        if not own:
            together = functools.reduce(operator.add, summaries)
            return {
                "c_index": c_index(together).value,
                "integrated_brier": self._integrated(together).value,
            }
        told = [(self.headline([one]), one.n) for one in summaries]
        return {metric: _weighted(told, metric) for metric in ("c_index", "integrated_brier")}

    def model(self, tested: Scored) -> Document:
        """See `Judge`."""
        return self._model(ordered(tested.held_out), self._pooled)

    def own_models(self, tested: Sent, tuning: BySite[SurvivalSummary]) -> Document:
        """See `Judge`."""
        return self._model(ordered(tested), self._averaged)

    def local_models(
        self, tested: BySite[SurvivalSummary], tuning: BySite[SurvivalSummary]
    ) -> tuple[Document, Document]:
        """See `Judge`."""
        trained = sorted(tested)
        home = [one for site in trained for one in tested[site] if one.site == site]
        crossed = {
            site: {one.site: self._site_cell(one, "") for one in ordered(tested[site])}
            for site in trained
        }
        return self.own_models(home, {}), crossed

    def joining(self, federated: Sent, local: BySite[SurvivalSummary], together: Sent) -> Document:
        """c-index of the federated model minus that of the site's own; unpaired."""
        here = {one.site: one for one in federated}
        sites: dict[str, Cell] = {}
        for site in sorted(local):
            one = here.get(site)
            home = next((e for e in local[site] if e.site == site), None)
            if one is None or home is None or one.reason("") or home.reason(""):
                why = "no evaluation" if one is None or home is None else one.reason("")
                sites[site] = {"suppressed": why}
                continue
            ours, theirs = c_index(one.cells[""]), c_index(home.cells[""])
            sites[site] = {
                "n": one.cells[""].n,
                "federated": ours.to_json(),
                "local": theirs.to_json(),
                "difference": _difference(ours, theirs).to_json(),
                "paired": False,
            }
        return {"sites": sites}

    def doubt(self, model: Document) -> str:
        """See `Judge`."""
        reason = model["overall"].get("c_index", {}).get("reason", "")
        missing = "c_index" in model["overall"] and model["overall"]["c_index"]["value"] is None
        return f"The federated model has no c-index: {reason}." if missing else ""

    def _model(
        self, sent: Sent, joint: Callable[[Mapping[str, SurvivalSummary]], Cell]
    ) -> Document:
        names = subgroups(sent)
        withheld: Cell = {"suppressed": ALL_WITHHELD if sent else NOBODY_SENT}

        def cell(name: str) -> Cell:
            seen, excluded = present(sent, name)
            return {**(joint(seen) if seen else withheld), "excludes": excluded}

        here, _ = present(sent, "")
        return {
            "overall": cell(""),
            "sites": {one.site: self._site_cell(one, "") for one in sent},
            "subgroups": {name: cell(name) for name in names},
            "site_subgroups": {
                one.site: {name: self._site_cell(one, name) for name in subgroups([one])}
                for one in sent
            },
            "worst": {
                "site": _worst(here),
                "subgroup": _worst(
                    {
                        name: functools.reduce(operator.add, seen.values())
                        for name in names
                        if (seen := present(sent, name)[0])
                    }
                )
                if joint == self._pooled
                else None,
            },
        }

    def _site_cell(self, one: SiteEvaluation[SurvivalSummary], name: str) -> Cell:
        return {"suppressed": why} if (why := one.reason(name)) else self._cell(one.cells[name])

    def _pooled(self, seen: Mapping[str, SurvivalSummary]) -> Cell:
        return self._cell(functools.reduce(operator.add, seen.values()))

    def _averaged(self, seen: Mapping[str, SurvivalSummary]) -> Cell:
        """Means of the sites' own metrics: risks of different models share no scale."""
        by_site = {site: c_index(one) for site, one in seen.items()}
        briers = {site: self._integrated(one) for site, one in seen.items()}
        return {
            "n": sum(one.n for one in seen.values()),
            "events": sum(one.events for one in seen.values()),
            "c_index": average(by_site, seen, Z).to_json(),
            "integrated_brier": average(briers, seen, Z).to_json(),
            "averaged_over_sites": True,
        }

    def _cell(self, summary: SurvivalSummary) -> Cell:
        if not summary.n:
            return {"suppressed": NO_PATIENTS}
        return {
            "n": summary.n,
            "events": summary.events,
            "c_index": c_index(summary).to_json(),
            "integrated_brier": self._integrated(summary).to_json(),
            "auroc_at": [
                {"days": days, **auroc_at(summary, k).to_json()}
                for k, days in enumerate(summary.horizons)
            ],
            "brier_at": [
                {"days": days, **self._brier(summary, k).to_json()}
                for k, days in enumerate(summary.horizons)
            ],
            "risk_at": [
                {"days": days, **self._risk(summary, k)} for k, days in enumerate(summary.horizons)
            ],
        }

    def _integrated(self, summary: SurvivalSummary) -> Estimate:
        if not self._probabilities:
            return Estimate.undefined(NO_PROBABILITY)
        return integrated_brier(summary)

    def _brier(self, summary: SurvivalSummary, horizon: int) -> Estimate:
        if not self._probabilities:
            return Estimate.undefined(NO_PROBABILITY)
        return brier_at(summary, horizon)

    def _risk(self, summary: SurvivalSummary, horizon: int) -> dict[str, Any]:
        found = risk_at(summary, horizon)
        predicted = round(found.predicted, 6) if self._probabilities else None
        observed = None if found.observed is None else round(found.observed, 6)
        return {"predicted": predicted, "observed": observed}


def _worst(groups: Mapping[str, SurvivalSummary]) -> Cell | None:
    found = {name: c_index(one) for name, one in sorted(groups.items())}
    known = {name: one.value for name, one in found.items() if one.value is not None}
    if not known:
        return None
    name = min(known, key=known.__getitem__)
    return {"name": name, "of": len(known), "c_index": found[name].to_json()}


def _weighted(told: Sequence[tuple[Headline, int]], metric: str) -> float | None:
    known = [(value, n) for metrics, n in told if (value := metrics[metric]) is not None]
    total = sum(n for _, n in known)
    return math.fsum(value * n for value, n in known) / total if total else None


def _difference(ours: Estimate, theirs: Estimate) -> Estimate:
    if ours.value is None or theirs.value is None:
        return ours if ours.value is None else theirs
    point = Estimate(ours.value - theirs.value)
    if ours.variance is None or theirs.variance is None:
        return replace(point, reason="no interval: one of the two has none")
    half = Z * math.sqrt(ours.variance + theirs.variance)
    value = ours.value - theirs.value
    return point.between(max(value - half, -1.0), min(value + half, 1.0))
