"""One round at a site: paid for where it is private, and put into a reply when it is trained."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clients.budget import UnfitTerms, check_terms, spend, spent_so_far
from clients.ledger import Head, Ledger
from clients.outbound import TakesNoPart
from clients.site import Site
from clients.training import Fit, Fitted, PlainFit, PrivateFit
from clients.workbench import Cohort, Workbench
from federation.bodies import LedgerHead, SpentBody, TrainBody
from federation.messages import Instruction, Reply
from federation.models.build import FlatModel, Vector
from federation.randomness import torch_generator

logger = logging.getLogger("wardround.site")


@dataclass(frozen=True)
class Round:
    """A site's training in one round: what is to be run, and what to say of what came of it."""

    fit: Fit
    reply: Callable[[Fitted], Reply]


def plain_round(instruction: Instruction, site: Site, model: FlatModel, cohort: Cohort) -> Round:
    """Train on the site's patients; nothing but suppression protects them."""
    study, minimum = instruction.study, site.policy.minimum_cell
    patients, start = len(cohort.patients.splits["train"]), _weights(instruction)
    behind = {**cohort.trained_on, "fusion": patients}
    weights = {part.name: _weight(behind[part.name], patients, minimum) for part in model.parts}
    generator = functools.partial(
        torch_generator,
        study.study.seed,
        "training",
        site.name,
        instruction.model,
        instruction.round,
    )
    fit = PlainFit(model, start, cohort, study, generator)
    return Round(fit, lambda fitted: _trained(fit, weights, fitted))


def private_round(
    instruction: Instruction,
    file: str,
    site: Site,
    workbench: Workbench,
    model: FlatModel,
    cohort: Cohort,
) -> Round | Reply:
    """Pay for the round, to train it then; what was answered before is answered again."""
    study, ledger, request = instruction.study, workbench.ledger(file), instruction.digest
    patients = len(cohort.patients.splits["train"])
    draws = functools.partial(
        workbench.randomness, study.study.seed, site.name, instruction.model, instruction.round
    )
    seeded, run, name = draws().seeded, instruction.run, instruction.model
    if not seeded and (said := workbench.replies(file).find(run, name, request)):
        return _said_again(said, ledger)
    clipped = workbench.clipped(study, instruction.vocabulary, model)
    try:
        check_terms(study, patients, site)
        segment = spend(instruction, request, patients, site, ledger, seeded)
    except UnfitTerms as error:
        logger.error("%s", error)
        raise TakesNoPart("the study's privacy terms do not fit the site") from None
    weights = {
        part.name: patients if part.name == "fusion" or site.offers(part.name) else 0
        for part in model.parts
    }
    fit = PrivateFit(model, _weights(instruction), cohort, study, clipped, segment, draws)

    def reply(fitted: Fitted) -> Reply:
        found = _trained(fit, weights, fitted, spent_so_far(instruction, patients, ledger))
        if not seeded:
            workbench.replies(file).keep(run, name, request, found)
        return found

    return Round(fit, reply)


def check_witness(instruction: Instruction, site: Site, ledger: Ledger) -> None:
    """Refuse if the ledger is not the one of which the coordinator was told, or a longer one."""
    witness = instruction.witness
    if witness is not None and not ledger.extends(Head(witness.length, witness.hash)):
        logger.error(
            "%s: the coordinator has seen this site's privacy ledger with %s lines, and they are "
            "not the ones that are there now (%s). Was an older copy restored, or a copy used "
            "elsewhere? What its patients have spent since is not known here.",
            site.state,
            witness.length,
            ledger.head().length,
        )
        raise TakesNoPart("the site's privacy ledger does not extend the one that was witnessed")


def _said_again(said: Reply, ledger: Ledger) -> Reply:
    """Return a reply as it was given, with the ledger's present head: other runs may go on."""
    assert isinstance(said.body, TrainBody) and said.body.spent is not None
    head = ledger.head()
    now = LedgerHead(length=head.length, hash=head.hash)
    spent = said.body.spent.model_copy(update={"ledger": now})
    return dataclasses.replace(said, body=said.body.model_copy(update={"spent": spent}))


def _trained(
    fit: Fit, weights: Mapping[str, int], fitted: Fitted, spent: SpentBody | None = None
) -> Reply:
    body = TrainBody.model_validate(
        {"loss": fitted.loss, "steps": fitted.steps, "patients": weights, "spent": spent}
    )
    update = fitted.weights - fit.start
    for part in fit.model.parts:
        if not weights[part.name]:
            update[part.start : part.stop] = 0  # too few patients moved it to let it leave
    return Reply("ok", body, update=update)


def _weights(instruction: Instruction) -> Vector:
    assert instruction.weights is not None
    return instruction.weights


def _weight(holders: int, patients: int, minimum: int) -> int:
    """Return the weight of a part of the model that ``holders`` of the training patients move.

    Neither the few who have a modality nor the few who lack it can be told from the weight.

    >>> _weight(5, 60, 10), _weight(40, 60, 10), _weight(57, 60, 10)
    (0, 40, 60)
    """
    if holders < minimum:
        return 0
    return patients if patients - holders < minimum else holders
