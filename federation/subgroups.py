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

WINDOW = "window"
"""Splits the patients as an attribute does, by time; see ``windows``."""
MOST_WINDOWS = 12

WHOLE_SITE = ""
"""The cell of all patients of a site."""

CELLS = frozenset(
    [
        WHOLE_SITE,
        *(f"{attribute}={level}" for attribute in LEVELS for level in LEVELS[attribute]),
        *(f"{WINDOW}={number}" for number in range(1, MOST_WINDOWS + 1)),
    ]
)


def is_window(name: str) -> bool:
    """Return whether a cell is of a window of time, and no subgroup.

    >>> is_window("window=2"), is_window("sex=female")
    (True, False)
    """
    return name.startswith(f"{WINDOW}=")
