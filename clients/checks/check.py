"""The check of a site, from its file to the findings: what `wardround site check` shows."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.checks.coverage import Coverage, coverage_findings, covered
from clients.checks.events import event_findings
from clients.checks.finding import Finding, ordered, verdict
from clients.checks.identifiers import identifier_findings
from clients.checks.images import ImageFiles, image_findings, look_at_images
from clients.checks.labels import label_findings, outcome_findings
from clients.checks.leakage import leakage_findings
from clients.checks.linked import linked_findings
from clients.checks.patterns import masked
from clients.checks.rehearsal import RehearsalBench, Step, rehearse
from clients.checks.scan import Scan, scan_events
from clients.checks.signals import Signal, signals
from clients.checks.state import blocked, state_findings
from clients.checks.study import modality_findings, offered, study_findings
from clients.checks.values import Ranged, cluster_findings, ranged_values, value_findings
from clients.checks.volumes import volume_counts
from clients.cohort import Patients
from clients.site import Site, load_site
from clients.sources.registry import site_events
from clients.sources.schema import Told
from federation.errors import UserError
from federation.study import Study

Tell = Callable[[str], None]


@dataclass
class Evidence:
    """What was looked at, for whoever shows the findings; None where it could not be.

    Attributes:
        scan: of all events.
        patients: of the task, with labels that say whether they have the outcome, or any of them.
        outcomes: what the task tells of the labels themselves.
        codes: what each code says of the label.
        coverage: of the study's vocabulary.
        values: beside the study's reference ranges.
        images: files of the image folder.
        present: patients with each modality of the study, or of those that the site offers.
        steps: of the rehearsed round.
    """

    scan: Scan | None = None
    patients: Patients | None = None
    outcomes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    codes: tuple[Signal, ...] = ()
    coverage: Coverage | None = None
    values: tuple[Ranged, ...] = ()
    images: ImageFiles | None = None
    present: dict[str, int] = dataclasses.field(default_factory=dict)
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Check:
    """A site's check. It stays at the site.

    Attributes:
        file: the site file.
        site: the site's name; of a site file that cannot be read, its folder's.
        study: name of the study that it was checked against, if any.
        findings: blockers first.
        evidence: what they rest on.
        minimum_cell: of the site; codes of fewer patients are not named.
    """

    file: Path
    site: str
    study: str | None
    findings: tuple[Finding, ...]
    evidence: Evidence
    minimum_cell: int

    @property
    def verdict(self) -> str:
        """READY, or BLOCKED with what to fix, in one line."""
        return verdict(self.findings)

    @property
    def ready(self) -> bool:
        """Whether no finding is a blocker."""
        return self.verdict == "READY"

    def to_json(self) -> dict[str, Any]:
        """Return verdict, findings and counts as plain values."""
        return {
            "schema": "wardround.check/1",
            "site": self.site,
            "study": self.study,
            "verdict": "READY" if self.ready else "BLOCKED",
            "findings": [one.to_json() for one in self.findings],
            "counts": counts(self.evidence),
        }


def check_site(path: Path, study: Study | None, tell: Tell) -> Check:
    """Check a site's data, and with a study whether it can take part in it.

    Reads everything, sends nothing and spends nothing: a study's round is rehearsed on a copy of
    the privacy ledger. A mistake in the site's files is a finding, and what does not depend on it
    is checked all the same.

    Args:
        path: the site's folder or its ``site.toml``.
        study: what to check against; None for what any study would need.
        tell: gets a line for each step.

    Raises:
        UserError: if there is no site file at all.
    """
    name, evidence = path.resolve().name, Evidence()
    file = path / "site.toml" if path.is_dir() else path
    try:
        site = load_site(path)
    except UserError as error:
        if not file.is_file():
            raise
        told = study.study.name if study else None
        return Check(file, name, told, (blocked(error, "site"),), evidence, 1)
    minimum = site.policy.minimum_cell
    findings = [_masked(one) for one in _findings(site, study, evidence, tell)]
    return Check(
        site.file,
        site.name,
        study.study.name if study else None,
        ordered(dict.fromkeys(findings)),
        evidence,
        minimum,
    )


def _findings(site: Site, study: Study | None, evidence: Evidence, tell: Tell) -> Iterator[Finding]:
    yield from state_findings(site)
    tell("events: reading all of them")
    told = Told()
    try:
        scan = evidence.scan = scan_events(site_events(site, told=told))
    except UserError as error:
        yield blocked(error, "events")
        return
    yield from event_findings(scan, told)
    yield from identifier_findings(scan, notes_used=site.offers("text"))
    if site.images is not None and (section := site.settings.data.images) is not None:
        tell("images: opening files")
        evidence.images = look_at_images(site.images, section.format, section.view)
        yield from image_findings(evidence.images)
    with tempfile.TemporaryDirectory() as scratch:
        bench = RehearsalBench(Path(scratch))
        yield from _of_patients(site, study, scan, bench, evidence, tell)


def _of_patients(
    site: Site,
    study: Study | None,
    scan: Scan,
    bench: RehearsalBench,
    evidence: Evidence,
    tell: Tell,
) -> Iterator[Finding]:
    asked = study or _any_study(site)
    tell("patients: labels, splits, events before the prediction time")
    try:
        read = bench.patients(str(site.file), asked)
    except UserError as error:
        yield blocked(error, "labels")
        yield from cluster_findings(scan, set())
        return
    evidence.outcomes = asked.task.describe(read.labels)
    yield from outcome_findings(evidence.outcomes, "data.labels")
    happened = asked.task.happened(read.labels)
    patients = evidence.patients = dataclasses.replace(read, labels=happened)
    yield from label_findings(patients, site.policy, "data.labels")
    yield from linked_findings(patients, site)
    found = signals(patients)
    evidence.codes = tuple(found)
    yield from leakage_findings(found, scan, site.policy.minimum_cell)
    section = None if study is None else study.modalities.ehr
    if section is not None:
        evidence.coverage = covered(section, found)
        yield from coverage_findings(evidence.coverage, section, len(patients))
        evidence.values = tuple(ranged_values(patients.events, section.reference_ranges))
        yield from value_findings(evidence.values)
    yield from cluster_findings(scan, {one.code for one in evidence.values})
    if study is None:
        evidence.present = offered(patients, site)
        yield from modality_findings(evidence.present, {}, len(patients))
        return
    tell("study: one round, on a copy of the ledger")
    evidence.steps = tuple(rehearse(study, site.file, bench))
    yield from study_findings(evidence.steps, study, site)
    if (cohort := bench.seen) is not None:
        tensors = cohort.modalities
        evidence.present = {name: int(one.present.sum()) for name, one in tensors.items()}
        yield from modality_findings(evidence.present, cohort.unusable, len(patients))


def _any_study(site: Site) -> Study:
    """Return a study of the site's label with the usual splits, by which the patients are read."""
    return Study.model_validate(
        {
            "study": {"name": "any"},
            "task": {"label": _first_label(site)},
            "modalities": {"ehr": {}},
        }
    )


def _first_label(site: Site) -> str:
    data = site.settings.data
    return next(iter(data.labels)) if isinstance(data.labels, dict) else data.label or "label"


def _masked(finding: Finding) -> Finding:
    """Hide what looks like an identifier in the name of a file or a code."""
    (where,) = masked([finding.where])
    return dataclasses.replace(finding, where=where)


def counts(evidence: Evidence) -> dict[str, Any]:
    """Return the numbers of a check that a program may want."""
    told: dict[str, Any] = {}
    if scan := evidence.scan:
        told |= {
            "events": scan.events,
            "subjects": len(scan.subjects),
            "codes": len(scan.codes),
            "first": scan.span[0].isoformat() if scan.span else None,
            "last": scan.span[1].isoformat() if scan.span else None,
        }
    if patients := evidence.patients:
        told |= {
            "patients": len(patients),
            **evidence.outcomes,
            "splits": {name: len(rows) for name, rows in patients.splits.items()},
            "excluded": dict(patients.excluded),
            "notices": dict(patients.notices),
        }
    if evidence.coverage:
        told["codes of the study"] = dict(evidence.coverage.wanted)
    if evidence.present:
        told["modalities"] = evidence.present
    if evidence.images:
        told["image files"] = evidence.images.files
        if evidence.images.volumes:
            told["volumes"] = volume_counts(evidence.images.volumes)
    if evidence.steps:
        told["seconds"] = {one.kind: round(one.seconds, 3) for one in evidence.steps}
    return told
