"""The mean of the updates: FedAvg, and what differs from it at the sites alone."""

from __future__ import annotations

from federation.models.build import Vector
from server.strategies.base import Gathered, Rule, moved_by


class Averaging(Rule):
    """The next model is the old one plus the mean of the updates.

    Each part of the model is averaged over the patients that had it, so that hospitals without
    images do not hold the image encoder back.
    """

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + mean update."""
        return moved_by(weights, self.mean(gathered))


class NormalisedAveraging(Rule):
    """FedNova: the mean of updates of one step, times the mean number of steps.

    Source: Wang et al., NeurIPS 2020, eq. 6, with every step counted once: plain SGD. With momentum
    or Adam a site's steps are counted likewise, which the paper weighs otherwise.
    """

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + mean steps x mean update of one step."""
        assert gathered.total is not None
        mean, steps = self.layout.means(gathered.total)
        return moved_by(weights, mean * steps)
