"""Combining updates of which some may be hostile: medians, trimming, Krum, Bulyan, screening.

Every function here takes the updates of one round and one part of the model, from the sites that
moved it: ``updates``, (sites, parameters) float32, in a fixed order of the sites, screened already
(finite, within ``federation.reduce.LARGEST_CHANGE``). Each site counts once: a hostile site would
claim any number of patients. Sums are made in float64, over a stretch of the parameters at a time,
so that no copy of the updates is made. Ties are broken by the order of the sites (Bulyan has some
in every round); nothing else depends on it beyond the last bit of a sum.

How many sites a rule needs stands in ``federation.robustness``.
"""

from server.robust.columns import norms
from server.robust.coordinates import coordinate_median, trimmed_mean
from server.robust.geometric import geometric_median
from server.robust.screening import ASTRAY, FAR, screened
from server.robust.selection import bulyan, krum, multi_krum

__all__ = [
    "ASTRAY",
    "FAR",
    "bulyan",
    "coordinate_median",
    "geometric_median",
    "krum",
    "multi_krum",
    "norms",
    "screened",
    "trimmed_mean",
]
