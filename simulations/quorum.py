"""Whether a study's faults leave enough sites: said before the first round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from federation.errors import UserError
from federation.messages import FEDERATED
from federation.strategies.asynchronous import FedBuff
from federation.study import Study
from federation.validation import listed
from server.participation import participants
from simulations.faults import WHERE, Faults

FOLLOWS_THE_ROUNDS = ("by_size", "power_of_choice")


def check_quorum(faults: Faults, study: Study, sites: Iterable[str]) -> list[str]:
    """Play the faults over all rounds before the first one.

    What depends on the training is not known yet: a reply with turned bits or a large norm counts
    as usable here.

    Returns:
        Warnings: the round in which the run will end early, sites that never take part, attacks
        that never begin.

    Raises:
        UserError: if the first round cannot have enough updates, or a backdoor has no modality to
            bear its trigger.
    """
    warnings = _check_attacks(study)
    known, needed = dict.fromkeys(sorted(sites), 0), study.strategy.minimum_sites
    strategy = study.strategy
    if isinstance(strategy, FedBuff) or strategy.participation.kind in FOLLOWS_THE_ROUNDS:
        return warnings  # who is asked, and when an answer comes, is not known before
    deadline, rounds = strategy.round_deadline_seconds, study.training.rounds
    asked: set[str] = set()
    heard: set[str] = set()
    for round_ in range(1, rounds + 1):
        names = participants(study, known, round_)
        fates = {site: faults.fate(site, round_, FEDERATED) for site in names}
        reasons = {site: fate.missing(deadline) for site, fate in fates.items()}
        missing = {site: reason for site, reason in reasons.items() if reason}
        asked |= names.keys()
        heard |= names.keys() - missing.keys()
        answering = len(names) - len(missing)
        if answering >= needed:
            continue
        why = _by_reason(missing)
        found = f"{answering} of {len(names)} sites will answer; {needed} are needed"
        if round_ == 1:
            raise UserError(
                WHERE,
                f"round 1: {found}, so that nothing would be trained ({why})",
                field="simulation.faults",
                remedy="Let fewer sites fail, or lower strategy.minimum_sites.",
            )
        end = f"Simulated faults: round {round_}: {found}: the run will end there ({why})."
        return [*warnings, end]
    silent = sorted(asked - heard)
    never = [f"Simulated faults: {site} never sends a usable update." for site in silent]
    return [*warnings, *never]


def _by_reason(missing: Mapping[str, str]) -> str:
    """Say who is missing.

    >>> _by_reason({"bern": "crashed", "genf": "too late", "zug": "crashed"})
    'crashed: bern, zug; too late: genf'
    """
    reasons = sorted(set(missing.values()))
    sites = {why: [site for site, reason in missing.items() if reason == why] for why in reasons}
    return "; ".join(f"{why}: {listed(names)}" for why, names in sites.items())


def _check_attacks(study: Study) -> list[str]:
    section = study.simulation and study.simulation.faults
    warnings = []
    for table in section.hostile if section else ():
        if table.attack == "backdoor" and set(study.modalities.names) == {"text"}:
            raise UserError(
                WHERE,
                "a backdoor's trigger is in events or images, and the study has notes alone",
                field="simulation.faults.hostile",
                remedy="Add [modalities.ehr] or [modalities.image], or choose another attack.",
            )
        if table.from_round > study.training.rounds:
            warnings.append(
                f"Simulated faults: {table.attack} from round {table.from_round} never begins; "
                f"the study has {study.training.rounds} rounds."
            )
    return warnings
