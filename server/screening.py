"""Leaving out updates that do not fit the others of their round."""

from __future__ import annotations

import numpy as np

from federation.collect import UpdateList
from federation.layout import LOCAL
from federation.strategies.base import Strategy
from server.robust import screened as unfit

FEWEST = 3
"""Of two, nobody can say which one is odd."""


def screen_round(updates: UpdateList, strategy: Strategy) -> dict[str, str]:
    """Leave updates out of a round.

    Each stretch of the model is compared over the sites that moved it, so that a site without
    images is not odd for that.

    Returns:
        Why, by site.
    """
    section = strategy.screening
    if section is None:
        return {}
    found: dict[str, str] = {}
    kept = updates.updates
    for name in dict.fromkeys(part.name for part in updates.layout.model if part.name != LOCAL):
        parts = [part for part in updates.layout.model if part.name == name]
        moved = [one for one in kept if one.weights[name]]
        if len(moved) < FEWEST:
            continue
        rows = np.stack(
            [np.concatenate([one.update[p.start : p.stop] for p in parts]) for one in moved]
        )
        for place, why in unfit(
            rows, largest_norm_ratio=section.norm_ratio, least_cosine=section.least_cosine
        ).items():
            found.setdefault(moved[place].site, why)
    for site in found:
        updates.drop(site)
    return found
