"""Identifiers where none belong: in codes, texts, notes, names of files. Counted, never shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from clients.checks.finding import Finding, named, plural
from clients.checks.patterns import found_in
from clients.checks.scan import Scan
from clients.checks.textscan import DIGITS, IMAGE, NOTE

MOST_ALONE = 0.98
FEWEST_CODES = 30


def identifier_findings(scan: Scan, notes_used: bool) -> Iterator[Finding]:
    """Report what looks like an identifier.

    Args:
        scan: of the site's events.
        notes_used: whether the site offers its notes, so that a model may read them.
    """
    yield from _in_codes(scan)
    yield from _in_texts(scan, notes_used)
    if scan.texts.files:
        yield Finding(
            "note",
            "identifiers",
            "text_value of IMAGE// events",
            f"{plural(scan.texts.files, 'name')} of image files hold their patient's subject_id",
            "They stay at the site, also in its log. Name the files anew if others see the log.",
        )


def _in_codes(scan: Scan) -> Iterator[Finding]:
    families: dict[str, set[str]] = defaultdict(set)
    codes = pa.array(scan.codes, pa.string())
    for kind, where in found_in(codes).items():
        for code in codes.filter(pa.array(where)).to_pylist():
            families[_family(code)].add(kind)
    for place in np.flatnonzero(scan.patients == 1):
        own, code = int(scan.subjects[scan.holder[place]]), scan.codes[place]
        if own in map(int, DIGITS.findall(code)):
            families[_family(code)].add("subject_id of its patient")
    for family, kinds in sorted(families.items()):
        yield Finding(
            "warning",
            "identifiers",
            f"codes {family}",
            f"a code holds what looks like a {' or '.join(sorted(kinds))}",
            "A code must say what happened, not to whom. Take it out of the codes in the export.",
        )
    for family, count in _of_one_patient_each(scan):
        if family not in families:
            yield Finding(
                "warning",
                "identifiers",
                f"codes {family}",
                f"{plural(count, 'code')}, nearly each of one patient alone: names, numbers or "
                "free text may stand in the place of codes",
                "Look at them. Put free text into text_value, and leave identifiers out.",
            )


def _of_one_patient_each(scan: Scan) -> Iterator[tuple[str, int]]:
    alone: dict[str, list[bool]] = defaultdict(list)
    for code, patients in zip(scan.codes, scan.patients.tolist(), strict=True):
        if "//" in code:
            alone[_family(code)].append(patients == 1)
    for family, singles in sorted(alone.items()):
        many = len(singles) >= FEWEST_CODES and len(singles) > 0.2 * len(scan.subjects)
        if many and np.mean(singles) >= MOST_ALONE:
            yield family, len(singles)


def _in_texts(scan: Scan, notes_used: bool) -> Iterator[Finding]:
    by_place: dict[str, Mapping[str, int]] = {
        "notes": _kinds(scan, lambda code: code.startswith(NOTE)),
        "names of image files": _kinds(scan, lambda code: code.startswith(IMAGE)),
        "text_value of other events": _kinds(scan, lambda code: not code.startswith((NOTE, IMAGE))),
    }
    for place, kinds in by_place.items():
        if kinds:
            yield text_finding(place, kinds, used=place == "notes" and notes_used)


def text_finding(place: str, kinds: Mapping[str, int], used: bool) -> Finding:
    """Return what to say of identifiers in texts: how many of each kind, and who reads them."""
    return Finding(
        "warning" if used else "note",
        "identifiers",
        place,
        "what looks like identifiers, by events: "
        + named((f"{kind} {count:,}" for kind, count in kinds.items()), 8),
        "A model that reads the notes may learn them: `wardround site deidentify` writes copies "
        "without."
        if used
        else "Training reads none of it and nothing of it leaves. Leave it out of the export "
        "where it is not needed.",
    )


def _kinds(scan: Scan, chosen: Callable[[str], bool]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for (kind, code), count in scan.texts.found.items():
        if chosen(code):
            counts[kind] += count
    return dict(counts)


def _family(code: str) -> str:
    """Return a code's first piece, by which a family can be named without showing a code."""
    first = code.partition("//")[0]
    return f"{first}//..." if "//" in code else "without //"
