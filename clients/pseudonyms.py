"""Patients under a keyed hash: what a site's own code tells them apart by once they are read."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from numpy.typing import NDArray

PLACE_BITS = 56
"""How many of a pseudonym's leading bits say where a patient stands among the others."""


def pseudonyms(subjects: NDArray[np.int64], key: bytes) -> NDArray[np.int64]:
    """Replace identifiers by HMAC-SHA256 under the site's patient key, cut to 63 bits.

    Without the key nobody can tell which identifier a pseudonym stands for, not even by trying
    all of them; two patients of a million share one with probability 5e-8.

    Args:
        subjects: (patients,) identifiers as the site's records have them.
        key: of the site (``Site.patient_key``).

    Returns:
        (patients,) int64, not negative, in the same order.
    """

    def pseudonym(subject: int) -> int:
        digest = hmac.digest(key, str(subject).encode(), hashlib.sha256)
        return int.from_bytes(digest[:8], "big") >> 1

    return np.array([pseudonym(int(subject)) for subject in subjects], np.int64)


def split_places(of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Map each pseudonym to [0, 1): its place among the patients, the same for every study."""
    return (of >> (63 - PLACE_BITS)) / 2.0**PLACE_BITS
