"""What a site lets a study spend on its patients, and on which terms.

The noise of a run is fixed when its first round begins and stays: the smallest with which the
planned rounds cost no more than the study's epsilon, or more noise where the site's cap has less
than that left. Every round is a segment of its own in the ledger, written before it is trained.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from itertools import groupby

from clients.ledger import Ledger, Line, segments_of
from clients.site import PolicySection, Site
from federation.bodies import LedgerHead, SpentBody, SpentSegment
from federation.errors import BudgetSpent, UserError
from federation.messages import Instruction
from federation.privacy.accounting import Segment, calibrated_noise
from federation.privacy.filter import RdpFilter
from federation.study import Study

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

    >>> from federation.study import Study
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
    rate, spent = study.training.batch_size / patients, ledger.segments()
    wanted = wanted_noise(study, patients)
    allowed = filter_.calibrated_noise(spent, rate, steps)
    if allowed is None or allowed > MOST_NOISE_RATIO * max(wanted, 1.0):
        needed = "no noise is enough" if allowed is None else f"it would need {allowed:.3g}"
        raise BudgetSpent(
            f"{site.file}: policy.epsilon_per_patient: of {filter_.epsilon:g}, "
            f"{filter_.epsilon_spent(spent):.3g} is spent. The study {study.study.name} asks for a "
            f"noise multiplier of {wanted:.3g}; for what is left {needed}."
        )
    return max(wanted, allowed)
