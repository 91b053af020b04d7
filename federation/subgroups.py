"""The subgroups by which a model is evaluated: closed lists of attributes and their levels.

The names of cells leave a site. Since they come from here, no text of a record can become one.
"""

from __future__ import annotations

from collections.abc import Mapping

UNKNOWN = "unknown"

LEVELS: Mapping[str, tuple[str, ...]] = {
    "sex": ("female", "male", "other", UNKNOWN),
    "age_band": ("0-17", "18-39", "40-64", "65-79", "80+", UNKNOWN),
    "ethnicity": ("white", "black", "asian", "hispanic", "native", "other", UNKNOWN),
}

WHOLE_SITE = ""
"""The cell of all patients of a site."""

CELLS = frozenset(
    [WHOLE_SITE, *(f"{attribute}={level}" for attribute in LEVELS for level in LEVELS[attribute])]
)
