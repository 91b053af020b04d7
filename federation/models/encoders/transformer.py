"""A transformer over the events of a patient as they came: time, code and value of each.

Source: Tipirneni and Reddy, "Self-Supervised Transformer for Sparse and Irregularly Sampled
Multivariate Clinical Time-Series", TKDD 2022. Otherwise than there, a code is the sum of its hashed
pieces, so that hospitals need no common list, and static facts are events without a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from federation.modalities import EhrSection
from federation.models.attention import Block, Lone
from federation.models.encoded import Tokens
from federation.models.triplets import Triplets

WAVES = 4
"""Sines and cosines of the logarithm of the hours, each twice as fast as the one before."""


class Curve(nn.Module):
    """A smooth function of a few numbers, learned: a hidden layer with tanh."""

    def __init__(self, numbers: int, width: int):
        super().__init__()
        hidden = max(2, math.isqrt(width))
        self.layers = nn.Sequential(nn.Linear(numbers, hidden), nn.Tanh(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, events, numbers) -> (patients, events, width)."""
        drawn: Tensor = self.layers(x)
        return drawn


class EventTransformer(nn.Module):
    """Events and a learned first token through blocks of attention; the first token goes on.

    A value that was not measured has no event, and an event without a value no term for it: that
    nobody asked remains visible. Padding is masked, and a batch is cut to its longest patient.
    """

    def __init__(self, places: int, width: int, layers: int, heads: int):
        super().__init__()
        self.width = width
        self.codes = nn.Embedding(places + 1, width, padding_idx=0)
        self.time = Curve(2 + 2 * WAVES, width)
        self.value = Curve(1, width)
        self.first = Lone(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, events, numbers) as of `Triplets` -> (patients, width)."""
        encoded: Tensor = self.tokens(x).values[:, 0]
        return encoded

    def tokens(self, x: Tensor) -> Tokens:
        """Return the first token and one for each event."""
        events = Triplets.of(x).shortened()
        tokens = torch.cat([self.first(x), self._embedded(events)], 1)
        there = torch.cat([torch.ones_like(events.there[:, :1]), events.there], 1)
        for block in self.blocks:
            tokens = block(tokens, there)
        return Tokens(self.norm(tokens), there)

    def _embedded(self, events: Triplets) -> Tensor:
        real = events.pieces != 0
        # Masked as well: of a padding index Opacus makes a gradient where torch makes none.
        vectors: Tensor = self.codes(events.pieces) * real.unsqueeze(-1)
        codes = vectors.sum(-2) / real.sum(-1, keepdim=True).clamp(min=1).sqrt()
        values: Tensor = self.value(events.value.unsqueeze(-1)) * events.valued.unsqueeze(-1)
        times: Tensor = self.time(_encoded(events))
        return codes + values + times


def _encoded(events: Triplets) -> Tensor:
    """Return what the network is told of the times, (patients, events, 2 + 2 x WAVES).

    Of the logarithm, for an hour matters within a day and not within a year. Facts without a time
    have zeros alone.
    """
    logarithm = torch.log1p(events.hours)
    speeds = 2.0 ** torch.arange(WAVES, device=logarithm.device) * (math.pi / 8)
    angles = logarithm.unsqueeze(-1) * speeds
    timed = events.timed.unsqueeze(-1)
    level = logarithm.unsqueeze(-1) / 8
    return torch.cat([timed, level, angles.sin(), angles.cos()], -1) * timed


def build(section: EhrSection, places: int) -> EventTransformer:
    """See `federation.models.registry.Encoder`."""
    return EventTransformer(places, section.width, section.layers, section.heads)
