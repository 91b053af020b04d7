"""What each site gains or loses by joining: the federated model at home, beside its own alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from federation.messages import FEDERATED
from federation.metrics.estimate import Estimate, Z
from federation.metrics.intervals import delong
from federation.metrics.paired import auroc_difference
from federation.models.build import Vector
from server.scoring import evaluate_each
from server.site_evaluation import SiteEvaluation, ordered
from server.task import Task


def compare_together(
    task: Task, federated: Vector, others: Mapping[str, Vector]
) -> list[SiteEvaluation]:
    """Let each site score the federated model and another together.

    Args:
        task: the federated one.
        federated: its weights.
        others: the other model's weights by site, such as of what each trained alone.
    """
    both = replace(task.instruction(federated, 0, "held_out"), model=FEDERATED)
    found, _ = evaluate_each(
        task, {site: replace(both, reference=weights) for site, weights in others.items()}
    )
    return found


def joining(
    federated: Sequence[SiteEvaluation],
    local: Mapping[str, Sequence[SiteEvaluation]],
    together: Sequence[SiteEvaluation],
) -> dict[str, Any]:
    """AUROC of the federated model minus that of the site's own, on the site's held-out patients.

    A site that scored both at once has a paired interval. One that sent them apart only has a
    wider one, and its difference says that it is unpaired.

    Args:
        federated: evaluations of the federated model.
        local: evaluations of the model that each site trained alone, by that site.
        together: of sites that scored both, the federated one first.

    Returns:
        ``joining`` of metrics.json.
    """
    paired = {one.site: one for one in together if one.paired is not None}
    apart = {one.site: one for one in ordered(federated)}
    sites: dict[str, dict[str, Any]] = {}
    differences: dict[str, tuple[Estimate, int]] = {}
    for site in sorted(local):
        here = paired.get(site, apart.get(site))
        home = next((one for one in local[site] if one.site == site), None)
        if here is None or home is None or "" not in here.cells:
            why = "no evaluation" if here is None or home is None else here.reason("")
            sites[site] = {"suppressed": why}
            continue
        pair = here.paired
        second = home.cells[""] if pair is None else pair.reference
        correlation = None if pair is None else pair.correlation
        found = auroc_difference(here.cells[""], second, correlation)
        differences[site] = found, here.cells[""].n
        sites[site] = {
            "n": here.cells[""].n,
            "federated": delong(here.cells[""]).to_json(),
            "local": delong(second).to_json(),
            "difference": found.to_json(),
            "paired": correlation is not None,
        }
    return {
        "sites": sites,
        "mean": mean_difference(differences.values()).to_json(),
        "gain": [site for site, (one, _) in differences.items() if (one.low or 0.0) > 0],
        "lose": [site for site, (one, _) in differences.items() if (one.high or 0.0) < 0],
    }


def against_predecessor(together: Sequence[SiteEvaluation]) -> dict[str, Any]:
    """AUROC of the federated model minus that of an earlier one, at sites that scored both at once.

    Returns:
        ``sites`` and ``mean`` of ``predecessor`` of metrics.json.
    """
    sites: dict[str, dict[str, Any]] = {}
    differences: list[tuple[Estimate, int]] = []
    for one in ordered(together):
        if one.paired is None or "" not in one.cells:
            sites[one.site] = {"suppressed": one.reason("") or "no comparison"}
            continue
        here, earlier = one.cells[""], one.paired.reference
        found = auroc_difference(here, earlier, one.paired.correlation)
        differences.append((found, here.n))
        sites[one.site] = {
            "n": here.n,
            "federated": delong(here).to_json(),
            "predecessor": delong(earlier).to_json(),
            "difference": found.to_json(),
            "paired": one.paired.correlation is not None,
        }
    return {"sites": sites, "mean": mean_difference(differences).to_json()}


def mean_difference(differences: Iterable[tuple[Estimate, int]]) -> Estimate:
    """Mean over sites, weighted by patients; their patients are different ones."""
    known = [(one.value, one.variance, n) for one, n in differences if one.value is not None]
    total = sum(n for *_, n in known)
    if not total:
        return Estimate.undefined("no site can be compared")
    mean = Estimate(math.fsum(value * n for value, _, n in known) / total)
    if any(variance is None for _, variance, _ in known):
        return replace(mean, reason="no interval: a site has none")
    variance = math.fsum((variance or 0.0) * (n / total) ** 2 for _, variance, n in known)
    value, half = mean.value or 0.0, Z * math.sqrt(variance)
    return mean.between(value - half, value + half, variance)
