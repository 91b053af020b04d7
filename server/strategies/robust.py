"""The robust strategies: every site's update is looked at, and each counts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from federation.collect import SiteUpdate
from federation.layout import LOCAL
from federation.models.build import Vector
from federation.reduce import Part
from federation.strategies import robust as options
from federation.strategies.base import Strategy
from server.robust import (
    bulyan,
    coordinate_median,
    geometric_median,
    krum,
    multi_krum,
    trimmed_mean,
)
from server.strategies.base import Gathered, Rule

Matrix = NDArray[np.float32]


class RobustRule(Rule):
    """Combines updates one block of the model at a time: the parts that the same sites moved.

    Where all sites have all modalities that is the whole model, as in the papers. A block moved by
    fewer sites than the rule needs stays as it was, which the round's record tells.
    """

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + what the rule makes of the updates."""
        result = weights.copy()
        left: list[str] = []
        for holders, parts in self._blocks(gathered.updates).items():
            stretches = [slice(part.start, part.stop) for part in parts]
            if len(holders) < max(self.strategy.fewest_sites, 1):
                left += [part.name for part in parts]
                continue
            moved = [one.update for one in gathered.updates if one.site in holders]
            rows = np.stack([np.concatenate([update[s] for s in stretches]) for update in moved])
            step = COMBINED[type(self.strategy)](rows, self.strategy)
            start = 0
            for stretch in stretches:
                width = stretch.stop - stretch.start
                result[stretch] += step[start : start + width]
                start += width
        self.notes = {"too few sites to move": sorted(set(left))} if left else {}
        return result

    def _blocks(self, updates: Sequence[SiteUpdate]) -> dict[tuple[str, ...], list[Part]]:
        """Return the model's parts by the sites that moved them."""
        blocks: dict[tuple[str, ...], list[Part]] = {}
        for part in self.layout.model:
            if part.name != LOCAL:
                holders = tuple(one.site for one in updates if one.weights[part.name])
                blocks.setdefault(holders, []).append(part)
        return blocks


def _trimmed(rows: Matrix, strategy: Strategy) -> Matrix:
    assert isinstance(strategy, options.TrimmedMean)
    return trimmed_mean(rows, strategy.fraction)


def _krum(rows: Matrix, strategy: Strategy) -> Matrix:
    assert isinstance(strategy, options.Krum)
    chosen: Matrix = rows[krum(rows, strategy.hostile)]
    return chosen


def _multi_krum(rows: Matrix, strategy: Strategy) -> Matrix:
    """Without a number given, average as many as the condition of the rule allows."""
    assert isinstance(strategy, options.MultiKrum)
    chosen = strategy.chosen or len(rows) - strategy.hostile - 2
    mean: Matrix = rows[multi_krum(rows, strategy.hostile, chosen)].mean(0, dtype=np.float64)
    return mean.astype(np.float32)


def _bulyan(rows: Matrix, strategy: Strategy) -> Matrix:
    assert isinstance(strategy, options.Bulyan)
    return bulyan(rows, strategy.hostile)


def _geometric_median(rows: Matrix, strategy: Strategy) -> Matrix:
    assert isinstance(strategy, options.GeometricMedian)
    return geometric_median(rows, strategy.smoothing, strategy.iterations)


COMBINED: Mapping[type[Strategy], Callable[[Matrix, Strategy], Matrix]] = {
    options.Median: lambda rows, _: coordinate_median(rows),
    options.TrimmedMean: _trimmed,
    options.Krum: _krum,
    options.MultiKrum: _multi_krum,
    options.Bulyan: _bulyan,
    options.GeometricMedian: _geometric_median,
}
