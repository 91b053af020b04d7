"""FedBuff: updates of several rounds' models, weighed by their age."""

from __future__ import annotations

import numpy as np

from federation.layout import LOCAL
from federation.models.build import Vector
from federation.strategies.asynchronous import FedBuff
from server.strategies.base import Gathered, Rule, moved_by


class Buffered(Rule):
    """The mean of the buffer's updates, each multiplied by (1 + age) to the power -a.

    Source: Nguyen et al., AISTATS 2022, algorithm 1, with the discount of section 5. As there, an
    old update is not made up for: the sum is divided by the number of updates, or the patients
    behind them, not by the discounts.
    """

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + server_lr x discounted mean."""
        options = self.strategy
        assert isinstance(options, FedBuff)
        step = np.zeros(len(weights))
        for part in self.layout.model:
            moved = [one for one in gathered.updates if one.weights.get(part.name, 0)]
            if part.name == LOCAL or not moved:
                continue
            here = slice(part.start, part.stop)
            for one in moved:
                discount = (1 + one.age) ** -options.age_exponent
                step[here] += one.update[here] * (discount * one.weights[part.name])
            step[here] /= sum(one.weights[part.name] for one in moved)
        self.notes = {"ages": {one.site: one.age for one in gathered.updates}}
        return moved_by(weights, options.server_lr * step)
