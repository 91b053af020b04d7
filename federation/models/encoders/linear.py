"""The aggregates of the EHR as they are."""

from __future__ import annotations

from torch import Tensor, nn

from federation.modalities import EhrSection


class LinearEhr(nn.Module):
    """With late fusion, a logistic regression."""

    def __init__(self, features: int):
        super().__init__()
        self.width = features

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, features) -> the same."""
        return x


def build(section: EhrSection, places: int) -> LinearEhr:
    """See `federation.models.registry.Encoder`."""
    return LinearEhr(places * len(section.aggregates))
