"""A learned query looks at what each modality has found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from federation.models.encoded import Encoded, Present, Tokens, Widths, one_or_several


class CrossAttentionFusion(nn.Module):
    """A query attends over the tokens of each modality present, and over a null token.

    A modality with many tokens has no more weight for their number: each of its scores is less by
    the logarithm of how many it has of the patient.
    """

    def __init__(self, widths: Widths, outputs: int, width: int = 64):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(w, width) for name, w in widths.items()})
        self.null = nn.Embedding(1, width)
        self.query = nn.Embedding(1, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, encoded: Encoded, present: Present) -> Tensor:
        """Return logits."""
        some = next(iter(present.values()))
        first = torch.zeros(len(some), dtype=torch.long, device=some.device)
        null = self.null(first).unsqueeze(1)
        tokens, masks, shares = [null], [torch.ones_like(some).unsqueeze(1)], []
        for name, project in self.project.items():
            values, there = _several(project, encoded[name], present[name])
            tokens.append(torch.where(there.unsqueeze(-1), values, null))
            masks.append(there)
        for mask in masks:
            count = mask.sum(1, keepdim=True).clamp(min=1)
            shares.append(count.to(null.dtype).log().expand(mask.shape))
        stacked = torch.cat(tokens, 1)
        scores = (self.key(stacked) * self.query(first).unsqueeze(1)).sum(-1) / stacked.shape[
            -1
        ] ** 0.5
        scores = (scores - torch.cat(shares, 1)).masked_fill(~torch.cat(masks, 1), float("-inf"))
        seen = (scores.softmax(-1).unsqueeze(-1) * self.value(stacked)).sum(1)
        return one_or_several(self.head(seen))


def _several(project: nn.Module, encoded: Tensor | Tokens, present: Tensor) -> Tokens:
    if isinstance(encoded, Tokens):
        return Tokens(project(encoded.values), encoded.there & present.unsqueeze(1))
    return Tokens(project(encoded).unsqueeze(1), present.unsqueeze(1))


def build(widths: Widths, outputs: int) -> CrossAttentionFusion:
    """See `federation.models.registry.Fusion`."""
    return CrossAttentionFusion(widths, outputs)
