"""Where the randomness of differential privacy comes from.

At a deployed site every draw, of who is sampled and of the noise, comes from the operating
system's generator: whoever knew a seed could subtract the noise. Only a simulation seeds them,
and says so.

A float's last bits can betray what was added to the noise (Mironov, CCS 2012; for Gaussian
samplers Jin et al., S&P 2022). Two measures are taken at a deployed site: every Gaussian is the
scaled sum of four (Holohan and Braghin, ESORICS 2021, as Opacus' secure mode does), drawn in
float64 from 53-bit uniforms; and the noised sum is rounded to a grid of 2^-12 of the noise's
standard deviation (``noised``), far coarser than the float64 in which it was computed. What is
left is a gap to the ideal mechanism that is argued for, not proved.
"""

from __future__ import annotations

import math
import os
import random
import secrets
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from federation.randomness import derive_seed, torch_generator

GRID_BITS = 12
SUMMED = 4


class Randomness(Protocol):
    """A source of draws.

    Attributes:
        seeded: whether somebody could repeat the draws; then nobody is protected.
    """

    seeded: bool

    def uniform(self, size: int) -> Tensor:
        """Return numbers in [0, 1), (size,) float64."""
        ...

    def normal(self, size: int) -> Tensor:
        """Return standard normal numbers, (size,) float64; float32 where nobody is protected."""
        ...

    def below(self, bound: int) -> int:
        """Return a whole number from 0 to below the bound, all alike."""
        ...


class OperatingSystem:
    """Draws from the operating system's generator."""

    seeded = False

    def uniform(self, size: int) -> Tensor:
        """Return multiples of 2^-53 in [0, 1), (size,) float64."""
        drawn = np.frombuffer(os.urandom(8 * size), np.uint64) >> 11
        return torch.from_numpy(np.ldexp(drawn.astype(np.float64), -53))

    def normal(self, size: int) -> Tensor:
        """Return standard normal numbers by Box and Muller, each from four, (size,) float64.

        None lies further out than 12.2, where an ideal one does with a probability below 1e-33.
        """
        pairs = SUMMED // 2
        uniform = self.uniform(2 * pairs * size).view(2, pairs, size)
        radius = torch.sqrt(-2 * torch.log(1 - uniform[0]))  # 1 - u is never 0
        angle = 2 * math.pi * uniform[1]
        both = radius * torch.cos(angle) + radius * torch.sin(angle)
        return both.sum(0) / math.sqrt(SUMMED)

    def below(self, bound: int) -> int:
        """Return a whole number from 0 to below the bound, all alike."""
        return secrets.randbelow(bound)


class Seeded:
    """Draws that the same seed and purpose repeat: for simulations, where nobody is protected."""

    seeded = True

    def __init__(self, seed: int, *purpose: str | int):
        self._generator = torch_generator(seed, "privacy", *purpose)
        self._whole = random.Random(derive_seed(seed, "privacy", "whole", *purpose))

    def uniform(self, size: int) -> Tensor:
        """Return numbers in [0, 1), (size,) float64."""
        return torch.rand(size, generator=self._generator, dtype=torch.float64)

    def normal(self, size: int) -> Tensor:
        """Return standard normal numbers, (size,) float32: here it is speed that counts."""
        return torch.randn(size, generator=self._generator)

    def below(self, bound: int) -> int:
        """Return a whole number from 0 to below the bound, all alike."""
        return self._whole.randrange(bound)


def noised(total: Tensor, deviation: float, randomness: Randomness) -> Tensor:
    """Return a sum with Gaussian noise, on a grid.

    Args:
        total: (parameters,) the clipped sum.
        deviation: standard deviation of the noise, above 0.
        randomness: drawn from once for each parameter.

    Returns:
        (parameters,) on the CPU, of the noise's own precision; multiples of `grid`.
    """
    noise = randomness.normal(total.numel())
    return on_grid(noise, total.detach().cpu(), deviation, grid(deviation))


def grid(deviation: float) -> float:
    """Return the largest power of two that is at most 2^-12 of the noise's deviation."""
    return 2.0 ** (math.floor(math.log2(deviation)) - GRID_BITS)


def on_grid(
    noise: Tensor, total: Tensor, deviation: float | Tensor, grid: float | Tensor
) -> Tensor:
    """Turn standard normal numbers, in place, into a noised sum that is a multiple of a grid."""
    return noise.mul_(deviation).add_(total).mul_(1 / grid).round_().mul_(grid)
