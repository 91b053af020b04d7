"""The page of a check: one HTML file for the people at the site. It never leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clients.checks import figures, tables
from clients.checks.check import Check
from clients.checks.finding import SEVERITIES, plural
from clients.site import load_site
from federation.errors import UserError
from federation.pages.elements import Fact, Figure, Table
from federation.pages.render import render as from_template

HERE = Path(__file__).parent
PAGE = "check.html"


def write_page(check: Check, out: Path | None) -> Path:
    """Write the page and return where it is.

    Args:
        check: of a site.
        out: the file; None for ``check.html`` in the site's state folder.

    Raises:
        UserError: if it cannot be written.
    """
    target = out or _state(check) / PAGE
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}")
        draft.write_text(render(check), encoding="utf-8")
        draft.chmod(0o600)
        draft.replace(target)
    except OSError as error:
        raise UserError(
            target, f"cannot be written: {error.strerror}", remedy="Give --out another file."
        ) from None
    return target


def render(check: Check) -> str:
    """The page as text."""
    return from_template(
        HERE / "check.html.jinja",
        title=check.site,
        study=check.study,
        verdict=check.verdict,
        ready=check.ready,
        facts=list(facts(check)),
        findings=tables.findings_table(check),
        figures={figure.name: figure for figure in _figures(check)},
        tables=dict(_tables(check)),
    )


def facts(check: Check) -> Iterator[Fact]:
    """The first screen: verdict, patients, events, findings."""
    counted = [sum(one.severity == name for one in check.findings) for name in SEVERITIES]
    told = ", ".join(plural(n, name) for n, name in zip(counted, SEVERITIES, strict=True))
    yield Fact("Verdict", "READY" if check.ready else "BLOCKED", told)
    if patients := check.evidence.patients:
        left_out = sum(patients.excluded.values())
        yield Fact(
            "Patients with a label",
            f"{len(patients):,}",
            f"{patients.labels.mean():.1%} with the outcome; {left_out:,} left out",
        )
    if scan := check.evidence.scan:
        span = f"{scan.span[0]:%Y-%m-%d} to {scan.span[1]:%Y-%m-%d}" if scan.span else "no times"
        yield Fact("Events", f"{scan.events:,}", f"{plural(len(scan.codes), 'code')}; {span}")
        yield Fact("Subjects", f"{len(scan.subjects):,}", "with any event, labelled or not")


def _figures(check: Check) -> Iterator[Figure]:
    evidence = check.evidence
    scan, patients = evidence.scan, evidence.patients
    if scan is not None and (figure := figures.months_figure(scan.months)):
        yield figure
    if patients is None:
        return
    drawn = [
        figures.prevalence_figure(patients),
        figures.age_figure(patients),
        figures.presence_figure(evidence.present, len(patients)) if evidence.present else None,
        figures.coverage_figure(evidence.coverage, len(patients)) if evidence.coverage else None,
        figures.values_figure(evidence.values),
    ]
    yield from (one for one in drawn if one is not None)


def _tables(check: Check) -> Iterator[tuple[str, Table]]:
    evidence = check.evidence
    if evidence.scan:
        yield "codes", tables.codes_table(evidence.scan, check.minimum_cell)
    if evidence.patients:
        yield "splits", tables.splits_table(evidence.patients)
        yield "subgroups", tables.subgroups_table(evidence.patients)
        yield "signals", tables.signals_table(evidence.codes, check.minimum_cell)
    if evidence.images:
        yield "images", tables.images_table(evidence.images)
    if evidence.steps:
        yield "steps", tables.steps_table(check)


def _state(check: Check) -> Path:
    try:
        return load_site(check.file).state
    except UserError:
        return check.file.parent / "state"
