"""Medians and means of each parameter by itself."""

from __future__ import annotations

import numpy as np

from federation.robustness import trimmed_at_each_end
from server.robust.columns import Updates, Vector, check_sites, stretches


def coordinate_median(updates: Updates) -> Vector:
    """Return the median of each parameter, (parameters,) float32.

    With more than half of the sites honest, each parameter lies in the range of theirs.

    Raises:
        ValueError: if there is no site.

    Source: Yin et al., ICML 2018.

    >>> coordinate_median(np.array([[1], [2], [99]], np.float32))
    array([2.], dtype=float32)
    """
    check_sites(updates, "median", hostile=0)
    sites, result = len(updates), np.empty(updates.shape[1], np.float32)
    for stretch in stretches(updates):
        middle = np.sort(updates[:, stretch], axis=0)[(sites - 1) // 2 : sites // 2 + 1]
        result[stretch] = middle.mean(axis=0, dtype=np.float64)
    return result


def trimmed_mean(updates: Updates, fraction: float) -> Vector:
    """Return the mean of each parameter without its lowest and highest values.

    Args:
        updates: (sites, parameters) float32.
        fraction: share of the sites left out at each end, in [0, 0.5), rounded down to sites
            (``federation.robustness.trimmed_at_each_end``). That many sites may be hostile: each
            parameter then lies in the range of the honest ones.

    Returns:
        (parameters,) float32.

    Raises:
        ValueError: if there is no site, or ``fraction`` is out of range.

    Source: Yin et al., ICML 2018.
    """
    check_sites(updates, "trimmed_mean", hostile=0)
    sites, result = len(updates), np.empty(updates.shape[1], np.float32)
    cut = trimmed_at_each_end(fraction, sites)
    for stretch in stretches(updates):
        kept = np.sort(updates[:, stretch], axis=0)[cut : sites - cut]
        result[stretch] = kept.mean(axis=0, dtype=np.float64)
    return result
