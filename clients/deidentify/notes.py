"""Notes with obvious identifiers replaced: what patterns and known names can find, and no more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from clients.identifiers import PATTERNS, Label

COMPILED = tuple((pattern.label, pattern.python) for pattern in PATTERNS)


def without_identifiers(text: str, known: Collection[str] = ()) -> tuple[str, Counter[Label]]:
    """Replace dates, numbers, addresses and names by what they are.

    Known words are found wherever they stand; other names only after a title, a label or before a
    degree. What neither covers stays: a person must look before a copy leaves the hospital.

    Args:
        text: one note.
        known: words that name the patient, in lower case.

    Returns:
        The note, and what was replaced, counted.

    >>> without_identifiers("Seen on 3/4/2024 by Dr. Jane Roe. Doe is well.", {"doe"})[0]
    'Seen on [DATE] by [NAME]. [NAME] is well.'
    """
    done: Counter[Label] = Counter()
    for label, pattern in COMPILED:
        text, replaced = pattern.subn(f"[{label}]", text)
        done[label] += replaced
    if known:
        words = "|".join(re.escape(word) for word in sorted(known, key=len, reverse=True))
        text, replaced = re.subn(rf"(?i)(?<!\w)(?:{words})(?!\w)", "[NAME]", text)
        done["NAME"] += replaced
    return text, +done
