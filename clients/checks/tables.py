"""The check in rows: for the page, and its first lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clients.checks.check import Check
from clients.checks.finding import SEVERITIES, plural
from clients.checks.images import ImageFiles
from clients.checks.scan import Scan
from clients.checks.signals import Signal
from clients.cohort import SPLITS, Patients
from federation.pages.elements import Table, Td

MOST_ROWS = 40
LOOKS = {"blocker": "blocker", "warning": "warning", "note": "note-head"}


def overview(check: Check) -> Iterator[tuple[str, str]]:
    """Yield what is where, in a few lines."""
    evidence = check.evidence
    yield "site", check.site + (f", for the study {check.study}" if check.study else "")
    if scan := evidence.scan:
        span = f", {scan.span[0]:%Y-%m-%d} to {scan.span[1]:%Y-%m-%d}" if scan.span else ""
        yield (
            "events",
            f"{scan.events:,} of {plural(len(scan.subjects), 'subject')}, "
            f"{plural(len(scan.codes), 'code')}{span}",
        )
    if patients := evidence.patients:
        splits = ", ".join(f"{name} {len(patients.splits[name]):,}" for name in SPLITS)
        yield (
            "patients",
            f"{len(patients):,} with a label, {patients.labels.mean():.1%} positive; {splits}",
        )
        for what in ("classes", "labels", "events", "censored"):
            if what in evidence.outcomes:
                yield what, _told(evidence.outcomes[what])
        for name, one in evidence.outcomes.get("tasks", {}).items():
            counts = {key: told for key, told in one.items() if key not in ("label", "known")}
            told = "; ".join(f"{key}: {_told(value)}" for key, value in counts.items())
            yield f"task {name}", f"{one['known']:,} with a label of {one['label']}; {told}"
    if evidence.present:
        yield "modalities", ", ".join(f"{name} {n:,}" for name, n in evidence.present.items())
    counted = [sum(one.severity == name for one in check.findings) for name in SEVERITIES]
    yield "found", ", ".join(plural(n, name) for n, name in zip(counted, SEVERITIES, strict=True))


def _told(counted: Any) -> str:
    """Counts by outcome, as text."""
    if not isinstance(counted, Mapping):
        return f"{counted:,}"
    return ", ".join(
        f"{name} {one['positives']:,} of {one['known']:,}"
        if isinstance(one, Mapping)
        else f"{name} {one:,}"
        for name, one in counted.items()
    )


def findings_table(check: Check) -> Table:
    """Every finding, blockers first."""
    rows = [
        [
            Td(one.severity, one.topic, LOOKS[one.severity]),
            Td(one.where, look="text"),
            Td(one.what, look="text"),
            Td(one.remedy, look="text"),
        ]
        for one in check.findings
    ]
    return Table("Findings", ["", "Where", "What was found", "What to do"], rows)


def splits_table(patients: Patients) -> Table:
    """Patients and outcomes by split."""
    rows = []
    for name in SPLITS:
        labels = patients.labels[patients.splits[name]]
        rows.append([Td(name), *_counted(len(labels), int(labels.sum()))])
    rows.append([Td("all"), *_counted(len(patients), int(patients.labels.sum()))])
    return Table("Patients by split", ["Split", "Patients", "With the outcome", "Share"], rows)


def subgroups_table(patients: Patients) -> Table:
    """Patients and outcomes by level of each attribute of ``data.subgroups``."""
    rows = []
    for attribute, levels in patients.subgroups.items():
        for level in sorted(set(levels.tolist())):
            labels = patients.labels[levels == level]
            rows.append([Td(f"{attribute}: {level}"), *_counted(len(labels), int(labels.sum()))])
    return Table(
        "Patients by subgroup", ["Subgroup", "Patients", "With the outcome", "Share"], rows
    )


def codes_table(scan: Scan, minimum_cell: int) -> Table:
    """The commonest codes, by patients; none of fewer than ``minimum_cell``."""
    order = sorted(range(len(scan.codes)), key=lambda i: (-int(scan.patients[i]), scan.codes[i]))
    common = [i for i in order if scan.patients[i] >= minimum_cell]
    rows = [
        [
            Td(scan.codes[i]),
            Td(f"{scan.patients[i]:,}"),
            Td(f"{scan.counts[i]:,}"),
            Td(f"{scan.valued[i]:,}"),
        ]
        for i in common[:MOST_ROWS]
    ]
    rest = len(scan.codes) - len(rows)
    return Table(
        "Codes",
        ["Code", "Patients", "Events", "With a value"],
        rows,
        f"{plural(rest, 'further code')} not shown: rarer ones, and those of fewer than "
        f"{minimum_cell} patients." if rest else "",
    )  # fmt: skip


def signals_table(codes: tuple[Signal, ...], minimum_cell: int) -> Table:
    """The codes that alone tell most of the label."""
    known = [one for one in codes if one.holders >= minimum_cell and one.strongest > 0.5]
    rows = [
        [
            Td(one.code),
            Td(f"{one.holders:,}"),
            Td(f"{one.positives / one.holders:.1%}"),
            _auroc(one.present),
            _auroc(one.value),
            Td(f"{one.at_prediction:.0%}" if one.timed else "–"),
        ]
        for one in sorted(known, key=lambda one: -one.strongest)[:15]
    ]
    return Table(
        "Codes that alone tell most of the label",
        [
            "Code",
            "Patients",
            "With the outcome",
            "AUROC of having it",
            "AUROC of its last value",
            "At the prediction time",
        ],
        rows,
        "An AUROC near 0 tells as much as one near 1.",
    )


def images_table(found: ImageFiles) -> Table:
    """Image files by modality and by size."""
    rows = [[Td(f"Modality {name}"), Td(f"{n:,}")] for name, n in found.modalities.most_common()]
    shapes = found.shapes.most_common(8)
    rows += [[Td(f"{height} x {width} pixels"), Td(f"{n:,}")] for (height, width), n in shapes]
    rows += [[Td("Cannot be read"), Td(f"{len(found.unreadable):,}")]]
    opened = plural(found.opened, "file")
    return Table(f"Image files: {opened} opened of {found.files:,}", ["", "Files"], rows)


def steps_table(check: Check) -> Table:
    """What the site would answer to the study's messages."""
    rows = [
        [Td(one.kind), Td(one.status, look="text"), Td(f"{one.seconds:.1f}")]
        for one in check.evidence.steps
    ]
    return Table(
        "One round of the study, rehearsed",
        ["Message", "Answer", "Seconds"],
        rows,
        "By the deployed code, on a copy of the privacy ledger. Nothing was sent or spent.",
    )


def _counted(count: int, positives: int) -> list[Td]:
    share = f"{positives / count:.1%}" if count else "–"
    return [Td(f"{count:,}"), Td(f"{positives:,}"), Td(share)]


def _auroc(value: float | None) -> Td:
    return Td("–" if value is None else f"{value:.3f}")
