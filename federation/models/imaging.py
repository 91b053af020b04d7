"""Encoders of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federation.study import ImageSection

CHANNELS = (16, 32, 64, 64)
MAP = 4
"""Side of the spatial map before the head: averaging it away loses where a finding is, and a
small network then learns nothing from chest films."""


class ToMap(nn.Module):
    """``nn.AdaptiveAvgPool2d(MAP)``, which is slow where it has nothing to average."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, side, side) -> (patients, channels, MAP, MAP)."""
        side = x.shape[-1]
        if side == MAP:
            return x
        if MAP % side == 0:
            return F.interpolate(x, scale_factor=MAP // side)
        return F.adaptive_avg_pool2d(x, MAP)


class SmallCnn(nn.Module):
    """Four strided convolutions with GroupNorm, a 4 x 4 map, one linear layer."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.width = width
        layers: list[nn.Module] = []
        for below, above in zip((channels, *CHANNELS), CHANNELS, strict=False):
            layers += [
                nn.Conv2d(below, above, 3, stride=2, padding=1),
                nn.GroupNorm(8, above),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers, ToMap())
        self.head = nn.Sequential(nn.Linear(CHANNELS[-1] * MAP * MAP, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, size, size) in [0, 1] -> (patients, width)."""
        centred = (x - 0.5).contiguous(memory_format=torch.channels_last)
        encoded: Tensor = self.head(self.features(centred).flatten(1))
        return encoded


def build_imaging(section: ImageSection) -> nn.Module:
    """Return the encoder that the study names."""
    return SmallCnn(section.channels, section.width)
