"""A small network over what a frozen BERT-like encoder made of a patient's notes.

The encoder itself runs once, at the site, when its notes are prepared (``clients.pretrained``):
under Opacus its embeddings of places have gradients of no single patient, and frozen it needs none.
Source of the adapter: Houlsby et al., "Parameter-efficient transfer learning for NLP", ICML 2019.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from federation.modalities import TextSection


class AdaptedText(nn.Module):
    """A bottleneck beside the features, then one layer."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(features)
        self.down, self.up = nn.Linear(features, width), nn.Linear(width, features)
        self.head = nn.Linear(features, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, features) -> (patients, width)."""
        features = self.norm(x)
        adapted = features + self.up(F.gelu(self.down(features)))
        return F.relu(self.head(adapted))


def build(section: TextSection, places: int) -> AdaptedText:
    """See `federation.models.registry.Encoder`."""
    assert section.pretrained is not None
    return AdaptedText(section.pretrained.features, section.width)
