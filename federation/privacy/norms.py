"""Norms of the patients' gradients that hold for what is added up, rounding included."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIT_ROUNDOFF = 2.0**-24


def row_norms(values: Tensor) -> Tensor:
    """(patients, ...) -> (patients,).

    >>> row_norms(torch.tensor([[[3.0], [4.0]], [[0.0], [1.0]]]))
    tensor([5., 1.])
    """
    norms: Tensor = torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim())))
    return norms


def gram_norm(x: Tensor, g: Tensor) -> Tensor:
    """Return an upper bound of each patient's norm of ``sum over t of g_t x_t``, outer products.

    From Gram matrices, without making the sum. In float64: where a patient's tokens cancel,
    float32 would err by their size and not by that of their sum, and so does the float32 product
    that is clipped by the norm. For that there is `rounding_room`.

    Args:
        x: (patients, tokens, features below).
        g: (patients, tokens, features above).

    Returns:
        (patients,), above the norm by a ten-millionth of it for each token, if tokens are alike.

    Source: Li et al., "Large Language Models Can Be Strong Differentially Private Learners",
    ICLR 2022, section 4.
    """
    dtype, tokens = x.dtype, x.shape[1]
    x, g = x.double(), g.double()
    gram = torch.bmm(x, x.transpose(1, 2)).mul_(torch.bmm(g, g.transpose(1, 2))).sum((1, 2))
    size = row_norms(x).mul_(row_norms(g))
    return gram.clamp_(min=0).sqrt_().add_(size, alpha=rounding_room(tokens)).to(dtype)


def rounding_room(terms: int) -> float:
    """Rounding of a float32 sum of products, relative to the product of its factors' norms."""
    return 2 * UNIT_ROUNDOFF * math.sqrt(terms)
