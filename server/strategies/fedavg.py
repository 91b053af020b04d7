"""Federated averaging (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

from typing import Literal

from federation.models.build import Vector
from federation.reduce import WeightedSum


class FedAvg:
    """The next model is the old one plus the mean of the updates.

    Each part of the model is averaged over the patients that had it, so that hospitals without
    images do not hold the image encoder back.
    """

    name = "fedavg"
    needs: Literal["sum", "each"] = "sum"
    summary = "mean of the sites' updates, weighted by patients or uniformly"

    def next_weights(self, weights: Vector, total: WeightedSum) -> Vector:
        """Return weights + mean update, (parameters,) float32."""
        return weights + total.mean()
