"""Which patients a site has by a round: a simulation in which hospitals go on admitting."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from federation.validation import Section


class ArrivalSection(Section):
    """``[simulation.arrival]``: on whom of its training patients a site trains in a round."""

    kind: Literal["all", "growing", "window"] = "all"
    """``growing``: from the earliest ``fraction`` on to all; ``window``: a ``fraction`` that moves
    from the earliest to the latest."""
    fraction: float = Field(default=0.5, gt=0, le=1)


def places(order: NDArray[Any]) -> NDArray[np.float64]:
    """Return each patient's place in time: its rank in (0, 1); equal times share a place.

    Args:
        order: (patients,) times, or anything that sorts as they do.

    >>> places(np.array([30, 10, 20, 20])).tolist()
    [0.875, 0.125, 0.5, 0.5]
    """
    _, moment, together = np.unique(order, return_inverse=True, return_counts=True)
    place = (np.cumsum(together) - together / 2) / max(len(order), 1)
    return np.asarray(place[moment])


def arrived(
    place: NDArray[np.float64], round: int, rounds: int, arrival: ArrivalSection
) -> NDArray[np.bool_]:
    """Return which patients a site trains on in a round.

    With ``growing``, those up to the place fraction + (1 - fraction) * t have arrived, where t runs
    from 0 in the first round to 1 in the last; with ``window``, those of a width of fraction from
    (1 - fraction) * t. A study of one round is at its end. Where many times are equal, a round may
    have nobody.

    Args:
        place: (patients,) as of ``places``.
        round: from 1 to rounds.
        rounds: of the study.
        arrival: the section.

    Returns:
        (patients,) whether each takes part.

    Raises:
        ValueError: if the round is not one of the rounds.

    >>> growing = ArrivalSection(kind="growing")
    >>> arrived(places(np.array([30, 10, 20, 40])), 1, 3, growing).tolist()
    [False, True, True, False]
    """
    if not 1 <= round <= rounds:
        raise ValueError(f"round {round} is not between 1 and {rounds}")
    if arrival.kind == "all":
        return np.ones(len(place), bool)
    progress = (round - 1) / (rounds - 1) if rounds > 1 else 1.0
    start = (1 - arrival.fraction) * progress
    end = start + arrival.fraction
    if arrival.kind == "growing":
        return np.asarray(place <= end)
    return np.asarray((place >= start) & (place <= end))
