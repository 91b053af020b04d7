"""Arrays that grow with what a stream brings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

NameT = TypeVar("NameT", int, str)


class Numbered(Generic[NameT]):
    """Names, each with its place in the order in which they were met."""

    def __init__(self) -> None:
        self.names: list[NameT] = []
        self._places: dict[NameT, int] = {}

    def __len__(self) -> int:
        return len(self.names)

    def places(self, names: Iterable[NameT], chosen: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the places of names, picked by their index in what is given."""
        found = []
        for name in names if isinstance(names, list) else np.asarray(names).tolist():
            place = self._places.setdefault(name, len(self.names))
            if place == len(self.names):
                self.names.append(name)
            found.append(place)
        places = np.array(found, np.int64)
        return np.asarray(places[chosen])

    def place_of(self, name: NameT) -> int:
        """Return a name's place, -1 if it was not met."""
        return self._places.get(name, -1)


class Growing:
    """One int64 for each place, with a value to start from."""

    def __init__(self, start: int):
        self._start = start
        self._values = np.full(1024, start, np.int64)

    def add(self, places: NDArray[np.int64], values: NDArray[np.int64] | int = 1) -> None:
        """Add to places, also to one several times; sums wrap around."""
        self._reach(places)
        np.add.at(self._values, places, values)

    def minimum(self, places: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Keep the smaller value of each place."""
        self._reach(places)
        np.minimum.at(self._values, places, values)

    def maximum(self, places: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Keep the larger value of each place."""
        self._reach(places)
        np.maximum.at(self._values, places, values)

    def of(self, count: int) -> NDArray[np.int64]:
        """Return the values of the first places."""
        self._grow(count)
        return self._values[:count]

    def _reach(self, places: NDArray[np.int64]) -> None:
        if len(places):
            self._grow(int(places.max()) + 1)

    def _grow(self, count: int) -> None:
        missing = count - len(self._values)
        if missing > 0:
            more = np.full(max(missing, len(self._values)), self._start, np.int64)
            self._values = np.concatenate([self._values, more])


def mixed(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scramble 64 bits. Source: Steele et al., OOPSLA 2014 (splitmix64)."""
    bits = values.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return (bits ^ bits >> np.uint64(31)).view(np.int64)


def unique_sorted(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the distinct values, ascending."""
    ordered = np.sort(values)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))]
