"""The study's codes against the site's, and what stands ready to be read as what."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from clients.checks.finding import Finding, named, plural
from clients.checks.signals import Signal
from federation.modalities import EhrSection
from federation.validation import nearest
from federation.vocabulary import AGE, NOT_FEATURES, agreed_vocabulary


@dataclass(frozen=True)
class Coverage:
    """How far the study's codes and the site's are the same.

    Attributes:
        wanted: patients who have each code that the study names, 0 for those that nobody has.
        alike: a code of the site that is written much like a missing one.
        used: the site's codes of features, and how many of them the study's vocabulary takes up.
    """

    wanted: Mapping[str, int]
    alike: Mapping[str, str]
    used: tuple[int, int]


def covered(section: EhrSection, found: Sequence[Signal]) -> Coverage:
    """Compare the study's vocabulary with the codes of the site's patients."""
    holders = {one.code: one.holders for one in found if not one.code.startswith(NOT_FEATURES)}
    listed = dict.fromkeys([*section.reference_ranges, *section.codes])
    wanted = {code: holders.get(code, 0) for code in listed}
    spare = [code for code in holders if code not in wanted]
    missing = [code for code, count in wanted.items() if not count]
    alike = {code: other for code in missing if (other := _like(code, spare))}
    used = len(holders)
    if section.vocabulary != "prepared":
        vocabulary = agreed_vocabulary(section)
        used = sum(bool(vocabulary.places_of(code)[0]) for code in holders)
    return Coverage(wanted, alike, (used, len(holders)))


def coverage_findings(coverage: Coverage, section: EhrSection, patients: int) -> Iterator[Finding]:
    """Report codes that the study names and nobody here has."""
    missing = [code for code, count in coverage.wanted.items() if not count]
    if missing:
        nothing = len(missing) == len(coverage.wanted) and section.vocabulary == "listed"
        hints = [f'"{theirs}" for "{code}"' for code, theirs in coverage.alike.items()]
        yield Finding(
            "blocker" if nothing else "warning",
            "codes",
            named(missing),
            f"of {plural(len(coverage.wanted), 'code')} that the study names, {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} of no patient here",
            f"The site may write {named(hints)}: rename its codes in the export."
            if hints
            else "Check how the site writes them; what it does not record can stay missing.",
        )
    rare = [code for code, count in coverage.wanted.items() if 0 < count < 0.05 * patients]
    if rare:
        yield Finding(
            "note",
            "codes",
            named(rare),
            "less than 5% of the patients have these codes of the study",
            "Check whether the site records them under further codes too.",
        )
    used, all_codes = coverage.used
    if section.vocabulary == "listed" and used < all_codes:
        yield Finding(
            "note",
            "codes",
            "modalities.ehr.vocabulary",
            f"the study uses {used:,} of the site's {plural(all_codes, 'code')}; it ignores the "
            "others",
            "Nothing, if that is what the study means.",
        )


def _like(code: str, others: Iterable[str]) -> str | None:
    """Return the code written most like one: in other letters, another family, or misspelt."""
    listed = list(others)
    plain = {_plain(other): other for other in listed}
    if _plain(code) in plain:
        return plain[_plain(code)]
    last = _plain(code.rpartition("//")[2])
    same = [other for other in listed if _plain(other.rpartition("//")[2]) == last]
    if len(last) > 2 and len(same) == 1:
        return same[0]
    family = code.partition("//")[0]
    guess = nearest(code, (other for other in listed if other.partition("//")[0] == family))
    return guess if guess and guess != AGE and _near(code, guess) else None


def _plain(code: str) -> str:
    return "".join(x for x in code.lower() if x.isalnum())


def _near(code: str, guess: str) -> bool:
    return difflib.SequenceMatcher(None, code, guess).ratio() > 0.85
