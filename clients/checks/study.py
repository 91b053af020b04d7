"""Findings of the rehearsal: what would make the study pass this site over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from clients.checks.finding import Finding, plural
from clients.checks.rehearsal import Step
from clients.cohort import Patients
from clients.site import Site
from federation.bodies import EvaluateBody, TrainBody
from federation.messages import EVALUATE, TRAIN
from federation.study import Study

COUNTED_ELSEWHERE = ("no patients in this split",)
"""Statuses that the findings on labels and splits tell of."""


def study_findings(steps: Sequence[Step], study: Study, site: Site) -> Iterator[Finding]:
    """Report refusals, a slow round, withheld results, and noise beyond the study's."""
    for step in steps:
        if step.status in ("ok", *COUNTED_ELSEWHERE):
            continue
        yield Finding(
            "blocker",
            "study",
            f"{study.study.name}: {step.kind}",
            step.said or f"the site would answer: {step.status}",
            f"Correct what is named; the coordinator would be told only this: {step.status}.",
        )
    for step in steps:
        if step.kind == TRAIN and isinstance(step.body, TrainBody):
            yield from _training(step, step.body, study)
        if step.kind.startswith(EVALUATE) and isinstance(step.body, EvaluateBody):
            yield from _evaluation(step, step.body)
    for name in study.modalities.names:
        if not site.offers(name):
            yield Finding(
                "warning",
                "modalities",
                f"[modalities.{name}]",
                "the study uses it, and the site file names no source of it",
                "The site can take part with what it has; or add the source to [data].",
            )


def _training(step: Step, body: TrainBody, study: Study) -> Iterator[Finding]:
    deadline = study.strategy.round_deadline_seconds
    if step.seconds > 0.5 * deadline:
        yield Finding(
            "blocker" if step.seconds > deadline else "warning",
            "study",
            "strategy.round_deadline_seconds",
            f"a round took {step.seconds:.0f} s here; the study waits {deadline:.0f} s",
            "Ask for a longer deadline or fewer local steps, or give site.device a GPU.",
        )
    without = [part for part, count in body.patients.items() if not count]
    if without:
        yield Finding(
            "warning",
            "modalities",
            ", ".join(without),
            "too few training patients have it: this part of the model learns nothing here",
            "Add the data, or take part for the other modalities.",
        )
    if body.spent is not None:
        segment = body.spent.segments[-1]
        if segment.noise_multiplier > 1.01 * body.spent.wanted_noise:
            yield Finding(
                "warning",
                "privacy",
                "policy.epsilon_per_patient",
                f"little of the budget is left: the noise would be {segment.noise_multiplier:.3g}, "
                f"where the study asks for {body.spent.wanted_noise:.3g}",
                "`wardround ledger SITE` shows what was spent; the cap is the site's to set.",
            )
    elif study.privacy.mechanism != "dp_sgd":
        yield Finding(
            "note",
            "privacy",
            "privacy.mechanism",
            "the study trains without differential privacy at the site",
            "policy.require_privacy = true refuses such studies.",
        )


def _evaluation(step: Step, body: EvaluateBody) -> Iterator[Finding]:
    if body.withheld:
        yield Finding(
            "note",
            "privacy",
            f"{step.kind.removeprefix(EVALUATE).strip()} split",
            f"{plural(len(body.withheld), 'group')} of patients too small to be reported "
            "are withheld",
            "Nothing; this is what policy.minimum_cell is for.",
        )


def offered(patients: Patients, site: Site) -> dict[str, int]:
    """Return how many patients have something of each modality that the site file offers."""
    code, row = patients.events["code"], patients.events["row"].to_numpy()
    kinds = {"image": "IMAGE//", "text": "NOTE//"}
    found = {}
    for name, prefix in kinds.items():
        if site.offers(name):
            chosen = [text.startswith(prefix) for text in code.cat.categories]
            has = np.array([*chosen, False])[code.cat.codes.to_numpy()]
            found[name] = len(np.unique(row[has]))
    return found


def modality_findings(
    present: Mapping[str, int], unusable: Mapping[str, int], patients: int
) -> Iterator[Finding]:
    """Report modalities that patients lack, and files or notes that could not be used.

    Args:
        present: patients with each modality.
        unusable: patients of whom something could not be used, by reason.
        patients: all of them.
    """
    for name, count in present.items():
        if count < patients:
            yield Finding(
                "warning" if count < 0.5 * patients else "note",
                "modalities",
                name,
                f"{plural(patients - count, 'patient')} of {patients:,} lack it",
                "The model takes patients without it; check the export if it should be there.",
            )
    for reason, count in unusable.items():
        few = reason.startswith("note: cut")
        yield Finding(
            "note" if few else "warning",
            "images" if reason.startswith("image") else "modalities",
            reason.partition(":")[0],
            f"{plural(count, 'patient')}: {reason}",
            "Nothing, or ask for a larger max_tokens." if few else "Look at these files.",
        )
