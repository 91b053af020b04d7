"""A vision transformer of pictures and volumes that trains privately.

Source: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021. MONAI's goes through no
per-patient gradients; this one is made of linear layers, convolutions, norms and embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federation.modalities import ImageSection
from federation.models.attention import Block, Lone
from federation.models.encoded import Tokens


class VisionTransformer(nn.Module):
    """Patches with learned places and a learned first token; the first token goes on.

    Args:
        shape: of a patient's image, (channels, [planes,] size, size); filled up with grey to whole
            patches.
        patch: side of a patch.
        width: of a token.
        layers: blocks of attention.
        heads: of each block.
    """

    def __init__(self, shape: tuple[int, ...], patch: int, width: int, layers: int, heads: int):
        super().__init__()
        self.width, self.patch = width, patch
        kind = nn.Conv2d if len(shape) == 3 else nn.Conv3d
        self.patches = kind(shape[0], width, patch, stride=patch)
        count = 1
        for side in shape[1:]:
            count *= -(-side // patch)
        self.places = nn.Embedding(count, width)
        self.first = Lone(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.places.weight, std=0.02)
        self.stages = {
            "stem": [self.patches, self.places, self.first],
            **{f"stage{i + 1}": [block] for i, block in enumerate(self.blocks)},
            "last": [self.norm],
        }

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, [planes,] size, size) in [0, 1] -> (patients, width)."""
        encoded: Tensor = self.tokens(x).values[:, 0]
        return encoded

    def tokens(self, x: Tensor) -> Tokens:
        """Return the first token and one for each patch."""
        centred = (x - 0.5) * 4
        missing = [-side % self.patch for side in reversed(x.shape[2:])]
        if any(missing):
            centred = F.pad(centred, [end for more in missing for end in (0, more)])
        found = self.patches(centred).flatten(2).transpose(1, 2)
        order = torch.arange(found.shape[1], device=x.device).expand(len(x), -1)
        tokens = torch.cat([self.first(x), found + self.places(order)], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return Tokens(self.norm(tokens), torch.ones_like(tokens[..., 0], dtype=torch.bool))


def build(section: ImageSection, places: int) -> VisionTransformer:
    """See `federation.models.registry.Encoder`."""
    return VisionTransformer(
        section.shape, section.patch, section.width, section.layers, section.heads
    )
