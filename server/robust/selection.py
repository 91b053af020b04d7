"""Choosing updates by their distances to each other: Krum, Multi-Krum and Bulyan."""

from __future__ import annotations

import numpy as np

from server.robust.columns import (
    Float64,
    Updates,
    Vector,
    check_sites,
    squared_distances,
    stretches,
)


def krum(updates: Updates, hostile: int) -> int:
    """Return the index of the update that lies closest to its neighbours.

    An update's score is the sum of the squared distances to its ``sites - hostile - 2`` nearest
    others. However far away the hostile updates lie, they are not chosen for it.

    Args:
        updates: (sites, parameters) float32, of at least ``2 * hostile + 3`` sites.
        hostile: sites that may be hostile.

    Raises:
        ValueError: if there are too few sites.

    Source: Blanchard et al., NeurIPS 2017.
    """
    check_sites(updates, "krum", hostile)
    return int(np.argmin(_krum_scores(squared_distances(updates), hostile)))


def multi_krum(updates: Updates, hostile: int, chosen: int) -> list[int]:
    """Return the indices, ascending, of the updates with the best Krum scores; average those.

    Args:
        updates: (sites, parameters) float32, of at least ``2 * hostile + 3`` and at least
            ``hostile + chosen + 2`` sites.
        hostile: sites that may be hostile.
        chosen: how many updates to choose.

    Raises:
        ValueError: if there are too few sites.

    Source: Blanchard et al., NeurIPS 2017, section 4.
    """
    check_sites(updates, "multi_krum", hostile, chosen)
    scores = _krum_scores(squared_distances(updates), hostile)
    return sorted(int(site) for site in np.argsort(scores, kind="stable")[:chosen])


def bulyan(updates: Updates, hostile: int) -> Vector:
    """Choose updates by Krum, again and again, then average each parameter around its median.

    Of ``sites - 2 * hostile`` chosen updates, each parameter is the mean of the
    ``sites - 4 * hostile`` values closest to their median; of two equally close, the lower. Krum
    alone lets a hostile update differ much in a single parameter. Here each parameter stays as
    near to the median, which lies in the range of the honest ones, as that range is wide. In the
    last turns a score is one distance, which two neighbours share: the first of the two is chosen.

    Args:
        updates: (sites, parameters) float32, of at least ``4 * hostile + 3`` sites.
        hostile: sites that may be hostile.

    Returns:
        (parameters,) float32.

    Raises:
        ValueError: if there are too few sites.

    Source: El Mhamdi et al., ICML 2018.
    """
    check_sites(updates, "bulyan", hostile)
    chosen = _chosen_by_turns(squared_distances(updates), hostile)
    result = np.empty(updates.shape[1], np.float32)
    for stretch in stretches(updates):
        values = np.sort(updates[chosen, stretch], axis=0).astype(np.float64)
        result[stretch] = _mean_around_median(values, len(chosen) - 2 * hostile)
    return result


def _krum_scores(squared: Float64, hostile: int) -> Float64:
    sites = len(squared)
    neighbours = max(1, sites - hostile - 2)
    # The first of each sorted row is the update itself, at distance zero.
    scores: Float64 = np.sort(squared, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
    return scores


def _chosen_by_turns(squared: Float64, hostile: int) -> list[int]:
    """Ascending indices of the updates that Krum chooses one after another without return."""
    left, chosen = list(range(len(squared))), []
    for _ in range(len(squared) - 2 * hostile):
        scores = _krum_scores(squared[np.ix_(left, left)], hostile)
        chosen.append(left.pop(int(np.argmin(scores))))
    return sorted(chosen)


def _mean_around_median(values: Float64, kept: int) -> Float64:
    """Mean of the values closest to the median; (sites, parameters), sorted by site."""
    # Sorted, the closest ones stand side by side: only the first of them is to be found.
    sites = len(values)
    middle = (values[(sites - 1) // 2] + values[sites // 2]) / 2
    starts = np.arange(sites - kept + 1)
    reach = np.maximum(middle - values[starts], values[starts + kept - 1] - middle)
    window = np.argmin(reach, axis=0) + np.arange(kept)[:, None]
    mean: Float64 = np.take_along_axis(values, window, axis=0).mean(axis=0)
    return mean
