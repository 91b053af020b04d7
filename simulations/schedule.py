"""Which process plays which site: by what the sites have cost, longest first.

It decides how long a round takes and nothing else: results depend neither on who computes them nor
on the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

UNEVEN = 1.2
"""A site stays where it was unless the fullest process has so many times its share to do."""
FORGET = 0.5
"""Weight of the newest measurement of a site."""


class Costs:
    """What sites cost: measured, and before that guessed from the size of their files.

    Args:
        files: site file by node.
        pooled: the node of all sites' patients.

    Attributes:
        homes: the process that played a site last.
    """

    def __init__(self, files: Mapping[int, str], pooled: int):
        self._bytes = {node: _bytes_below(Path(file).parent) for node, file in files.items()}
        self._bytes[pooled] = sum(self._bytes.values())
        self._seconds: dict[int, float] = {}
        self.homes: dict[int, int] = {}

    def note(self, seconds: Mapping[int, float]) -> None:
        """Take in measured seconds, by node."""
        for node, new in seconds.items():
            old = self._seconds.get(node, new)
            self._seconds[node] = old + FORGET * (new - old)

    def measured(self, nodes: Iterable[int]) -> float | None:
        """Return the seconds of some nodes together; None if one of them was not measured."""
        seconds = [self._seconds.get(node, 0.0) for node in nodes]
        return sum(seconds) if seconds and all(seconds) else None

    def of(self, nodes: Iterable[int]) -> dict[int, float]:
        """Return the costs of some nodes, in one unit; what was not measured is guessed."""
        nodes = list(nodes)
        measured = [node for node in nodes if self._seconds.get(node)]
        rate = 1.0
        if measured:
            rate = sum(self._seconds[n] for n in measured) / sum(self._bytes[n] for n in measured)
        return {node: self._seconds.get(node) or rate * self._bytes[node] for node in nodes}


def spread(
    costs: Mapping[int, float], workers: Sequence[int], homes: dict[int, int]
) -> dict[int, list[int]]:
    """Divide nodes among processes.

    Args:
        costs: by node.
        workers: the processes.
        homes: where nodes were played last; brought up to date.

    Returns:
        The nodes of each process, the most costly first.

    Source: Graham, "Bounds on multiprocessing timing anomalies", 1969: longest first.

    >>> spread({1: 3.0, 2: 2.0, 3: 2.0, 4: 1.0}, [0, 1], {})
    {0: [1, 4], 1: [2, 3]}
    """
    ordered = sorted(costs, key=lambda node: (-costs[node], node))
    load = dict.fromkeys(workers, 0.0)
    for node in ordered:
        if homes.get(node) in load:
            load[homes[node]] += costs[node]
    settled = all(homes.get(node) in load for node in ordered)
    fair = sum(costs.values()) / len(workers)
    if not settled or max(load.values()) > UNEVEN * fair:
        load = dict.fromkeys(workers, 0.0)
        for node in ordered:
            homes[node] = min(workers, key=lambda worker: load[worker])
            load[homes[node]] += costs[node]
    mine: dict[int, list[int]] = {worker: [] for worker in workers}
    for node in ordered:
        mine[homes[node]].append(node)
    return mine


def halves(items: Sequence[T], least: int) -> Iterator[list[T]]:
    """Yield half of what is left, again and again, but not less than ``least`` items.

    So there are few calls, and the last ones are short: a process that has nothing left to do takes
    one over, or has not long to wait.

    Source: Polychronopoulos and Kuck, "Guided self-scheduling", 1987.

    >>> [len(some) for some in halves(range(50), 5)]
    [25, 13, 6, 5, 1]
    """
    start = 0
    while start < len(items):
        size = max(-(-(len(items) - start) // 2), least)
        yield list(items[start : start + size])
        start += size


def _bytes_below(folder: Path) -> int:
    return 1 + sum(file.stat().st_size for file in folder.rglob("*.parquet"))
