"""Book-keeping of layers that hold a copy of their parameters for each of several sites."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from federation.models.stacked import StackedEmbedding, StackedLinear
from federation.privacy.kept_layer import Layer
from federation.privacy.layer_rules import EmbeddingLayer, LinearLayer


def stacked_rule_for(module: nn.Module) -> type[Layer]:
    """Return how a unit of a `StackedModel` is treated."""
    return StackedLinearLayer if isinstance(module, StackedLinear) else StackedEmbeddingLayer


class StackedLinearLayer(LinearLayer):
    """A patient's gradient is found as in `LinearLayer`, and added to the copy of its site."""

    module: StackedLinear

    def forward(self, x: Tensor) -> Tensor:
        """x: (copies * patients, ..., features)."""
        out = self.module.product(x)
        self.keep(x, out, x, at_once=x.dim() != 2 and not self._prefers_pair(x))
        return out

    def add(self, factors: Tensor) -> None:
        """See `Layer`."""
        if self.pair is not None:
            x, g = self.pair
            self.module.add(x, g * factors.view(-1, *[1] * (g.dim() - 1)))
            return
        copies = self.module.copies
        for total, samples in zip(self.totals, self.sums, strict=False):
            each = samples.view(copies, -1, samples.shape[1])
            total.add_(torch.bmm(factors.view(copies, 1, -1), each).view(total.shape))


class StackedEmbeddingLayer(EmbeddingLayer):
    """A patient's gradient is found as in `EmbeddingLayer`, and added to the copy of its site."""

    module: StackedEmbedding

    def forward(self, x: Tensor) -> Tensor:
        """x: (copies * patients, ...) indices."""
        out = self.module.product(x)
        self.keep(x, out, x, at_once=False)
        return out

    def add(self, factors: Tensor) -> None:
        """See `Layer`."""
        if self.rows is not None:
            owners, indices, rows = self.rows
            sites = owners // (self.batch.patients // self.module.copies)
            weighted = rows * factors[owners].unsqueeze(1)
            self.totals[0].index_put_((sites, indices), weighted, accumulate=True)
