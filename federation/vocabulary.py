"""From codes and values to the places of a feature vector, the same at every site.

By default nothing about the data has to be agreed beforehand: a code is hashed by its pieces
(``ICD10CM``, ``ICD10CM//J18``, the whole code) and a value is scaled by the reference range that
ships with the study. Where the study asks for it, codes and scaling are fitted from what the
sites counted (``prepare``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from federation.modalities import EhrSection

AGE = "AGE//AT_PREDICTION"
"""Our own code for the age in years at the prediction time."""
AGE_RANGE = (20.0, 80.0)
NOT_FEATURES = ("IMAGE//", "NOTE//", "MEDS_BIRTH", "MEDS_DEATH")


@dataclass(frozen=True)
class Scale:
    """A value becomes ``(value - center) / width``."""

    center: float
    width: float

    @classmethod
    def of_range(cls, low: float, high: float) -> Scale:
        """Map a reference range to [-1, 1]."""
        return cls((low + high) / 2, (high - low) / 2)


@dataclass(frozen=True)
class CodeMoments:
    """What one site tells about one code in the prepare exchange.

    Counts are of patients; the moments are of all the values of those patients.
    """

    patients: int
    values: int
    total: float
    total_of_squares: float

    def __add__(self, other: CodeMoments) -> CodeMoments:
        return CodeMoments(
            self.patients + other.patients,
            self.values + other.values,
            self.total + other.total,
            self.total_of_squares + other.total_of_squares,
        )

    def scale(self) -> Scale | None:
        """Mean and standard deviation of the values, or None where there are too few."""
        if self.values < 2:
            return None
        mean = self.total / self.values
        variance = self.total_of_squares / self.values - mean * mean
        # What rounding leaves of a value that never varies must not become its spread.
        varies = variance > 1e-12 * mean * mean
        return Scale(mean, math.sqrt(variance) if varies else 1.0)


@dataclass(frozen=True)
class Vocabulary:
    """Which places an event's code has, and how its value is scaled.

    Attributes:
        codes: codes with a place of their own, in order.
        scales: how values of these codes are scaled; a code may be missing here.
        buckets: places shared by the hashed pieces of all other codes; 0 for none.
    """

    codes: tuple[str, ...]
    scales: Mapping[str, Scale]
    buckets: int

    @property
    def places(self) -> int:
        """Number of places."""
        return len(self.codes) + self.buckets

    def places_of(self, code: str) -> tuple[tuple[int, ...], int | None]:
        """Return the places that an event with ``code`` marks, and the one that gets its value.

        >>> Vocabulary(("LAB//CRP",), {}, 0).places_of("LAB//CRP")
        ((0,), 0)
        >>> Vocabulary(("LAB//CRP",), {}, 0).places_of("LAB//BUN")
        ((), None)
        """
        if code.startswith(NOT_FEATURES):
            return (), None
        if code in self._index:
            return (self._index[code],), self._index[code]
        if code == AGE or not self.buckets:  # a study without age must not get it by a bucket
            return (), None
        hashed = [len(self.codes) + bucket_of(piece, self.buckets) for piece in pieces(code)]
        return tuple(dict.fromkeys(hashed)), hashed[-1]

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {code: place for place, code in enumerate(self.codes)}

    @cached_property
    def canonical(self) -> str:
        """The vocabulary as one JSON text, which ``from_json`` reads back exactly."""
        scales = {code: [s.center, s.width] for code, s in sorted(self.scales.items())}
        return json.dumps({"codes": list(self.codes), "scales": scales, "buckets": self.buckets})

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Read a ``canonical`` text."""
        data: dict[str, Any] = json.loads(text)
        scales = {code: Scale(*pair) for code, pair in data["scales"].items()}
        return cls(tuple(data["codes"]), scales, data["buckets"])


def agreed_vocabulary(section: EhrSection) -> Vocabulary:
    """Return the vocabulary that the study alone defines (``hashed`` or ``listed``)."""
    codes = dict.fromkeys([*section.reference_ranges, *section.codes])
    return _with_age(section, codes, {}, section.buckets if section.vocabulary == "hashed" else 0)


def fitted_vocabulary(
    section: EhrSection, counted: Iterable[Mapping[str, CodeMoments]]
) -> Vocabulary:
    """Fit codes and scaling from what the sites counted.

    Args:
        section: the study's EHR section; its reference ranges go before fitted scales.
        counted: one mapping a site, in a fixed order, small counts already withheld.

    Returns:
        The ``vocabulary_size`` codes that most patients have (ties by name), scaled by their
        mean and standard deviation over all sites.
    """
    merged: dict[str, CodeMoments] = {}
    for site in counted:
        for code, moments in site.items():
            merged[code] = merged[code] + moments if code in merged else moments
    ranked = sorted(merged, key=lambda code: (-merged[code].patients, code))
    kept = dict.fromkeys(sorted(ranked[: section.vocabulary_size]))
    fitted = {code: scale for code in kept if (scale := merged[code].scale()) is not None}
    return _with_age(section, kept, fitted, 0)


def pieces(code: str) -> list[str]:
    """Return a code's prefixes, from the coarsest to the whole code.

    >>> pieces("ICD10CM//J18.9")
    ['ICD10CM', 'ICD10CM//J18', 'ICD10CM//J18.9']
    """
    parts = code.split("//")
    found = ["//".join(parts[: i + 1]) for i in range(len(parts) - 1)]
    stem = code.rpartition(".")[0] if "." in parts[-1] else ""
    return [*found, *([stem] if stem and not stem.endswith("//") else []), code]


def bucket_of(piece: str, buckets: int) -> int:
    """Hash a piece of text into a bucket, equally on every machine."""
    digest = hashlib.blake2b(piece.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def _with_age(
    section: EhrSection, codes: Iterable[str], fitted: Mapping[str, Scale], buckets: int
) -> Vocabulary:
    ranges = {code: Scale.of_range(*pair) for code, pair in section.reference_ranges.items()}
    known = dict.fromkeys(codes)
    if section.age:
        known[AGE] = None
        ranges.setdefault(AGE, Scale.of_range(*AGE_RANGE))
    return Vocabulary(tuple(known), {**fitted, **ranges}, buckets)
