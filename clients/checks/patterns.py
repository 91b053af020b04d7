"""Identifiers in columns of text: whether there are some, and names without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.identifiers import Label, certain

KINDS: Mapping[str, Label] = {
    "e-mail address": "EMAIL",
    "telephone number": "PHONE",
    "record number": "ID",
    "date": "DATE",
    "name": "NAME",
    "street address": "ADDRESS",
}
PATTERNS: Mapping[str, str] = {kind: certain(label) for kind, label in KINDS.items()}
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
