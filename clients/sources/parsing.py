"""Cells to numbers and times: what fits, what stands for no value, and what is neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from re import error as re_error

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
TIME_OF_DAY = r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?"
DAY = np.timedelta64(1, "D").astype("timedelta64[us]").astype(np.int64)
END_OF_DAY = DAY - 1
EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers.

    Attributes:
        values: (rows,) float64; NaN where there is none.
        limit: (rows,) int8: -1 below and 1 above the limit of detection; there is no value then.
        bad: (rows,) bool: neither a number nor a marker of a missing one.
    """

    values: NDArray[np.float64]
    limit: NDArray[np.int8]
    bad: NDArray[np.bool_]


@dataclass(frozen=True)
class Times:
    """A column read as local times.

    Attributes:
        micros: (rows,) int64 since 1970; meaningless where ``known`` is false.
        known: (rows,) bool.
        bad: (rows,) bool: neither a time nor a marker of a missing one.
    """

    micros: NDArray[np.int64]
    known: NDArray[np.bool_]
    bad: NDArray[np.bool_]

    def array(self) -> pa.Array:
        """Return a timestamp column."""
        return pa.array(self.micros, pa.int64(), mask=~self.known).cast(pa.timestamp("us"))


def read_words(column: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Return a column as trimmed text, null where it holds no value.

    A whole number held as floating point is written without its point: ``1``, not ``1.0``.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = (np.abs(numbers) < 2**53) & (numbers == np.round(numbers))
        short = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
        long = pa.array(numbers, mask=np.isnan(numbers)).cast(pa.string())
        column = pc.if_else(pa.array(whole), short, long)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = column.cast(pa.string())
    words = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.is_in(words, value_set=pa.array(missing, pa.string())), None, words)


def read_numbers(
    column: pa.Array, missing: Sequence[str], decimal: str = ".", values: Mapping[str, float] = {}
) -> Numbers:
    """Return a column as numbers.

    ``<5`` and ``>90``, and infinities, are limits of detection. What Python would also read
    (``nan``, ``1_000``, ``0x1F``) is bad, unless it is in ``missing`` or ``values``.
    """
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        found = _from_text(read_words(column, missing), decimal, values)
        # "-1" stands for "-1.0" too, as a table written by a program has it.
        return Numbers(_without_markers(found.values, missing), found.limit, found.bad)
    numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return _with_limits(_without_markers(numbers, missing), np.zeros(len(numbers), bool))


def _without_markers(numbers: NDArray[np.float64], missing: Sequence[str]) -> NDArray[np.float64]:
    markers = []
    for text in missing:
        try:
            markers.append(float(text))
        except ValueError:
            continue
    return np.where(np.isin(numbers, markers), np.nan, numbers)


def _from_text(words: pa.Array, decimal: str, values: Mapping[str, float]) -> Numbers:
    given = pc.is_valid(words).to_numpy(zero_copy_only=False)
    count = len(words)
    numbers, limit = np.full(count, np.nan), np.zeros(count, np.int8)
    taken = ~given
    for text, number in values.items():
        at = pc.equal(words, text).fill_null(False).to_numpy(zero_copy_only=False)
        numbers[at], taken[at] = number, taken[at] | True
    plain = pc.replace_substring(words, decimal, ".") if decimal != "." else words
    for pattern, sign in ((r"^<=?\s*" + NUMBER + "$", -1), (r"^>=?\s*" + NUMBER + "$", 1)):
        at = _matches(plain, pattern) & ~taken
        limit[at] = sign
        taken |= at
    infinite = _matches(plain, r"(?i)^[+-]?inf(inity)?$") & ~taken
    negative = _matches(plain, "^-")
    numbers[infinite] = np.where(negative[infinite], -np.inf, np.inf)
    taken |= infinite
    fits = _matches(plain, f"^{NUMBER}$") & ~taken
    chosen = plain.filter(pa.array(fits))
    numbers[fits] = pc.utf8_ltrim(chosen, "+").cast(pa.float64()).to_numpy(zero_copy_only=False)
    found = _with_limits(numbers, ~(taken | fits))
    return Numbers(
        found.values, np.where(limit != 0, limit, found.limit).astype(np.int8), found.bad
    )


def _with_limits(numbers: NDArray[np.float64], bad: NDArray[np.bool_]) -> Numbers:
    infinite = np.isinf(numbers)
    limit = np.where(infinite, np.sign(numbers), 0).astype(np.int8)
    return Numbers(np.where(infinite, np.nan, numbers), limit, bad)


def read_times(
    column: pa.Array, missing: Sequence[str], pattern: str | None = None, early: bool = False
) -> Times:
    """Return a column as local times.

    A date without a time of day is the day's last moment, so that nothing is known before it can
    have been; with ``early``, for births, its first.

    Args:
        column: timestamps without a zone, dates, ISO 8601 text, or text written as ``pattern``.
        missing: texts that stand for no time.
        pattern: as of ``strptime``.
        early: see above.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            return _all_bad(column)
        at = column.cast(pa.timestamp("us"), safe=False)
        added = 0 if early or pa.types.is_timestamp(kind) else END_OF_DAY
        known = pc.is_valid(at).to_numpy(zero_copy_only=False)
        micros = at.cast(pa.int64()).fill_null(0).to_numpy() + added
        return Times(micros, known, np.zeros(len(column), bool))
    if pa.types.is_null(kind):
        return Times(np.zeros(len(column), np.int64), *np.zeros((2, len(column)), bool))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pattern):
        return _all_bad(column)
    words = read_words(column, missing)
    given = pc.is_valid(words).to_numpy(zero_copy_only=False)
    if pattern is None:
        dated = _matches(words, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
        shaped = dated | _matches(words, rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}{TIME_OF_DAY}$")
    else:
        dated = np.full(len(words), not any(f in pattern for f in ("%H", "%I", "%T", "%X", "%c")))
        shaped = given
    micros, fits = _stamps(words, shaped, pattern)
    if not early:
        micros = micros + np.where(dated, END_OF_DAY, 0)
    return Times(micros, given & fits, given & ~fits)


def _stamps(
    words: pa.Array, shaped: NDArray[np.bool_], pattern: str | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    micros, fits = np.zeros(len(words), np.int64), shaped.copy()
    chosen = words.filter(pa.array(shaped))
    try:
        if pattern is not None:
            raise pa.ArrowInvalid  # Arrow's strptime takes "2024-02-30" as the first of March
        found = chosen.cast(pa.timestamp("us"))
        micros[shaped] = found.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # at least one of them; which, it does not say
        coded = chosen.dictionary_encode()
        each = [_stamp(word, pattern) for word in coded.dictionary.to_pylist()]
        stamps = np.array([0 if one is None else one for one in each], np.int64)
        right = np.array([one is not None for one in each], bool)
        places = coded.indices.to_numpy()
        if len(places):
            micros[shaped], fits[shaped] = stamps[places], right[places]
    return micros, fits


def _stamp(word: str, pattern: str | None) -> int | None:
    try:
        if pattern is not None:
            at = datetime.strptime(word, pattern)
        else:
            head, point, fraction = word.partition(".")
            at = datetime.fromisoformat(
                head + (point + fraction[:6].ljust(6, "0") if point else "")
            )
    except (ValueError, re_error):
        return None
    if at.tzinfo is not None:
        return None
    return micros_of(at)


def micros_of(at: datetime) -> int:
    """Return a local time in microseconds since 1970."""
    gap = at - EPOCH
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds


def _all_bad(column: pa.Array) -> Times:
    given = pc.is_valid(column).to_numpy(zero_copy_only=False)
    return Times(np.zeros(len(column), np.int64), np.zeros(len(column), bool), given)


def _matches(words: pa.Array, pattern: str) -> NDArray[np.bool_]:
    found = pc.match_substring_regex(words, pattern).fill_null(False)
    return np.asarray(found.to_numpy(zero_copy_only=False), bool)
