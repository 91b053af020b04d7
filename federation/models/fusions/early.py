"""All that the encoders found, side by side, in one network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from federation.models.encoded import Encoded, Present, Widths, one_or_several, whole


class EarlyFusion(nn.Module):
    """All encodings side by side, a learned token for each absent one, then two layers."""

    def __init__(self, widths: Widths, outputs: int, hidden: int = 64):
        super().__init__()
        # nn.Embedding and not nn.Parameter: per-sample gradients of a bare parameter are wrong.
        self.absent = nn.ModuleDict(
            {name: nn.Embedding(1, width) for name, width in widths.items()}
        )
        self.head = nn.Sequential(
            nn.Linear(sum(widths.values()) + len(widths), hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, encoded: Encoded, present: Present) -> Tensor:
        """Return logits."""
        columns = [
            _or_token(whole(encoded[name]), present[name], token)
            for name, token in self.absent.items()
        ]
        flags = [present[name].float().unsqueeze(-1) for name in self.absent]
        return one_or_several(self.head(torch.cat([*columns, *flags], dim=-1)))


def _or_token(encoded: Tensor, present: Tensor, token: nn.Module) -> Tensor:
    absent: Tensor = token(torch.zeros(len(present), dtype=torch.long, device=present.device))
    return torch.where(present.unsqueeze(-1), encoded, absent)


def build(widths: Widths, outputs: int) -> EarlyFusion:
    """See `federation.models.registry.Fusion`."""
    return EarlyFusion(widths, outputs)
