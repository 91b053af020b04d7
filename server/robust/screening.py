"""Which updates of a round are left out before it is aggregated."""

from __future__ import annotations

import numpy as np

from server.robust.columns import Float64, Updates, norms, stretches
from server.robust.coordinates import coordinate_median

FAR = "norm far above that of the other sites"
ASTRAY = "direction far from that of the other sites"
"""Why a site is screened out; fixed phrases, safe to record."""


def screened(
    updates: Updates, *, largest_norm_ratio: float | None, least_cosine: float | None
) -> dict[int, str]:
    """Return which sites to leave out of the round, and why.

    Args:
        updates: (sites, parameters) float32.
        largest_norm_ratio: a site is left out whose update's L2 norm is more than so many times
            the median norm, at least 1; None for no limit. Where the median is 0 there is none.
        least_cosine: a site is left out whose update's cosine to the median of each parameter is
            below it, in [-1, 1]; None for no limit. An update of zeros has no direction and stays,
            and so do all where the median is zero.

    Returns:
        Indices of the sites, ascending, each with ``FAR`` or ``ASTRAY``.

    Raises:
        ValueError: if there is no site, or a limit is out of range.
    """
    if not len(updates):
        raise ValueError("there is no update")
    if largest_norm_ratio is not None and not largest_norm_ratio >= 1:
        raise ValueError("largest_norm_ratio must be at least 1")
    if least_cosine is not None and not -1 <= least_cosine <= 1:
        raise ValueError("least_cosine must be between -1 and 1")
    lengths, reasons = norms(updates), dict[int, str]()
    if largest_norm_ratio is not None:
        middle = np.median(lengths)
        far = lengths > (largest_norm_ratio * middle if middle else np.inf)
        reasons |= {int(site): FAR for site in np.flatnonzero(far)}
    if least_cosine is not None:
        astray = np.flatnonzero(_cosines(updates, lengths) < least_cosine)
        reasons |= {int(site): ASTRAY for site in astray if int(site) not in reasons}
    return dict(sorted(reasons.items()))


def _cosines(updates: Updates, lengths: Float64) -> Float64:
    """Cosine of each update to the median of each parameter; 1 where there is none."""
    middle = coordinate_median(updates)
    products = np.zeros(len(updates))
    for stretch in stretches(updates):
        towards = middle[stretch].astype(np.float64)
        products += updates[:, stretch].astype(np.float64) @ towards
    scale = lengths * norms(middle[None])
    cosines: Float64 = np.divide(products, scale, out=np.ones_like(scale), where=scale > 0)
    return cosines
