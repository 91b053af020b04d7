"""The geometric median of updates."""

from __future__ import annotations

import numpy as np

from server.robust.columns import Updates, Vector, check_sites, squared_distances, weighted_sum


def geometric_median(updates: Updates, smoothing: float, iterations: int) -> Vector:
    """Return, nearly, the point with the least sum of distances to the updates.

    The smoothed Weiszfeld algorithm, from the mean. Its points are weighted means of the updates,
    so it runs on the weights and the sites' mutual distances alone: the updates are read twice
    however many iterations there are, and a hundred cost no more than three. With less than half
    of the sites hostile the result stays within a multiple of the honest updates' spread; each
    iteration divides what far away ones still pull by about the odds of honest to hostile.

    Args:
        updates: (sites, parameters) float32.
        smoothing: smallest distance (L2) that a site is weighed by, above 0.
        iterations: at least one.

    Returns:
        (parameters,) float32.

    Raises:
        ValueError: if there is no site, or an argument is out of range.

    Source: Pillutla et al., Robust Aggregation for Federated Learning, IEEE TSP 2022, algorithm 2.
    """
    check_sites(updates, "geometric_median", hostile=0)
    if not smoothing > 0 or iterations < 1:
        raise ValueError("smoothing must be above 0, and iterations at least 1")
    squared = squared_distances(updates)
    weights = np.full(len(updates), 1 / len(updates))
    for _ in range(iterations):
        # The squared distances from sum_j w_j u_j, with weights that sum to one.
        towards = squared @ weights
        from_point = np.sqrt(np.maximum(towards - weights @ towards / 2, 0))
        weights = 1 / np.maximum(from_point, smoothing)
        weights /= weights.sum()
    return weighted_sum(updates, weights)
