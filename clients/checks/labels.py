"""Findings on whom a study would train and test: labels, splits, subgroups, what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clients.checks.finding import Finding, plural
from clients.cohort import SPLITS, Patients
from clients.site import PolicySection
from federation.subgroups import UNKNOWN

RARE = 0.01


def label_findings(patients: Patients, policy: PolicySection, where: str) -> Iterator[Finding]:
    """Report classes and splits that are too small for what a study does with them.

    Args:
        patients: of the task.
        policy: of the site, which sets the smallest count that leaves.
        where: the labels file.
    """
    yield from _classes(patients, where)
    yield from _splits(patients, policy.minimum_cell)
    for reason, count in patients.excluded.items():
        share = count / (count + len(patients))
        yield Finding(
            "warning" if share > 0.2 else "note",
            "labels",
            where,
            f"{plural(count, 'patient')} left out: {reason}",
            "Right if they are not meant; otherwise correct the labels or the events.",
        )
    for reason, count in patients.notices.items():
        yield Finding(
            "note",
            "events",
            "data.events",
            f"{plural(count, 'patient')}: {reason}",
            "Look at some of them at the site.",
        )
    for attribute, levels in patients.subgroups.items():
        unknown = float((levels == UNKNOWN).mean())
        if unknown > 0.2:
            yield Finding(
                "note",
                "patients",
                f"data.subgroups: {attribute}",
                f"unknown for {unknown:.0%} of the patients",
                "Add the events from which it is taken (docs/site-data.md), or leave it out.",
            )


def outcome_findings(outcomes: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Report classes that nobody has, and findings or tasks that nobody or everybody has.

    Args:
        outcomes: as a task describes its labels.
        where: the labels file.
    """
    told = list(_unusable(outcomes))
    for name, one in outcomes.get("tasks", {}).items():
        if not one["known"]:
            told.append(f"no patient has a label of the task {name}")
        told += [f"task {name}: {what}" for what in _unusable(one) if one["known"]]
    for what in told:
        yield Finding(
            "warning",
            "labels",
            where,
            f"{what}: this site can neither teach nor test it",
            "Right if it is so rare here; otherwise check how the labels are made.",
        )


def _unusable(outcomes: Mapping[str, Any]) -> Iterator[str]:
    """Outcomes of one task that nobody has, or everybody of whom it is known."""
    counts: Mapping[str, int] = outcomes.get("classes", {})
    yield from (f"no patient is of the class {name}" for name, count in counts.items() if not count)
    for name, one in outcomes.get("labels", {}).items():
        if one["positives"] in (0, one["known"]):
            share = "none" if not one["positives"] else "all"
            yield f"{share} of {one['known']:,} patients have {name}"
    if "known" in outcomes and outcomes.get("positives") in (0, outcomes["known"]):
        share = "none" if not outcomes["positives"] else "all"
        yield f"{share} of {outcomes['known']:,} patients have the outcome"


def _classes(patients: Patients, where: str) -> Iterator[Finding]:
    prevalence = float(patients.labels.mean())
    if prevalence in (0.0, 1.0):
        yield Finding(
            "blocker",
            "labels",
            where,
            f"all {plural(len(patients), 'patient')} have the label {int(prevalence)}: nothing "
            "can be learned from one class",
            "Check how the labels are made. Both answers must occur.",
        )
        return
    if min(prevalence, 1 - prevalence) < RARE:
        yield Finding(
            "warning",
            "labels",
            where,
            f"the outcome has a prevalence of {prevalence:.2%}",
            "Check how the labels are made, and whether so few can be learned from.",
        )
    for name in SPLITS:
        rows = patients.splits[name]
        if len(rows) and len(np.unique(patients.labels[rows])) < 2:
            yield Finding(
                "warning",
                "labels",
                f"split {name}",
                f"all {plural(len(rows), 'patient')} have the label "
                f"{int(patients.labels[rows[0]])}: no AUROC can be computed"
                + ("" if name != "train" else ", and training pulls to one class"),
                "More patients, or other fractions of the split, bring both classes.",
            )


def _splits(patients: Patients, minimum: int) -> Iterator[Finding]:
    train, *tests = (len(patients.splits[name]) for name in SPLITS)
    if train < minimum:
        yield Finding(
            "blocker",
            "labels",
            "split train",
            f"{plural(train, 'training patient')}, fewer than policy.minimum_cell = {minimum}: the "
            "site takes no part in training",
            "Bring more patients.",
        )
    for name, count in zip(SPLITS[1:], tests, strict=True):
        if count < minimum:
            yield Finding(
                "warning",
                "labels",
                f"split {name}",
                f"{plural(count, 'patient')}, fewer than policy.minimum_cell = {minimum}: no "
                "result of this split leaves the site",
                "Bring more patients; the site can still train.",
            )
