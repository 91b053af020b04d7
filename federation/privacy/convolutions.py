"""Gradients of a convolution's weight: summed over patients, or of each patient."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def zeros_around(conv: Conv) -> tuple[int, ...] | None:
    """Return the zeros on either side of each dimension; None where the sides differ."""
    if not isinstance(conv.padding, str):
        return conv.padding
    if conv.padding == "valid":
        return (0,) * len(conv.kernel_size)
    spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return None if any(span % 2 for span in spans) else tuple(span // 2 for span in spans)


def weight_gradient(
    conv: Conv, padding: tuple[int, ...], x: Tensor, gradient: Tensor, groups: int = 1
) -> Tensor:
    """Return the weight's gradient, over all patients.

    Args:
        conv: padded with zeros.
        padding: as from `zeros_around`.
        x: (patients, channels below, *size) input.
        gradient: (patients, channels above, *size) of the output.
        groups: by how many more groups the channels are divided than in the convolution; the
            result has as many times its weight's rows.
    """
    weight = conv.weight
    shape = (groups * weight.shape[0], *weight.shape[1:])
    found = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight.new_empty(()).expand(shape),  # of the weight, only its shape matters here
        None,
        conv.stride,
        padding,
        conv.dilation,
        False,
        (0,) * (x.dim() - 2),
        groups * conv.groups,
        (False, True, False),
    )
    return cast(Tensor, found[1])


def weight_samples(conv: Conv, padding: tuple[int, ...], x: Tensor, gradient: Tensor) -> Tensor:
    """Return each patient's gradient of the weight, (patients, *shape); see `weight_gradient`."""
    # The patients become groups of one patient's channels: unfolding takes longer, and more memory.
    flat_x, flat = (values.reshape(1, -1, *values.shape[2:]) for values in (x, gradient))
    found = weight_gradient(conv, padding, flat_x, flat, groups=len(x))
    return found.reshape(len(x), *conv.weight.shape)
