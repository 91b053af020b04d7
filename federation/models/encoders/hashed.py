"""Words of notes by their hashed pieces, and attention that finds those that matter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from federation.modalities import TextSection
from federation.models.words import PADDING


class HashedText(nn.Module):
    """Each word is the mean of its pieces' vectors; a learned score weighs the words of a patient.

    Beside that the mean of all words goes on: what is said once in a long note is found, and a note
    of many findings is still told from one with few.
    """

    def __init__(self, buckets: int, width: int):
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(buckets + 1, width, padding_idx=PADDING)
        self.score = nn.Linear(width, 1)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (patients, words, pieces) int64 as of `words` -> (patients, width)."""
        real = tokens != PADDING
        pieces = real.sum(-1, keepdim=True)
        there = pieces > 0
        # Masked as well: of a padding index Opacus makes a gradient where torch makes none.
        vectors = self.embedding(tokens) * real.unsqueeze(-1)
        words = vectors.sum(-2) / pieces.clamp(min=1).sqrt()
        scores = self.score(words).masked_fill(~there, float("-inf"))
        # A nought beside them is what no word gets: a patient without any has no weights at all.
        nothing = torch.zeros_like(scores[:, :1])
        weights = torch.cat([nothing, scores], 1).softmax(1)[:, 1:]
        weighed = (weights * words).sum(1)
        mean = words.sum(1) / there.sum(1).clamp(min=1).sqrt()
        encoded: Tensor = self.head(torch.cat([weighed, mean], -1))
        return encoded


def build(section: TextSection, places: int) -> HashedText:
    """See `federation.models.registry.Encoder`."""
    return HashedText(section.buckets, section.width)
