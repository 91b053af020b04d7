"""Two linear layers over the aggregates of the EHR."""

from __future__ import annotations

from torch import Tensor, nn

from federation.modalities import EhrSection


class MlpEhr(nn.Module):
    """Two linear layers, each with a ReLU."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, features) -> (patients, width)."""
        encoded: Tensor = self.layers(x)
        return encoded


def build(section: EhrSection, places: int) -> MlpEhr:
    """See `federation.models.registry.Encoder`."""
    return MlpEhr(places * len(section.aggregates), section.width)
