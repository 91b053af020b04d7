"""Change control: what changed since a predecessor run, in the study and in the metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from server.report.comparison import Comparison, comparison
from server.report.documents import Metric
from server.report.run_folder import RunFolder, read_document
from server.report.text import METRICS, shown

CHANGE = "change_control.json"
"""Kept in the run folder, so that the card can be written again without the predecessor."""

_OF_THE_RUN = {"run", "seconds", "devices", "workers", "workers chosen", "training"}
"""Of environment.json, what is no version."""


class Changed(BaseModel):
    """A setting or a version that is not what it was."""

    key: str
    before: str
    after: str


class Difference(BaseModel):
    """One metric of the same group in both runs, and the later less the earlier.

    Args:
        paired: whether the hospitals scored both models on the same patients.
    """

    group: str
    metric: str
    before: Metric
    after: Metric
    difference: Metric
    paired: bool


class Change(BaseModel):
    """All that changed since the predecessor."""

    study: str
    fingerprint: str
    run: str
    settings: list[Changed]
    versions: list[Changed]
    differences: list[Difference]
    note: str


def compare(run: RunFolder, predecessor: RunFolder) -> Change:
    """What changed from the predecessor to the run.

    Raises:
        UserError: if they predict different outcomes.
    """
    found = comparison({str(predecessor.path): predecessor, str(run.path): run})
    return Change(
        study=predecessor.metrics.study,
        fingerprint=predecessor.metrics.fingerprint,
        run=str(predecessor.environment.get("run", "")),
        settings=[
            Changed(key=key, before=before, after=after)
            for key, (before, after) in found.settings.items()
        ],
        versions=list(_versions(predecessor.environment, run.environment)),
        differences=list(_differences(found)),
        note=found.note,
    )


def keep(change: Change, run: Path) -> None:
    """Write the comparison into the run folder."""
    text = json.dumps(change.model_dump(), indent=1, allow_nan=False)
    (run / CHANGE).write_text(f"{text}\n", encoding="utf-8")


def kept(run: Path) -> Change | None:
    """The comparison that the run folder keeps; None if it was never compared.

    Raises:
        UserError: if the file is damaged.
    """
    file = run / CHANGE
    return read_document(file, Change) if file.exists() else None


def _versions(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Changed]:
    for key in sorted({*old, *new} - _OF_THE_RUN):
        before, after = (shown(one.get(key) or "not recorded") for one in (old, new))
        if before != after:
            yield Changed(key=key, before=before, after=after)


def _differences(found: Comparison) -> Iterator[Difference]:
    for row in found.rows:
        (before, after), (difference,), (paired,) = row.values, row.differences, row.paired
        yield Difference(
            group=row.group,
            metric=METRICS.get(row.metric, row.metric),
            before=before,
            after=after,
            difference=difference,
            paired=paired,
        )
