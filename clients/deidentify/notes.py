"""Notes with obvious identifiers replaced: what patterns and known names can find, and no more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import Literal

Kind = Literal["NAME", "DATE", "PHONE", "ID", "EMAIL", "URL", "ADDRESS", "AGE OVER 89"]

MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|m(?:arch|ärz|ar)|apr(?:il)?|ma[iy]|june?i?|july?i?|"
    r"aug(?:ust)?|sep(?:t(?:ember)?)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\.?"
)
WORD = r"[A-ZÄÖÜÉ][\w'’-]+"
TITLE = r"(?:Dr|Mr|Mrs|Ms|Miss|Prof|Herr|Frau|Sister|Nurse)\.?(?:\s+(?:Dr|Prof|med)\.?)*"
LABEL = (
    r"(?i:\b(?:patient(?:'s)? name|name|signed(?: by)?|dictated by|seen by|attending|"
    r"referring physician|next of kin))\s*:?"
)
NUMBERED = (
    r"(?i)\b(?:mrn|ssn|nhs|patient id|case|accession|account)\W{0,3}(?:no\.?|number|#)?\W{0,3}"
    r"[A-Z]{0,3}\d[\w/-]{3,}"
)
STREET = r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Blvd|Court)"
SOURCES: tuple[tuple[Kind, str], ...] = (
    # In this order: what is replaced early cannot be taken for a part of something else.
    ("EMAIL", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("URL", r"(?i)\b(?:https?://|www\.)\S+"),
    ("NAME", r"\[\*\*.*?\*\*\]"),  # as MIMIC marks what was removed there
    ("DATE", r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2})?)?\b"),
    ("DATE", r"\b\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})\b"),
    ("DATE", rf"(?i)\b\d{{1,2}}(?:st|nd|rd|th|\.)?[ -]{MONTH},?[ -]\d{{2,4}}\b"),
    ("DATE", rf"(?i)\b{MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b"),
    ("DATE", r"\b(?:19|20)\d{6}\b"),
    ("PHONE", r"\+\d[\d ()/.-]{6,}\d|\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b|\b0\d{2,4}[ /-]\d{5,}\b"),
    ("PHONE", r"(?i)\b(?:tel|phone|fax|pager|mobile)\b\W{0,3}[\d(][\d ()/.-]{2,}\d"),
    ("ID", r"\b\d{3}-\d{2}-\d{4}\b"),
    ("ID", NUMBERED),
    ("ID", r"\b(?=\w*\d)[A-Z]{1,4}-?\d{5,}\b|\b\d{6,}\b"),
    ("NAME", rf"\b{TITLE}\s+{WORD}(?:\s+{WORD}){{0,2}}"),
    ("NAME", rf"{LABEL}\s+{WORD}(?:,?\s+{WORD}){{0,2}}"),
    ("NAME", rf"\b{WORD}(?:,?\s+{WORD}){{0,2}},?\s+(?:M\.?D\.?|RN|DO|PhD)\b"),
    ("ADDRESS", rf"\b\d{{1,5}}\s+{WORD}(?:\s+{WORD})?\s+{STREET}\b\.?"),
    ("ADDRESS", rf"\b{WORD}(?:straße|strasse|str\.|weg|platz|gasse)\s+\d{{1,4}}\w?\b"),
    ("AGE OVER 89", r"(?i)\b(?:9\d|1[0-2]\d)(?=[ -]?(?:years?|yrs?|y/?o|jahre|jährig))"),
)
PATTERNS = tuple((kind, re.compile(source)) for kind, source in SOURCES)


def without_identifiers(text: str, known: Collection[str] = ()) -> tuple[str, Counter[Kind]]:
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
    done: Counter[Kind] = Counter()
    for kind, pattern in PATTERNS:
        text, replaced = pattern.subn(f"[{kind}]", text)
        done[kind] += replaced
    if known:
        words = "|".join(re.escape(word) for word in sorted(known, key=len, reverse=True))
        text, replaced = re.subn(rf"(?i)(?<!\w)(?:{words})(?!\w)", "[NAME]", text)
        done["NAME"] += replaced
    return text, +done
