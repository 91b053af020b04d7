"""Means in which an update's length or distance decides how much it counts."""

from __future__ import annotations

import numpy as np

from server.robust.columns import (
    Float64,
    Updates,
    Vector,
    check_sites,
    norms,
    squared_distances,
    weighted_sum,
)


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


def norm_bounded_mean(updates: Updates, largest_norm: float) -> Vector:
    """Return the mean of the updates, each first scaled down to an L2 norm where it is longer.

    Of a norm L and ``f`` hostile among ``n`` sites, they move the mean by at most ``2 f L / n``.
    A limit that follows the updates is a multiple of ``median(norms(updates))``: with more than
    half of the sites honest, it lies within the norms of theirs.

    Args:
        updates: (sites, parameters) float32.
        largest_norm: L, at least 0.

    Returns:
        (parameters,) float32.

    Raises:
        ValueError: if there is no site, or the norm is negative or not finite.

    Source: Sun et al., Can You Really Backdoor Federated Learning?, 2019.
    """
    check_sites(updates, "norm_bounding", hostile=0)
    if not 0 <= largest_norm < np.inf:
        raise ValueError("largest_norm must be finite and not negative")
    lengths = norms(updates)
    return weighted_sum(updates, _shrinkage(lengths, largest_norm) / len(updates))


def _shrinkage(lengths: Float64, largest: float) -> Float64:
    """Factor, at most 1, that brings each length down to the largest one."""
    return np.minimum(1, np.divide(largest, lengths, out=np.ones_like(lengths), where=lengths > 0))
