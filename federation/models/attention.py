"""Attention that bears masks and trains privately: linear layers, and nothing between patients.

``nn.MultiheadAttention`` keeps its weights where no per-patient gradient of a layer can be found,
and ``nn.TransformerEncoder`` fails under Opacus with a padding mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Every token looks at every token that is there.

    Args:
        width: of a token; a multiple of ``heads``.
        heads: how many attend side by side.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """Return as many tokens.

        Args:
            x: (patients, tokens, width).
            there: (patients, tokens) bool; of each patient at least one. None: all are.
        """
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mask = None if there is None else there[:, None, None, :]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        """(patients, tokens, width) -> (patients, heads, tokens, width of a head)."""
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class Block(nn.Module):
    """One block of a transformer, normalised before each half.

    Source: Xiong et al., "On layer normalization in the transformer architecture", ICML 2020.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """x: (patients, tokens, width) -> the same; ``there`` as in `SelfAttention`."""
        x = x + self.attention(self.before(x), there)
        changed: Tensor = self.narrow(F.gelu(self.wide(self.after(x))))
        return x + changed


class Lone(nn.Module):
    """One learned vector, the same for each patient.

    In an embedding and not a bare parameter, whose per-patient gradients nobody can tell apart.
    """

    def __init__(self, width: int):
        super().__init__()
        self.vector = nn.Embedding(1, width)

    def forward(self, like: Tensor) -> Tensor:
        """like: (patients, ...) -> (patients, 1, width)."""
        first = torch.zeros(len(like), 1, dtype=torch.long, device=like.device)
        found: Tensor = self.vector(first)
        return found
