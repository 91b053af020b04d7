"""``[evaluation.windows]``: the windows of time over which drift is looked for.

Dates stay at a site. What leaves says "window=2", and which patients that means follows from the
study's dates, or from the order of the site's own patients.
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from federation.arrival import places
from federation.subgroups import MOST_WINDOWS
from federation.validation import Section


class WindowsSection(Section):
    """Windows of the held-out patients' prediction times, numbered from 1, the oldest.

    ``number``: each site's own patients in order, in so many parts of about equal size.
    ``edges``: calendar dates (UTC) at which windows 2, 3, ... begin, the same at all sites.
    """

    number: int | None = Field(default=None, ge=2, le=MOST_WINDOWS)
    edges: tuple[date, ...] = Field(default=(), max_length=MOST_WINDOWS - 1)

    @model_validator(mode="after")
    def _one_way(self) -> WindowsSection:
        if (self.number is None) == (not self.edges):
            raise ValueError("give either number, for example 4, or edges, a list of dates")
        if any(first >= second for first, second in pairwise(self.edges)):
            raise ValueError("edges must be dates in rising order")
        return self

    def of(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the window of each patient, from 1: (patients,).

        Args:
            times: (patients,) seconds since 1970, UTC.

        >>> WindowsSection(number=2).of(np.array([30, 10, 20, 40])).tolist()
        [2, 1, 1, 2]
        """
        if self.number is not None:
            return np.minimum((places(times) * self.number).astype(np.int64), self.number - 1) + 1
        edges = np.array(self.edges, "datetime64[s]").astype(np.int64)
        return np.asarray(np.searchsorted(edges, times, side="right") + 1)
