"""Squared norms of the patients' gradients that hold for what is added up, rounding included.

Whoever sends the weights chooses how large the numbers in a model are. In float32 a square is lost
below 2.6e-23 and infinite above 1.8e19, so that a norm may be far too small only where something
was lost: `LOST` stands in for that. Infinite squares count as what they are, and since no factor
whose square is infinite goes into a product, what rounds below float32's least number stays small.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIT_ROUNDOFF = 2.0**-24
LOST = 2.0**-80
"""Least squared norm: a million times what float32 may round to zero in it, of 2**26 numbers."""


def row_squares(values: Tensor) -> Tensor:
    """Return an upper bound of the squared norm of each row, or infinity.

    Not by ``vector_norm``: it adds one number after another, and loses many small ones to a large
    one, where ``vecdot`` adds in a tree.

    Args:
        values: (patients, ...).

    >>> row_squares(torch.tensor([[[3.0], [4.0]], [[0.0], [1.0]]]))
    tensor([25.,  1.])
    """
    flat = values if values.dim() == 2 else values.flatten(1)
    squares: Tensor = torch.linalg.vecdot(flat, flat)
    return squares.clamp_(min=LOST)


def gram_squares(x: Tensor, g: Tensor) -> Tensor:
    """Return an upper bound of each patient's squared norm of ``sum over t of g_t x_t``.

    From Gram matrices, without making the sum of outer products. In float64: where a patient's
    tokens cancel, float32 would err by their size and not by that of their sum, and so does the
    float32 product that is clipped by the norm. For that there is room.

    Args:
        x: (patients, tokens, features below).
        g: (patients, tokens, features above).

    Returns:
        (patients,), its root above the norm by a ten-millionth of it for each token, if tokens are
        alike.

    Source: Li et al., "Large Language Models Can Be Strong Differentially Private Learners",
    ICLR 2022, section 4.
    """
    wide_x, wide_g = x.double(), g.double()
    gram = torch.bmm(wide_x, wide_x.transpose(1, 2))
    gram.mul_(torch.bmm(wide_g, wide_g.transpose(1, 2)))
    return with_room(gram.sum((1, 2)).clamp_(min=0), x, g, terms=x.shape[1])


def with_room(squares: Tensor, x: Tensor, g: Tensor, terms: int, windows: int = 1) -> Tensor:
    """Return squared norms with room for the rounding of a float32 sum of products.

    All terms may round the same way, for tokens can be such that they do: the room grows with
    their number, not with its root.

    Args:
        squares: (patients,) those of the sums.
        x: (patients, ...) one factor.
        g: (patients, ...) the other.
        terms: of each sum.
        windows: how often a number of ``x`` is in a sum, at most.
    """
    size = row_squares(x).double().mul_(row_squares(g)).mul_(windows).sqrt_()
    room = 2 * UNIT_ROUNDOFF * (terms + 3)
    return squares.double().sqrt_().add_(size, alpha=room).square_().to(x.dtype)
