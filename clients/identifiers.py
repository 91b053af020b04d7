"""What identifiers look like in a text. Obvious ones: finding none proves nothing.

One list for the site check, which looks at names, codes and texts, and for de-identified notes,
where looser patterns are used too: there a number too many is replaced rather than one too few.
The kinds follow HIPAA's Safe Harbor list, 45 CFR 164.514(b)(2), as far as a pattern can tell them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Label = Literal["NAME", "DATE", "PHONE", "ID", "EMAIL", "URL", "ADDRESS", "AGE OVER 89"]

MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|m(?:arch|ärz|ar)|apr(?:il)?|ma[iy]|june?i?|july?i?|"
    r"aug(?:ust)?|sep(?:t(?:ember)?)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\.?"
)
DAY, MONTH_NUMBER, YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:0?[1-9]|1[0-2])", "(?:19|20)[0-9]{2}"
TWO_DIGITS = "(?:0[1-9]|1[0-2]){0}(?:0[1-9]|[12][0-9]|3[01])"
"""A month and a day with something between them."""
NTH = "(?:st|nd|rd|th|[.])?"
WORD = r"[A-ZÄÖÜÉ][\w'’-]+"
TITLE = r"(?:Dr|Mr|Mrs|Ms|Miss|Prof|Herr|Frau|Sister|Nurse)\.?(?:\s+(?:Dr|Prof|med)\.?)*"
LABEL = (
    r"(?i:\b(?:patient(?:'s)? name|name|signed(?: by)?|dictated by|seen by|attending|"
    r"referring physician|next of kin))\s*:?"
)
STREET = "(?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Blvd|Court)"
RECORD = (
    r"(?i:\bmrn|medical record|record n(?:o|umber)|\bpat(?:ient(?:en)?)?[-_ ]?(?:id|no|nr|number)"
    r"|hospital n(?:o|umber)|case n(?:o|umber)|nhs n(?:o|umber)|\bssn|social security|\bahv"
    r"|insurance n(?:o|umber))"
)


@dataclass(frozen=True)
class Pattern:
    """One way in which an identifier is written.

    Attributes:
        label: what stands in its place in a note.
        source: a regular expression that both Python and RE2 take, but for ``<`` (no digit comes
            before) and ``>`` (none after), which they write differently.
        loose: whether codes and file names of records often look alike: for notes alone.
    """

    label: Label
    source: str
    loose: bool = False

    @property
    def python(self) -> re.Pattern[str]:
        """The expression for notes; what it matches is the identifier and no more."""
        return re.compile(self.source.replace("<", "(?<![0-9])").replace(">", "(?![0-9])"))

    @property
    def re2(self) -> str:
        """The expression for columns of text, in linear time; a neighbour may be in the match."""
        return self.source.replace("<", "(?:^|[^0-9])").replace(">", "(?:$|[^0-9])")


PATTERNS = (
    # In this order: what is replaced early cannot be taken for a part of something else.
    Pattern("EMAIL", r"[\w.%+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"),
    Pattern("EMAIL", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", loose=True),
    Pattern("URL", r"(?i:\b(?:https?://|www\.)\S+)", loose=True),
    Pattern("NAME", r"\[\*\*.*?\*\*\]", loose=True),  # as MIMIC marks what was removed there
    Pattern("DATE", r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}[T ]\d{1,2}:\d{2}(?::\d{2})?\b", loose=True),
    Pattern("DATE", f"<{YEAR}[-/.]{TWO_DIGITS.format('[-/.]')}>"),
    Pattern("DATE", f"<(?:{DAY}[-/.]{MONTH_NUMBER}[-/.]|{MONTH_NUMBER}/{DAY}/){YEAR}>"),
    Pattern("DATE", f"<{YEAR}{TWO_DIGITS.format('')}>"),
    Pattern("DATE", rf"(?i:\b[0-9]{{1,2}}{NTH}[ -]?{MONTH},?[ -]{YEAR}\b)"),
    Pattern("DATE", rf"(?i:\b{MONTH}\s+[0-9]{{1,2}}{NTH},?\s+{YEAR}\b)"),
    Pattern("DATE", r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b", loose=True),
    Pattern("DATE", r"\b\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})\b", loose=True),
    Pattern("DATE", rf"(?i:\b\d{{1,2}}{NTH}[ -]{MONTH},?[ -]\d{{2,4}}\b)", loose=True),
    Pattern("DATE", rf"(?i:\b{MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?)\b", loose=True),
    Pattern("DATE", r"\b(?:19|20)\d{6}\b", loose=True),
    Pattern("PHONE", r"\+[0-9]{1,3}[ .-]?\(?[0-9](?:[ ().-]{0,2}[0-9]){7,11}"),
    Pattern("PHONE", r"\+\d[\d ()/.-]{6,}\d|\b0\d{2,4}[ /-]\d{5,}\b", loose=True),
    Pattern("PHONE", r"<\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}>"),
    Pattern(
        "PHONE",
        r"(?i:\b(?:tel|phone|telephone|telefon|mobile|fax)\b[ .:]*)[+(0-9][0-9 ()/.-]{5,}[0-9]",
    ),
    Pattern(
        "PHONE", r"(?i:\b(?:tel|phone|fax|pager|mobile)\b\W{0,3}[\d(][\d ()/.-]{2,}\d)", loose=True
    ),
    Pattern("ID", rf"{RECORD}[ .:#=_-]{{0,4}}[A-Za-z]{{0,3}}[0-9]{{4,}}"),
    Pattern("ID", r"<[0-9]{3}-[0-9]{2}-[0-9]{4}>|756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"),
    Pattern(
        "ID",
        r"(?i:\b(?:mrn|ssn|nhs|patient id|case|accession|account)\W{0,3}(?:no\.?|number|#)?\W{0,3}"
        r"[A-Z]{0,3}\d[\w/-]{3,})",
        loose=True,
    ),
    Pattern("ID", r"\b[A-Z]{1,4}-?\d{5,}\b|\b\d{6,}\b", loose=True),
    Pattern("NAME", rf"\b{TITLE}\s+{WORD}(?:\s+{WORD}){{0,2}}", loose=True),
    Pattern("NAME", rf"{LABEL}\s+{WORD}(?:,?\s+{WORD}){{0,2}}", loose=True),
    Pattern(
        "NAME",
        r"\b(?:Mr|Mrs|Ms|Miss|Mister|Herr|Frau|Monsieur|Madame|Mme|Dr|Prof)\.? [A-Z][a-z'’-]{2,}",
    ),
    Pattern(
        "NAME",
        r"(?i:\b(?:patient|surname|first ?name|last ?name|name|nachname|vorname)) ?[:=]"
        r" ?[A-Z][a-z'’-]+",
    ),
    Pattern("NAME", r"[A-Z][A-Za-z'’-]+\^[A-Z][A-Za-z'’-]+"),
    Pattern("NAME", rf"\b{WORD}(?:,?\s+{WORD}){{0,2}},?\s+(?:M\.?D\.?|RN|DO|PhD)\b", loose=True),
    Pattern(
        "ADDRESS",
        r"\b[0-9]{1,4} [A-Z][a-z]+ (?:Street|Avenue|Road|Lane|Drive|Court|Boulevard)\b"
        r"|\b[A-Z][a-zäöü]+(?:strasse|straße|weg|gasse|platz) [0-9]{1,4}\b",
    ),
    Pattern("ADDRESS", rf"\b\d{{1,5}}\s+{WORD}(?:\s+{WORD})?\s+{STREET}\b\.?", loose=True),
    Pattern(
        "ADDRESS",
        rf"\b{WORD}(?:straße|strasse|str\.|weg|platz|gasse)\s+\d{{1,4}}\w?\b",
        loose=True,
    ),
    Pattern(
        "AGE OVER 89",
        r"(?i:\b(?:9\d|1[0-2]\d)(?=[ -]?(?:years?|yrs?|y/?o|jahre|jährig)))",
        loose=True,
    ),
)


def certain(label: Label) -> str:
    """Return one expression for RE2 of all that is certainly an identifier of a kind."""
    return "|".join(pattern.re2 for pattern in _certain(label))


def _certain(label: Label) -> Iterator[Pattern]:
    return (one for one in PATTERNS if one.label == label and not one.loose)
