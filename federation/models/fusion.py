"""Fusion of what the encoders found, for any subset of modalities.

Each fusion takes ``encoded[name]``: (patients, width of that encoder) and ``present[name]``:
(patients,) bool, and returns logits: (patients,) of a task with one output, else (patients,
outputs). What stands in an absent modality's row has no influence on the logits; the model sees to
it that it is finite.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Widths = Mapping[str, int]


class LateFusion(nn.Module):
    """A bias and one linear head a modality, added up over the modalities present."""

    def __init__(self, widths: Widths, outputs: int = 1):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(w, outputs) for name, w in widths.items()})

    def forward(self, encoded: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits; a patient with nothing gets 0."""
        logits = [
            torch.where(present[name].unsqueeze(-1), head(encoded[name]), 0.0)
            for name, head in self.heads.items()
        ]
        return _one_or_several(functools.reduce(torch.add, logits))


class EarlyFusion(nn.Module):
    """All encodings side by side, a learned token for each absent one, then two layers."""

    def __init__(self, widths: Widths, outputs: int = 1, hidden: int = 64):
        super().__init__()
        self.absent = _absent_tokens(widths)
        self.head = nn.Sequential(
            nn.Linear(sum(widths.values()) + len(widths), hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, encoded: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits."""
        columns = [_or_token(encoded[n], present[n], token) for n, token in self.absent.items()]
        flags = [present[name].float().unsqueeze(-1) for name in self.absent]
        return _one_or_several(self.head(torch.cat([*columns, *flags], dim=-1)))


class CrossAttentionFusion(nn.Module):
    """A learned query attends over one token for each modality present, and over a null token."""

    def __init__(self, widths: Widths, outputs: int = 1, width: int = 64):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(w, width) for name, w in widths.items()})
        self.null = nn.Embedding(1, width)
        self.query = nn.Embedding(1, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, encoded: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits."""
        patients = len(next(iter(encoded.values())))
        first = torch.zeros(patients, dtype=torch.long, device=next(iter(encoded.values())).device)
        null = self.null(first)
        tokens = [null]
        masks = [torch.ones_like(first, dtype=torch.bool)]
        for name, project in self.project.items():
            mask = present[name]
            tokens.append(torch.where(mask.unsqueeze(-1), project(encoded[name]), null))
            masks.append(mask)
        stacked = torch.stack(tokens, 1)
        scores = (self.key(stacked) * self.query(first).unsqueeze(1)).sum(-1)
        scores = scores / stacked.shape[-1] ** 0.5
        weights = scores.masked_fill(~torch.stack(masks, 1), float("-inf")).softmax(-1)
        seen = (weights.unsqueeze(-1) * self.value(stacked)).sum(1)
        return _one_or_several(self.head(seen))


def build_fusion(
    kind: Literal["early", "late", "cross_attention"], widths: Widths, outputs: int = 1
) -> nn.Module:
    """Return the fusion that the study names, with as many outputs as its task has."""
    kinds: dict[str, type[nn.Module]] = {
        "early": EarlyFusion,
        "late": LateFusion,
        "cross_attention": CrossAttentionFusion,
    }
    return kinds[kind](widths, outputs)


def _one_or_several(outputs: Tensor) -> Tensor:
    """Logits of (patients, outputs); (patients,) if there is one output."""
    return outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs


def _absent_tokens(widths: Widths) -> nn.ModuleDict:
    # nn.Embedding and not nn.Parameter: per-sample gradients of a bare parameter are wrong.
    return nn.ModuleDict({name: nn.Embedding(1, width) for name, width in widths.items()})


def _or_token(encoded: Tensor, present: Tensor, token: nn.Module) -> Tensor:
    absent: Tensor = token(torch.zeros(len(present), dtype=torch.long, device=present.device))
    return torch.where(present.unsqueeze(-1), encoded, absent)
