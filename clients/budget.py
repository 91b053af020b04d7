"""What a site lets a study spend on its patients, and on which terms.

The noise of a run is fixed when its first round begins and stays: the smallest with which the
planned rounds cost no more than the study's epsilon, or more noise where the site's cap has less
than that left. Every round is a segment of its own in the ledger, written before it is trained.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from clients.ledger import Ledger, Line, segments_of
from clients.site import PolicySection, Site
from federation.bodies import LedgerHead, SpentBody, SpentSegment
from federation.errors import BudgetSpent, UserError
from federation.messages import Instruction
from federation.privacy.accounting import Segment, calibrated_noise
from federation.privacy.filter import RdpFilter
from federation.study import Split, Study

logger = logging.getLogger("wardround.site")


class UnfitTerms(UserError):
    """The study's privacy terms and this site's patients do not go together."""


MOST_NOISE_RATIO = 10.0
"""A site that would need more than so many times the study's noise (or a multiplier of 1, if that
is more) refuses: its updates would be noise alone, and spoil what the others learned."""


def check_terms(study: Study, patients: int, site: Site) -> None:
    """Refuse terms under which the guarantee would not mean what it says.

    Args:
        study: with ``privacy.mechanism = "dp_sgd"``.
        patients: the site's training patients.
        site: whose policy names the delta of its cap.

    Raises:
        UnfitTerms: naming the field.
    """
    batch = study.training.batch_size
    if batch > patients:
        raise UnfitTerms(
            site.file,
            f"the study {study.study.name} draws batches of {batch}, and this site has {patients} "
            "training patients",
            field="training.batch_size (study)",
            remedy="Give a batch size of at most the smallest site's training patients.",
        )
    assert study.privacy.epsilon is not None
    largest = 0.1 / patients
    for field, delta in (
        ("privacy.delta (study)", study.privacy.delta),
        ("policy.delta", site.policy.delta),
    ):
        if delta > largest:
            raise UnfitTerms(
                site.file,
                f"{delta:g} is above 0.1 / patients = {largest:.2g} of this site",
                field=field,
                remedy="With a larger delta a mechanism may publish a few patients outright.",
            )
    try:
        wanted_noise(study, patients)
    except ValueError as error:
        raise UnfitTerms(
            site.file,
            str(error),
            field="privacy.epsilon (study)",
            remedy="Ask for a larger epsilon, or for fewer rounds and steps.",
        ) from None


def planned_rounds(study: Study) -> int:
    """Return for how many rounds of a run a site's noise is calibrated; it refuses any further.

    >>> from federation.study import Split, Study
    >>> planned_rounds(Study.model_validate({
    ...     "study": {"name": "s"}, "task": {"label": "y"}, "modalities": {"ehr": {}},
    ...     "training": {"rounds": 25},
    ...     "privacy": {"mechanism": "dp_sgd", "epsilon": 2.0, "participation": 0.5}}))
    13
    """
    return math.ceil(study.training.rounds * study.privacy.participation)


def wanted_noise(study: Study, patients: int) -> float:
    """Return the noise multiplier with which all planned rounds cost the study's epsilon."""
    privacy = study.privacy
    assert privacy.epsilon is not None
    return calibrated_noise(
        privacy.epsilon,
        privacy.delta,
        study.training.batch_size / patients,
        study.training.steps(patients) * planned_rounds(study),
        privacy.accountant,
    )


def cap(policy: PolicySection) -> RdpFilter:
    """Return the filter of a site's lifetime budget."""
    return RdpFilter(policy.epsilon_per_patient, policy.delta)


def spend(
    instruction: Instruction, request: str, patients: int, site: Site, ledger: Ledger, seeded: bool
) -> Segment:
    """Write into the ledger what the next round costs, and return the terms of its steps.

    Args:
        instruction: the round that is asked for.
        request: digest of the weights that it starts from.
        patients: the site's training patients.
        site: whose cap holds.
        ledger: the site's.
        seeded: whether the noise is drawn from a seed. A seeded round that is computed again gives
            the same bits, so it is not paid for again; at a deployed site it is.

    Raises:
        BudgetSpent: if the planned rounds are used up, or the cap does not allow another.
        UnfitTerms: if the training patients are not those that the run began with.
        UserError: if the ledger cannot be written.
    """
    study = instruction.study
    rate, steps = study.training.batch_size / patients, study.training.steps(patients)
    mine = _of(instruction, ledger.lines())
    same = [line for line in mine if (line.round, line.request) == (instruction.round, request)]
    if seeded and same:
        return segments_of(same)[0]
    planned, filter_ = planned_rounds(study), cap(site.policy)
    if mine and mine[0].patients != patients:
        raise UnfitTerms(
            site.file,
            f"the run began with {mine[0].patients} training patients; now there are {patients}",
            remedy="Its noise was fixed for those. Bring the data back, or start a new run.",
        )
    if mine:
        noise = mine[0].noise_multiplier
    else:
        noise = _first_noise(study, patients, steps * planned, ledger, site, filter_)
    segment = Segment(rate, noise, steps)

    def affordable(lines: list[Line]) -> None:
        if len(_of(instruction, lines)) >= planned:
            raise BudgetSpent(
                f"{site.file}: the {planned} rounds that the study {study.study.name} planned for "
                "this site (training.rounds x privacy.participation) are used up."
            )
        spent = segments_of(lines)
        if not filter_.admits(spent, segment):
            raise BudgetSpent(
                f"{site.file}: policy.epsilon_per_patient: {filter_.epsilon:g} allows no further "
                f"round of the study {study.study.name}; {filter_.epsilon_spent(spent):.3g} is "
                "spent. `wardround ledger` shows on what."
            )

    ledger.append(_line(instruction, request, patients, segment, seeded), affordable)
    return segment


def planned_evaluations(study: Study, split: Split) -> int:
    """Return how often a run scores a split, on which the noise of its counts is reckoned."""
    if split == "held_out":
        return 1
    every, fixed = study.evaluation.every, study.evaluation.threshold.rule == "fixed"
    return (study.training.rounds // every if every else 0) + (0 if fixed else 1)


def counts_of_a_patient(study: Study, site: Site, split: Split) -> int:
    """Return to how many noised tables a patient of a split adds: the site's, and by attribute."""
    return 1 + len(counted_attributes(study, site, split))


def counted_attributes(study: Study, site: Site, split: Split) -> list[str]:
    """Return the attributes that are counted: by the study and the site file, not by patients."""
    if split != "held_out":
        return []
    return [name for name in study.evaluation.subgroups if name in site.settings.data.subgroups]


def wanted_evaluation_noise(study: Study, split: Split, counts: int) -> float:
    """Return the scale of the noise with which a split's planned evaluations cost the epsilon.

    Args:
        study: with ``evaluation.noise``.
        split: which patients.
        counts: to how many a patient adds in one evaluation.
    """
    assert study.evaluation.noise is not None
    steps = max(planned_evaluations(study, split), 1) * counts
    return calibrated_noise(
        study.evaluation.noise.epsilon, study.privacy.delta, 1.0, steps, "pld", "discrete"
    )


def spend_evaluation(
    instruction: Instruction, patients: int, counts: int, site: Site, ledger: Ledger, seeded: bool
) -> Segment:
    """Write into the ledger what an evaluation with noise costs, and return its terms.

    Args:
        instruction: the evaluation that is asked for.
        patients: of the split.
        counts: to how many of the noised counts a patient adds.
        site: whose cap holds.
        ledger: the site's.
        seeded: as for ``spend``.

    Raises:
        BudgetSpent: if the planned evaluations are used up, or the cap does not allow another.
        UnfitTerms: if delta is too large, or the split's patients are not those of the first time.
        UserError: if the ledger cannot be written.
    """
    study, split = instruction.study, instruction.split
    assert split is not None
    asked = dataclasses.replace(instruction, model=f"{instruction.model}:{split}")
    if study.privacy.delta > 0.1 / patients:
        raise UnfitTerms(
            site.file,
            f"{study.privacy.delta:g} is above 0.1 / patients of the {split} split",
            field="privacy.delta (study)",
        )
    mine, filter_ = _of(asked, ledger.lines()), cap(site.policy)
    same = [x for x in mine if (x.round, x.request) == (asked.round, asked.digest)]
    if seeded and same:
        return segments_of(same)[0]
    if mine and (mine[0].patients, mine[0].steps) != (patients, counts):
        raise UnfitTerms(site.file, f"the patients of the {split} split changed within the run")
    planned = planned_evaluations(study, split)
    if mine:
        scale = mine[0].noise_multiplier
    else:
        wanted = wanted_evaluation_noise(study, split, counts)
        spent = ledger.segments()
        scale = _affordable_noise(study, wanted, 1.0, planned * counts, spent, site, filter_)
    segment = Segment(1.0, scale, counts, "discrete")

    def affordable(lines: list[Line]) -> None:
        if len(_of(asked, lines)) >= planned:
            raise BudgetSpent(
                f"{site.file}: the {planned} evaluations of the {split} split that the study "
                f"{study.study.name} planned are used up."
            )
        if not filter_.admits(segments_of(lines), segment):
            raise BudgetSpent(
                f"{site.file}: policy.epsilon_per_patient: {filter_.epsilon:g} allows no further "
                f"evaluation of the study {study.study.name}."
            )

    line = _line(asked, asked.digest, patients, segment, seeded)
    ledger.append(dataclasses.replace(line, kind="evaluation"), affordable)
    return segment


def note_unprotected(instruction: Instruction, request: str, patients: int, ledger: Ledger) -> None:
    """Write into the ledger, once for each model of a run, that no epsilon covers its training."""
    if _of(instruction, ledger.lines()):
        return
    logger.warning(
        "%s: the study %s trains without differential privacy at this site: no epsilon and no cap "
        "covers its patients (policy.require_privacy = true would refuse)",
        ledger.path,
        instruction.study.study.name,
    )
    ledger.append(_line(instruction, request, patients, None, seeded=False))


def spent_so_far(instruction: Instruction, patients: int, ledger: Ledger) -> SpentBody:
    """Return what the coordinator may know: the segments of this run's model, and the head."""
    entries = ledger.known()  # the round's own line is the last thing that was asked for
    lines = _of(instruction, (entry.line for entry in entries))
    ordered = sorted(lines, key=_terms)
    segments = []
    for (rate, noise), group in groupby(ordered, key=_terms):
        rounds = list(group)
        segments.append(
            SpentSegment(
                sampling_rate=rate,
                noise_multiplier=noise,
                steps=sum(line.steps for line in rounds),
                rounds=len(rounds),
            )
        )
    return SpentBody(
        segments=tuple(segments),
        wanted_noise=wanted_noise(instruction.study, patients),
        seeded=any(line.seeded for line in lines),
        ledger=LedgerHead(length=len(entries), hash=entries[-1].hash),
    )


def _of(instruction: Instruction, lines: Iterable[Line]) -> list[Line]:
    """Return the lines of this model, study and run; a run's id alone could be given twice."""
    wanted = (instruction.run, instruction.model, instruction.study.fingerprint)
    return [line for line in lines if (line.run, line.model, line.fingerprint) == wanted]


def _line(
    instruction: Instruction, request: str, patients: int, segment: Segment | None, seeded: bool
) -> Line:
    """Return what the ledger keeps of a round; without a segment, that nothing protects it."""
    study = instruction.study
    return Line(
        kind="segment" if segment else "unprotected",
        run=instruction.run,
        study=study.study.name,
        fingerprint=study.fingerprint,
        model=instruction.model,
        round=instruction.round,
        request=request,
        patients=patients,
        sampling_rate=segment.sampling_rate if segment else 0.0,
        noise_multiplier=segment.noise_multiplier if segment else 0.0,
        steps=segment.steps if segment else 0,
        seeded=seeded,
    )


def _terms(line: Line) -> tuple[float, float]:
    return line.sampling_rate, line.noise_multiplier


def _first_noise(
    study: Study, patients: int, steps: int, ledger: Ledger, site: Site, filter_: RdpFilter
) -> float:
    """The noise of a run, fixed when its first round begins."""
    rate = study.training.batch_size / patients
    wanted = wanted_noise(study, patients)
    spent = [*ledger.segments(), *_evaluations_to_come(study, site)]
    return _affordable_noise(study, wanted, rate, steps, spent, site, filter_)


def _evaluations_to_come(study: Study, site: Site) -> list[Segment]:
    """What a run's planned evaluations will spend, kept aside when its training begins."""
    if study.evaluation.noise is None:
        return []
    found = []
    for split in ("tuning", "held_out"):
        planned, counts = planned_evaluations(study, split), counts_of_a_patient(study, site, split)
        if planned:
            scale = wanted_evaluation_noise(study, split, counts)
            found.append(Segment(1.0, scale, planned * counts, "discrete"))
    return found


def _affordable_noise(
    study: Study,
    wanted: float,
    rate: float,
    steps: int,
    spent: Sequence[Segment],
    site: Site,
    filter_: RdpFilter,
) -> float:
    """What the study asks for, or more where the site's cap has less left; or a refusal."""
    allowed = filter_.calibrated_noise(spent, rate, steps)
    if allowed is None or allowed > MOST_NOISE_RATIO * max(wanted, 1.0):
        needed = "no noise is enough" if allowed is None else f"it would need {allowed:.3g}"
        raise BudgetSpent(
            f"{site.file}: policy.epsilon_per_patient: of {filter_.epsilon:g}, "
            f"{filter_.epsilon_spent(spent):.3g} is spent. The study {study.study.name} asks for a "
            f"noise multiplier of {wanted:.3g}; for what is left {needed}."
        )
    return max(wanted, allowed)
