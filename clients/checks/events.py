"""Findings on the events as a whole: their times, and people or rows that stand there twice."""

from __future__ import annotations

from collections.abc import Iterator

from clients.checks.finding import Finding, named, plural
from clients.checks.scan import Scan
from clients.sources.schema import Told


def event_findings(scan: Scan, told: Told) -> Iterator[Finding]:
    """Report times that cannot be, duplicates, and what of the export became no event."""
    for reason, count in told.rows.most_common():
        yield Finding(
            "warning" if count > 0.01 * scan.events else "note",
            "events",
            "data.events",
            f"{plural(count, 'row')} of the export became no event: {reason}",
            "Right if they are not meant; otherwise correct the export or the mapping.",
        )
    if not scan.events:
        yield Finding(
            "blocker", "events", "data.events", "there is no event", "Check data.events.path."
        )
        return
    yield from _times(scan)
    if scan.alike:
        yield Finding(
            "warning",
            "patients",
            "subject_id",
            f"{plural(sum(scan.alike), 'patient')} in {plural(len(scan.alike), 'group')} have the "
            "very same timed events: one person under several identifiers?",
            "Give each person one subject_id: a split or a privacy budget counts them apart.",
        )
    if scan.repeated > 0.001 * scan.events:
        yield Finding(
            "note",
            "events",
            "data.events",
            f"at least {plural(scan.repeated, 'event')} ({scan.repeated / scan.events:.1%}) repeat "
            "an earlier one: same patient, time, code and value",
            "Look for a join in the export that doubles rows; counts of codes are features.",
        )


def _times(scan: Scan) -> Iterator[Finding]:
    if scan.future:
        yield Finding(
            "note" if scan.future > 0.5 * scan.events else "warning",
            "events",
            "time",
            f"{plural(scan.future, 'event')} lie in the future",
            "Right if dates were shifted to protect patients; otherwise check how the export "
            "writes times.",
        )
    if scan.before_birth:
        yield Finding(
            "warning",
            "events",
            "time",
            f"{plural(scan.before_birth, 'patient')} have events over a day before their birth",
            "Check births and times: ages are computed from them.",
        )
    if scan.after_death:
        yield Finding(
            "note",
            "events",
            "time",
            f"{plural(scan.after_death, 'patient')} have events over a day after their death",
            "Late results are usual; more than those points to wrong times.",
        )
    without = len(scan.subjects) - scan.born
    if without:
        yield Finding(
            "warning" if 0.1 * len(scan.subjects) < without < len(scan.subjects) else "note",
            "events",
            "MEDS_BIRTH",
            f"{plural(without, 'patient')} have no birth, so no age",
            "Add a MEDS_BIRTH event for each patient; the year is enough.",
        )
    many = [
        code
        for code, count, patients in zip(
            scan.codes, scan.counts.tolist(), scan.patients.tolist(), strict=True
        )
        if code in ("MEDS_BIRTH", "MEDS_DEATH") and count > patients
    ]
    if many:
        yield Finding(
            "warning",
            "events",
            named(many),
            "some patients have several",
            "Several people under one subject_id? Keep one of these events for each patient.",
        )
