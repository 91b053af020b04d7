"""Random generators, each derived from the study's seed and what it is for.

Equal seeds and purposes give equal streams, whichever process asks, in whatever order.
Nothing here serves differential privacy: a deployed site's noise is never seeded.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose.

    >>> derive_seed(42, "site-a", 1) != derive_seed(42, "site-a", 2)
    True
    """
    text = "/".join([str(seed), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU torch generator for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
