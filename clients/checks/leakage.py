"""Features that know too much: a code that alone tells the label, or came with the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clients.checks.finding import Finding, named, plural
from clients.checks.scan import Scan
from clients.checks.signals import Signal
from federation.vocabulary import NOT_FEATURES

ALMOST_PERFECT = 0.98
TELLING = 0.75
AT_ONCE = 0.9
"""Share of a code's events at the prediction time itself from which it counts as recorded then."""


def leakage_findings(found: Sequence[Signal], scan: Scan, minimum_cell: int) -> Iterator[Finding]:
    """Report codes that a person should explain before a model learns from them.

    Args:
        found: the codes of the labelled patients up to their prediction times.
        scan: all events of the site.
        minimum_cell: codes of fewer patients are counted, not named.
    """
    codes = [one for one in found if not one.code.startswith(NOT_FEATURES)]
    for one in sorted(codes, key=lambda s: -s.strongest):
        if one.strongest >= ALMOST_PERFECT:
            by_value = one.value is not None and max(one.value, 1 - one.value) == one.strongest
            which = "its last value" if by_value else "having it or not"
            yield Finding(
                "warning",
                "leakage",
                one.code,
                f"{which} alone tells the label almost perfectly (AUROC {one.strongest:.3f}, "
                f"{plural(one.holders, 'patient')})",
                "Ask when it becomes known in practice. If it follows from the outcome, give it "
                "its true, later time, or leave it out of the export.",
            )
    yield from _at_once(codes)
    yield from _only_later(found, scan, minimum_cell)


def _at_once(codes: Sequence[Signal]) -> Iterator[Finding]:
    timed = [one for one in codes if one.timed]
    at_once = [one for one in timed if one.at_prediction >= AT_ONCE and one.holders >= 5]
    events = sum(one.timed for one in timed)
    if sum(one.timed * one.at_prediction for one in timed) > 0.8 * max(events, 1):
        yield Finding(
            "note",
            "leakage",
            "time",
            "nearly all events are at the prediction time itself, as in a table of one row each",
            "Make sure that each column was known then.",
        )
        return
    telling = [one for one in at_once if one.strongest >= TELLING]
    if telling:
        yield Finding(
            "warning",
            "leakage",
            named(one.code for one in telling),
            "recorded at the prediction time itself and hardly ever before, and they tell much of "
            f"the label (AUROC from {min(one.strongest for one in telling):.2f})",
            "An event at the prediction time is used. If these came with the outcome, give them a "
            "later time.",
        )
    quiet = [one for one in at_once if one not in telling]
    if quiet:
        yield Finding(
            "note",
            "leakage",
            named(one.code for one in quiet),
            "recorded at the prediction time itself and hardly ever before",
            "An event at the prediction time is used: make sure that these are known by then.",
        )


def _only_later(found: Sequence[Signal], scan: Scan, minimum_cell: int) -> Iterator[Finding]:
    used = {one.code for one in found}
    later = [
        (int(patients), code)
        for code, patients in zip(scan.codes, scan.patients, strict=True)
        if code not in used and not code.startswith(NOT_FEATURES)
    ]
    shown = [code for patients, code in sorted(later, reverse=True) if patients >= minimum_cell]
    if later:
        yield Finding(
            "note",
            "leakage",
            named(shown) or "codes",
            f"{plural(len(later), 'code')} occur only after the prediction times, or only of "
            "patients without a label: no model sees them",
            "Right for what follows from the outcome; otherwise check the times of these events.",
        )
