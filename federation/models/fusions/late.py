"""One score a modality, added up over those that a patient has."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from federation.models.encoded import Encoded, Present, Widths, one_or_several, whole


class LateFusion(nn.Module):
    """A bias and one linear head a modality, each gated by the modality's presence."""

    def __init__(self, widths: Widths, outputs: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(w, outputs) for name, w in widths.items()})

    def forward(self, encoded: Encoded, present: Present) -> Tensor:
        """Return logits; a patient with nothing gets 0."""
        logits = [
            torch.where(present[name].unsqueeze(-1), head(whole(encoded[name])), 0.0)
            for name, head in self.heads.items()
        ]
        return one_or_several(functools.reduce(torch.add, logits))


def build(widths: Widths, outputs: int) -> LateFusion:
    """See `federation.models.registry.Fusion`."""
    return LateFusion(widths, outputs)
