"""Change control: what changed since a predecessor run, in the study and in the metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from server.report.run_folder import Cell, Metric, RunFolder, read_document
from server.report.text import ALL, METRICS, flattened, shown, subgroup_name

CHANGE = "change_control.json"
"""Kept in the run folder, so that the card can be written again without the predecessor."""

UNPAIRED = (
    "Unpaired: the two runs are compared as if their patients were others. Where they are the same "
    "patients the intervals of the differences are wider than they need be."
)


class Changed(BaseModel):
    """A setting or a version that is not what it was."""

    key: str
    before: str
    after: str


class Difference(BaseModel):
    """One metric of the same patients' group in both runs, and the later less the earlier."""

    group: str
    metric: str
    before: Metric
    after: Metric
    difference: Metric


class Change(BaseModel):
    """All that changed."""

    study: str
    fingerprint: str
    run: str
    settings: list[Changed]
    versions: list[Changed]
    differences: list[Difference]
    incomparable: str = ""
    note: str = UNPAIRED


def compare(run: RunFolder, predecessor: RunFolder) -> Change:
    """What changed from the predecessor to the run."""
    old, new = predecessor.study.get("task", {}), run.study.get("task", {})
    reason = ""
    if (old.get("label"), old.get("kind")) != (new.get("label"), new.get("kind")):
        reason = "The two runs predict different outcomes, so their metrics are not compared."
    return Change(
        study=predecessor.metrics.study,
        fingerprint=predecessor.metrics.fingerprint,
        run=str(predecessor.environment.get("run", "")),
        settings=list(_changed(predecessor.study, run.study, "study.fingerprint")),
        versions=list(_changed(_versions(predecessor), _versions(run))),
        differences=[] if reason else list(_differences(predecessor, run)),
        incomparable=reason,
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


def difference(before: Metric | None, after: Metric | None) -> Metric:
    """The later less the earlier, with an interval from the two intervals (MOVER).

    The two are taken as independent.

    Source: Zou and Donner, Statistics in Medicine 2008.

    >>> a, b = Metric(value=0.7, low=0.67, high=0.73), Metric(value=0.8, low=0.76, high=0.84)
    >>> found = difference(a, b)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.1, 0.05, 0.15)
    """
    if before is None or after is None or before.value is None or after.value is None:
        return Metric(reason="not known in both runs")
    gap = after.value - before.value
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return Metric(value=gap, reason="no interval: one of the two has none")
    low = gap - math.hypot(after.value - after.low, before.high - before.value)
    high = gap + math.hypot(after.high - after.value, before.value - before.low)
    return Metric(value=gap, low=low, high=high)


def _changed(
    old: Mapping[str, Any], new: Mapping[str, Any], derived: str = ""
) -> Iterator[Changed]:
    before, after = dict(flattened(old)), dict(flattened(new))
    for key in sorted({*before, *after} - {derived}):
        if before.get(key) != after.get(key):
            yield Changed(
                key=key,
                before=shown(before[key]) if key in before else "not set",
                after=shown(after[key]) if key in after else "not set",
            )


def _versions(run: RunFolder) -> dict[str, Any]:
    apart = {"run", "seconds", "devices", "workers", "workers chosen", "training"}
    return {key: value for key, value in run.environment.items() if key not in apart}


def _differences(old: RunFolder, new: RunFolder) -> Iterator[Difference]:
    before, after = _groups(old), _groups(new)
    for group in before:
        if group not in after:
            continue
        for name, title in METRICS.items():
            a, b = getattr(before[group], name), getattr(after[group], name)
            if a is not None and b is not None and not (a.value is None and b.value is None):
                yield Difference(
                    group=group, metric=title, before=a, after=b, difference=difference(a, b)
                )


def _groups(run: RunFolder) -> dict[str, Cell]:
    model = run.model
    return {
        ALL: model.overall,
        **dict(sorted(model.sites.items())),
        **{subgroup_name(name): cell for name, cell in sorted(model.subgroups.items())},
    }
