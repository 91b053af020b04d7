"""Encoders of notes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from federation.modalities import TextSection

PADDING = 0


class HashedText(nn.Module):
    """Embeddings of hashed words and word pairs, averaged over the note."""

    def __init__(self, buckets: int, width: int):
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(buckets + 1, width, padding_idx=PADDING)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (patients, tokens) int64, 0 is padding -> (patients, width)."""
        words = (tokens != PADDING).unsqueeze(-1)
        total = (self.embedding(tokens) * words).sum(1)
        encoded: Tensor = self.head(total / torch.sqrt(words.sum(1).clamp(min=1)))
        return encoded


def build(section: TextSection, places: int) -> HashedText:
    """See `federation.models.registry.Encoder`."""
    return HashedText(section.buckets, section.width)
