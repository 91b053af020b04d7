"""A small convolutional network that trains on a CPU, of pictures and of volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federation.modalities import ImageSection

CHANNELS = (16, 32, 64, 64)
MAP = 4
"""Side of the spatial map before the head: averaging it away loses where a finding is, and a
small network then learns nothing from chest films."""
CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
AVERAGES = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class ToMap(nn.Module):
    """``nn.AdaptiveAvgPool2d(MAP)``, or 3d, which is slow where it has nothing to average."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, *sides) -> (patients, channels, MAP, MAP, [MAP])."""
        sides = x.shape[2:]
        if all(side == MAP for side in sides):
            return x
        if len(set(sides)) == 1 and MAP % sides[0] == 0:
            return F.interpolate(x, scale_factor=MAP // sides[0])
        return AVERAGES[len(sides)](x, MAP)


class SmallCnn(nn.Module):
    """Four strided convolutions with GroupNorm, a map of 4 places a side, one linear layer."""

    def __init__(self, channels: int, dimensions: int, width: int):
        super().__init__()
        self.width, self.order = width, CHANNELS_LAST[dimensions]
        layers: list[nn.Module] = []
        for below, above in zip((channels, *CHANNELS), CHANNELS, strict=False):
            layers += [
                CONVOLUTIONS[dimensions](below, above, 3, stride=2, padding=1),
                nn.GroupNorm(8, above),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers, ToMap())
        self.head = nn.Sequential(nn.Linear(CHANNELS[-1] * MAP**dimensions, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, [planes,] size, size) in [0, 1] -> (patients, width)."""
        centred = (x - 0.5).contiguous(memory_format=self.order)
        encoded: Tensor = self.head(self.features(centred).flatten(1))
        return encoded


def build(section: ImageSection, places: int) -> SmallCnn:
    """See `federation.models.registry.Encoder`."""
    return SmallCnn(section.channels, section.dimensions, section.width)
