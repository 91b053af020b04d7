"""Image and note files that the site file ties to patients: whose they are not, what they hold."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from clients.checks.finding import Finding, named, plural
from clients.checks.identifiers import text_finding
from clients.checks.patterns import found_in
from clients.checks.textscan import NOTE
from clients.cohort import Patients
from clients.site import Site


def linked_findings(patients: Patients, site: Site) -> Iterator[Finding]:
    """Report files that are nobody's, by the lists that reading left, and identifiers in notes.

    Args:
        patients: just read from the site.
        site: its ``[data.images.link]`` and ``[data.notes.link]``, where it has them.
    """
    data = site.settings.data
    for what, section in (("images", data.images), ("notes", data.notes)):
        if section is not None and section.link is not None:
            yield from _unlinked(site, what)
    if data.notes is not None and data.notes.link is not None:
        events = patients.events
        texts = events.loc[events["code"].astype(str).str.startswith(NOTE), "text_value"].dropna()
        found = found_in(pa.array(texts.tolist(), pa.string()))
        kinds = {kind: int(where.sum()) for kind, where in found.items() if where.any()}
        if kinds:
            yield text_finding("note files", kinds, used=True)


def _unlinked(site: Site, what: str) -> Iterator[Finding]:
    file = site.state / f"unlinked-{what}.csv"
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as rows:
        reasons = Counter(row["reason"] for row in csv.DictReader(rows))
    if reasons:
        yield Finding(
            "warning",
            "images" if what == "images" else "modalities",
            f"data.{what}.link",
            f"{plural(reasons.total(), 'file')} of {what} are linked to no patient: "
            + named(f"{reason} {count:,}" for reason, count in reasons.most_common()),
            f"{file} names them. Correct the rule, or add the patients.",
        )
