"""A learned query looks at what each modality has found."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from federation.models.attention import Lone
from federation.models.encoded import Encoded, Present, Tokens, Widths, one_or_several


class CrossAttentionFusion(nn.Module):
    """A query looks at the tokens of each modality present, and away; then two layers.

    What it takes of a modality, from nothing to all, does not depend on the others: had they one
    look to share, the rest of a patient who lacks an image would be magnified. A modality that is
    absent has a learned vector in its place. Looking away counts as much as the average token, so
    that many tokens of a modality weigh no more than one.
    """

    def __init__(self, widths: Widths, outputs: int, width: int = 64):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(w, width) for name, w in widths.items()})
        self.absent = nn.ModuleDict({name: _nothing(width) for name in widths})
        self.query = Lone(width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, encoded: Encoded, present: Present) -> Tensor:
        """Return logits."""
        seen = []
        for name, project in self.project.items():
            keys, values, there = self._tokens(project, encoded[name])
            scores = (keys * self.query(keys)).sum(-1) / keys.shape[-1] ** 0.5
            away = there.sum(1, keepdim=True).clamp(min=1).to(scores.dtype).log()
            scores = torch.cat([away, scores.masked_fill(~there, float("-inf"))], 1)
            found = (scores.softmax(1)[:, 1:].unsqueeze(-1) * values).sum(1)
            absent = self.absent[name](found).squeeze(1)
            seen.append(torch.where(present[name].unsqueeze(-1), found, absent))
        return one_or_several(self.head(functools.reduce(torch.add, seen)))

    def _tokens(
        self, project: nn.Module, encoded: Tensor | Tokens
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values, (patients, tokens, width) each, and which tokens are there."""
        if isinstance(encoded, Tokens):
            x = project(encoded.values)
            return self.key(x), self.value(x), encoded.there
        x = project(encoded)  # one token goes through layers as one vector
        there = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        return self.key(x).unsqueeze(1), self.value(x).unsqueeze(1), there


def _nothing(width: int) -> Lone:
    vector = Lone(width)
    nn.init.zeros_(vector.vector.weight)
    return vector


def build(widths: Widths, outputs: int) -> CrossAttentionFusion:
    """See `federation.models.registry.Fusion`."""
    return CrossAttentionFusion(widths, outputs)
