"""Sums over the columns of a round's updates, a stretch at a time: no copy of them is made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from federation.robustness import Rule, fewest_sites

Vector = NDArray[np.float32]
Updates = NDArray[np.float32]
Float64 = NDArray[np.float64]

BLOCK = 2**17
"""Values worked on at a time: one MiB as float64, about a core's own cache."""


def check_sites(updates: Updates, rule: Rule, hostile: int, chosen: int = 1) -> None:
    """Raise ValueError if there are fewer updates than the rule needs."""
    needed = fewest_sites(rule, hostile, chosen)
    if len(updates) < needed:
        raise ValueError(
            f"{rule} against {hostile} hostile sites needs {needed} updates: there are "
            f"{len(updates)}"
        )


def stretches(updates: Updates) -> Iterator[slice]:
    """Stretches of the parameters, each of about ``BLOCK`` values over all sites."""
    width = max(1, BLOCK // max(1, len(updates)))
    for start in range(0, updates.shape[1], width):
        yield slice(start, start + width)


def norms(updates: Updates) -> Float64:
    """Return the L2 norm of each update, (sites,) float64."""
    squares = np.zeros(len(updates))
    for stretch in stretches(updates):
        block = updates[:, stretch].astype(np.float64)
        squares += np.einsum("sp,sp->s", block, block)
    return np.sqrt(squares)


def squared_distances(updates: Updates) -> Float64:
    """Between every two updates, (sites, sites) float64; exactly 0 between equal ones."""
    # Not by inner products, whose last bits would decide between equal updates.
    distances = np.zeros(len(updates) * (len(updates) - 1) // 2)
    for stretch in stretches(updates):
        distances += pdist(updates[:, stretch].astype(np.float64), "sqeuclidean")
    square: Float64 = squareform(distances, checks=False)
    return square


def weighted_sum(updates: Updates, weights: Float64) -> Vector:
    """Return sum_i weights_i updates_i, (parameters,) float32."""
    result = np.empty(updates.shape[1], np.float32)
    for stretch in stretches(updates):
        result[stretch] = weights @ updates[:, stretch].astype(np.float64)
    return result
