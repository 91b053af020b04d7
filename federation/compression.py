"""Compressed updates: what a site's update is rounded to, and how it travels.

A site rounds its update to what can travel before it leaves, and keeps for the next round what the
rounding has cost where that is much (``clients.compression``). What is rounded packs without a
further loss, so a simulation that sums updates in one process ends in the same model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from federation.validation import Section

Vector = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]

BLOCK = 1024
"""Numbers that share a scale under ``int8``."""
SMALLEST_EXPONENT = -126
NOT_FINITE = 127
"""Stands for the scale of a block that holds an infinite number, or none at all."""
STRETCH = 2**20
"""Numbers worked on at a time, to hold no second copy of a large update; whole blocks."""
MOST_NUMBERS = 2**29
"""Of an update, as many as fit uncompressed into the largest message."""
FP16, BF16, INT8, EXPONENTS = "fp16", "bf16", "int8", "exponents"
PLACES, VALUES, SIZE = "places", "values", "size"


class CompressionSection(Section):
    """``[strategy.compression]``: how updates travel.

    ``fp16`` and ``bf16`` round each number to 16 bits, ``int8`` to 8 bits and a power of two that
    1,024 numbers share; ``top_k`` sends the largest ``fraction`` of them and their places. With the
    last two a site adds to each update what earlier ones have left unsent (error feedback).
    """

    kind: Literal["fp16", "bf16", "int8", "top_k"]
    fraction: float | None = Field(default=None, gt=0, le=0.5, strict=True)

    @model_validator(mode="after")
    def _fraction_of_top_k(self) -> CompressionSection:
        if (self.kind == "top_k") != (self.fraction is not None):
            told = "needs a fraction, for example 0.01" if self.kind == "top_k" else "takes none"
            raise ValueError(f'fraction is the share of numbers sent: kind "{self.kind}" {told}')
        return self

    @property
    def feeds_back(self) -> bool:
        """Whether a site keeps what was left unsent: the rounding is coarse."""
        return self.kind in ("int8", "top_k")

    def kept(self, size: int) -> int:
        """Return how many of so many numbers ``top_k`` sends."""
        assert self.fraction is not None
        return min(size, max(1, math.ceil(self.fraction * size)))


def bytes_of(size: int, compression: CompressionSection | None) -> int:
    """Return the bytes in which an update of so many numbers travels.

    >>> [bytes_of(2048, c and CompressionSection(kind=c)) for c in (None, "bf16", "int8")]
    [8192, 4096, 2050]
    """
    if compression is None:
        return 4 * size
    if compression.kind == "int8":
        return size + -(-size // BLOCK)
    return 8 * compression.kept(size) + 8 if compression.kind == "top_k" else 2 * size


def rounded(update: Vector, compression: CompressionSection) -> Vector:
    """Return what arrives of an update, (size,) float32; what is not finite stays so."""
    return unpacked(packed(update, compression))


def packed(update: Vector, compression: CompressionSection) -> dict[str, NDArray[Any]]:
    """Return an update as the arrays that travel; exact for what ``rounded`` returned."""
    if compression.kind == "fp16":
        with np.errstate(over="ignore"):
            return {FP16: update.astype(np.float16)}
    if compression.kind == "bf16":
        return {BF16: _to_bf16(update)}
    if compression.kind == "int8":
        return _to_int8(update)
    return _largest(update, compression.kept(len(update)))


def unpacked(arrays: Arrays) -> Vector:
    """Return the update that arrays stand for, (size,) float32.

    Args:
        arrays: as of ``packed``, from somebody who need not be honest.

    Raises:
        ValueError: if they are not what ``packed`` returns, or hold too many numbers.
    """
    if not all(array.ndim == 1 and len(array) <= MOST_NUMBERS for array in arrays.values()):
        raise ValueError("not an update of this version")
    names = set(arrays)
    if names == {FP16} and arrays[FP16].dtype == np.float16:
        return arrays[FP16].astype(np.float32)
    if names == {BF16} and arrays[BF16].dtype == np.uint16:
        bits = arrays[BF16].astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    if names == {INT8, EXPONENTS}:
        return _from_int8(arrays[INT8], arrays[EXPONENTS])
    if names == {PLACES, VALUES, SIZE}:
        return _scattered(arrays[PLACES], arrays[VALUES], arrays[SIZE])
    raise ValueError("not an update of this version")


def _to_bf16(update: Vector) -> NDArray[np.uint16]:
    """Round to nearest, half to even; NaN stays NaN."""
    found = np.empty(len(update), np.uint16)
    for start in range(0, len(update), STRETCH):
        some = np.ascontiguousarray(update[start : start + STRETCH], np.float32)
        bits = some.view(np.uint32)
        nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        nearest[np.isnan(some)] = 0x7FC0
        found[start : start + STRETCH] = nearest
    return found


def _to_int8(update: Vector) -> dict[str, NDArray[np.int8]]:
    """Round to whole multiples of a power of two, the least with which a block fits in 127.

    Powers of two, so that what was rounded once has the same scale again.
    """
    steps = np.empty(len(update), np.int8)
    exponents = np.empty(-(-len(update) // BLOCK), np.int8)
    for start in range(0, len(update), STRETCH):
        some = update[start : start + STRETCH]
        blocks = np.zeros((-(-len(some) // BLOCK), BLOCK), np.float32)
        blocks.reshape(-1)[: len(some)] = some
        largest = np.abs(blocks).max(axis=1).astype(np.float64)
        finite = np.isfinite(largest)
        mantissa, exponent = np.frexp(np.where(finite, largest, 0.0) / 127)
        exponent = np.where(mantissa > 0.5, exponent, exponent - 1)
        exponent = np.where(largest > 0, np.maximum(exponent, SMALLEST_EXPONENT), SMALLEST_EXPONENT)
        blocks[~finite] = 0
        scaled = np.rint(np.ldexp(blocks.astype(np.float64), -exponent[:, None]))
        steps[start : start + STRETCH] = scaled.reshape(-1)[: len(some)]
        first = start // BLOCK
        exponents[first : first + len(blocks)] = np.where(finite, exponent, NOT_FINITE)
    return {INT8: steps, EXPONENTS: exponents}


def _from_int8(steps: NDArray[Any], exponents: NDArray[Any]) -> Vector:
    if (steps.dtype, exponents.dtype) != (np.dtype(np.int8),) * 2 or len(exponents) != -(
        -len(steps) // BLOCK
    ):
        raise ValueError("not an update of this version")
    found = steps.astype(np.float32)
    for start in range(0, len(found), STRETCH):
        some = found[start : start + STRETCH]
        first = start // BLOCK
        exponent = np.repeat(exponents[first : first + STRETCH // BLOCK], BLOCK)[: len(some)]
        with np.errstate(over="ignore"):
            np.ldexp(some, exponent.astype(np.int32), out=some)
        some[exponent == NOT_FINITE] = np.nan
    return found


def _largest(update: Vector, count: int) -> dict[str, NDArray[Any]]:
    """Return the numbers of largest size and their places; of equal ones the first.

    What is not a number counts as the largest of all, so that nobody takes it for nothing.
    """
    ordered = _sizes(update)
    ordered.partition(len(update) - count)
    least = ordered[len(update) - count]
    del ordered
    above, equal = [], []
    for start in range(0, len(update), STRETCH):
        size = _sizes(update[start : start + STRETCH])
        above.append(np.flatnonzero(size > least).astype(np.uint32) + np.uint32(start))
        equal.append(np.flatnonzero(size == least).astype(np.uint32) + np.uint32(start))
    larger = np.concatenate(above)
    places = np.sort(np.concatenate([larger, np.concatenate(equal)[: count - len(larger)]]))
    return {
        PLACES: places,
        VALUES: update[places].astype(np.float32),
        SIZE: np.array([len(update)], np.int64),
    }


def _sizes(update: Vector) -> Vector:
    size = np.abs(update)
    size[np.isnan(size)] = np.inf
    return size


def _scattered(places: NDArray[Any], values: NDArray[Any], told: NDArray[Any]) -> Vector:
    kinds = (places.dtype, values.dtype, told.dtype)
    if kinds != (np.dtype(np.uint32), np.dtype(np.float32), np.dtype(np.int64)) or len(told) != 1:
        raise ValueError("not an update of this version")
    size = int(told[0])
    increasing = bool((places[1:] > places[:-1]).all())
    fits = 0 <= size <= MOST_NUMBERS and (not len(places) or int(places[-1]) < size)
    if len(places) != len(values) or not increasing or not fits:
        raise ValueError("not an update of this version")
    found = np.zeros(size, np.float32)
    found[places] = values
    return found
