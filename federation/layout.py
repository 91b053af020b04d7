"""What a site's update holds, and what is added up of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.reduce import Part, WeightedSum
from federation.strategies.averaging import Scaffold
from federation.strategies.base import Strategy

LOCAL = "local"
"""Name of the parts that are each site's own: no site has a weight there, and nothing leaves."""

NUMBER_UNIT = 1024.0
"""The number beside an update is added up in this unit, to be in the range of fixed point: up to
131,072 steps."""


@dataclass(frozen=True)
class Layout:
    """The stretches of an update, and of the sum.

    Attributes:
        model: the parts of the model's flat vector.
        update: of what travels: the model, and for SCAFFOLD a control variate as long after it.
        summed: of what is added up: the update, and, where a strategy weighs sites by a number of
            their own, that number once for each name of a part.
    """

    model: tuple[Part, ...]
    update: tuple[Part, ...]
    summed: tuple[Part, ...]

    @classmethod
    def of(cls, strategy: Strategy, model: Sequence[Part]) -> Layout:
        """Return the layout of a strategy's updates of a model."""
        update = tuple(model)
        if isinstance(strategy, Scaffold):
            update += tuple(_shifted(part, model[-1].stop) for part in model)
        summed = update
        if strategy.with_number:
            end = update[-1].stop
            summed += tuple(Part(name, end + i, end + i + 1) for i, name in enumerate(names(model)))
        return cls(tuple(model), update, summed)

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return self.model[-1].stop

    @property
    def size(self) -> int:
        """How many numbers an update has."""
        return self.update[-1].stop

    def means(self, total: WeightedSum) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Take a round's sum apart.

        Returns:
            The weighted mean of the updates, (size,) float64, zero where nobody had weight; and
            for each parameter the weighted mean of the sites' numbers, (parameters,), one where
            there is none, or all are next to nothing.
        """
        mean = total.mean()
        numbers = np.ones(self.parameters)
        if len(self.summed) > len(self.update):
            told = dict(zip(names(self.model), mean[self.size :] * NUMBER_UNIT, strict=True))
            for part in self.model:
                if told[part.name] > 0:
                    numbers[part.start : part.stop] = told[part.name]
        return mean[: self.size], numbers


def names(parts: Sequence[Part]) -> list[str]:
    """Return the names of parts, each once, in order."""
    return list(dict.fromkeys(part.name for part in parts))


def _shifted(part: Part, by: int) -> Part:
    return Part(part.name, part.start + by, part.stop + by)
