"""What the robust rules ask of a round: how many sites, for how many hostile ones.

A rule promises something only while the hostile sites are few enough; the study's validation and
the rules themselves (``server.robust``) read the conditions here.
"""

from __future__ import annotations

import math
from typing import Literal, assert_never

Rule = Literal[
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "bulyan",
    "geometric_median",
]


def fewest_sites(rule: Rule, hostile: int, chosen: int = 1) -> int:
    """Return how many sites a round needs for a rule to keep its promise.

    Args:
        rule: by which the updates are combined.
        hostile: sites that may send anything, in agreement with each other.
        chosen: updates that Multi-Krum averages; no other rule looks at it.

    Raises:
        ValueError: if ``hostile`` is negative or ``chosen`` below one.

    Source: Krum and Multi-Krum, Blanchard et al., NeurIPS 2017; Bulyan, El Mhamdi et al., ICML
    2018; median and trimmed mean, Yin et al., ICML 2018; geometric median, Pillutla et al., IEEE
    TSP 2022.

    >>> fewest_sites("krum", 2), fewest_sites("bulyan", 2), fewest_sites("median", 2)
    (7, 11, 5)
    >>> fewest_sites("multi_krum", 2, chosen=6)
    10
    """
    if hostile < 0 or chosen < 1:
        raise ValueError("hostile must be at least 0, and chosen at least 1")
    match rule:
        case "median" | "trimmed_mean" | "geometric_median":
            return 2 * hostile + 1
        case "krum":
            return 2 * hostile + 3
        case "multi_krum":
            return max(2 * hostile + 3, hostile + chosen + 2)
        case "bulyan":
            return 4 * hostile + 3
        case _:
            assert_never(rule)


def trimmed_at_each_end(fraction: float, sites: int) -> int:
    """Return how many values a trimmed mean leaves out at each end: the hostile sites it bears.

    Args:
        fraction: share of the sites left out at each end, in [0, 0.5).
        sites: how many updates there are, at least one.

    Raises:
        ValueError: if ``fraction`` is out of range or there is no site.

    >>> trimmed_at_each_end(0.2, 10), trimmed_at_each_end(0.2, 9), trimmed_at_each_end(0.29, 100)
    (2, 1, 29)
    """
    if not 0 <= fraction < 0.5:
        raise ValueError("fraction must be at least 0 and below 0.5")
    if sites < 1:
        raise ValueError("there must be at least one site")
    # 0.29 * 100 is 28.999999999999996. Below half of the sites, so that at least one is left.
    return min(math.floor(fraction * sites + 1e-9), (sites - 1) // 2)
