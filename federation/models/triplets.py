"""Events of patients as one tensor: hours, value and the pieces of the code of each.

One float32 tensor, so that events travel as every other modality does: (patients, events, 4 +
pieces). Numbers of places are below 2^24 and exact. A row of zeros is padding, and pads each
patient's events at the end.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

FACTS = 4
"""Columns before the pieces: hours, whether there is a time, value, whether there is one."""
MOST_PIECES = 4
"""Of a code; the coarsest are left out of one with more."""


class Triplets(NamedTuple):
    """Views of the tensor, and what follows.

    Attributes:
        hours: (patients, events) before the prediction time; 0 without a time.
        timed: (patients, events) 1 if there is a time, else 0.
        value: (patients, events) scaled; 0 without one.
        valued: (patients, events) 1 if there is a value, else 0.
        pieces: (patients, events, pieces) int64, places counted from 1; 0 is none.
        there: (patients, events) bool, False for padding.
    """

    hours: Tensor
    timed: Tensor
    value: Tensor
    valued: Tensor
    pieces: Tensor
    there: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Triplets:
        """x: (patients, events, `FACTS` + pieces)."""
        pieces = x[..., FACTS:].long()
        hours, timed, value, valued = x[..., :FACTS].unbind(-1)
        return cls(hours, timed, value, valued, pieces, (pieces != 0).any(-1))

    def shortened(self) -> Triplets:
        """Return them without what is padding for all patients."""
        longest = int(self.there.sum(1).max()) if len(self.there) else 0
        return Triplets(*(column[:, : max(longest, 1)] for column in self))


def columns(buckets: bool) -> int:
    """Return the last dimension; a code that is listed has one piece, itself."""
    return FACTS + (MOST_PIECES if buckets else 1)
