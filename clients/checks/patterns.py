"""What identifiers look like in a text. Obvious ones: finding none proves nothing.

The expressions are RE2's, which reads any text in linear time; the kinds follow HIPAA's Safe
Harbor list, 45 CFR 164.514(b)(2), as far as a pattern can tell them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DAY, _MONTH, _YEAR = "(0?[1-9]|[12][0-9]|3[01])", "(0?[1-9]|1[0-2])", "(19|20)[0-9]{2}"

PATTERNS: Mapping[str, str] = {
    "e-mail address": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    "telephone number": (
        r"(^|[^0-9])\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}($|[^0-9])"
        r"|\+[0-9]{1,3}[ .-]?\(?[0-9]([ ().-]{0,2}[0-9]){7,11}"
        r"|(?i:\b(tel|phone|telephone|telefon|mobile|fax)\b[ .:]*)[+(0-9][0-9 ()/.-]{5,}"
    ),
    "record number": (
        r"(?i:(\bmrn|medical record|record n(o|umber)|\bpat(ient(en)?)?[-_ ]?(id|no|nr|number)"
        r"|hospital n(o|umber)|case n(o|umber)|nhs n(o|umber)|\bssn|social security|\bahv"
        r"|insurance n(o|umber)))[ .:#=_-]{0,4}[A-Za-z]{0,3}[0-9]{4,}"
        r"|(^|[^0-9])[0-9]{3}-[0-9]{2}-[0-9]{4}($|[^0-9])|756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"
    ),
    "date": (
        rf"(^|[^0-9])({_YEAR}[-/.](0[1-9]|1[0-2])[-/.](0[1-9]|[12][0-9]|3[01])"
        rf"|{_DAY}[-/.]{_MONTH}[-/.]{_YEAR}|{_MONTH}/{_DAY}/{_YEAR}"
        r"|(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01]))($|[^0-9])"
        rf"|(?i:\b[0-9]{{1,2}}(st|nd|rd|th|\.)? ?({_MONTHS})[a-z]*\.?,? {_YEAR}\b)"
        rf"|(?i:\b({_MONTHS})[a-z]*\.? [0-9]{{1,2}}(st|nd|rd|th)?,? {_YEAR}\b)"
    ),
    "name": (
        r"\b(Mr|Mrs|Ms|Miss|Mister|Herr|Frau|Monsieur|Madame|Mme|Dr|Prof)\.? [A-Z][a-z'’-]{2,}"
        r"|(?i:\b(patient|surname|first ?name|last ?name|name|nachname|vorname)) ?[:=]"
        r" ?[A-Z][a-z'’-]+"
        r"|[A-Z][A-Za-z'’-]+\^[A-Z][A-Za-z'’-]+"
    ),
    "street address": (
        r"\b[0-9]{1,4} [A-Z][a-z]+ (Street|Avenue|Road|Lane|Drive|Court|Boulevard)\b"
        r"|\b[A-Z][a-zäöü]+(strasse|straße|weg|gasse|platz) [0-9]{1,4}\b"
    ),
}
MASK = "•"


def found_in(texts: pa.Array) -> dict[str, NDArray[np.bool_]]:
    """Return for each kind of identifier in which of the texts one stands.

    Args:
        texts: (texts,) strings without nulls.
    """
    return {
        kind: pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
        for kind, pattern in PATTERNS.items()
    }


def masked(names: Iterable[str]) -> list[str]:
    """Return names of files or codes with whatever looks like an identifier made unreadable.

    >>> masked(["scans/jane@x.org.dcm", "a17.dcm"])
    ['scans/•', 'a17.dcm']
    """
    texts = pa.array(list(names), pa.string())
    for pattern in PATTERNS.values():
        texts = pc.replace_substring_regex(texts, pattern, MASK)
    return [str(text) for text in texts.to_pylist()]
