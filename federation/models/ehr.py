"""Encoders of windowed aggregates of EHR events."""

from __future__ import annotations

from torch import Tensor, nn

from federation.study import EhrSection


class LinearEhr(nn.Module):
    """The aggregates as they are: with late fusion, a logistic regression."""

    def __init__(self, features: int):
        super().__init__()
        self.width = features

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, features) -> the same."""
        return x


class MlpEhr(nn.Module):
    """Two linear layers."""

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


def build_ehr(section: EhrSection, features: int) -> nn.Module:
    """Return the encoder that the study names."""
    return LinearEhr(features) if section.encoder == "linear" else MlpEhr(features, section.width)
