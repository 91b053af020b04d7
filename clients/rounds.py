"""One round at a site: paid for where it is private, and put into a reply when it is trained."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Generator, Mapping
from typing import TypeAlias

import numpy as np

from clients import compression
from clients.budget import UnfitTerms, check_terms, spend, spent_so_far
from clients.evaluation import mean_loss
from clients.fits import Fit, Fitted, PlainFit, PrivateFit
from clients.ledger import Head, Ledger
from clients.methods import Moved, Turn, train_locally
from clients.outbound import TakesNoPart
from clients.site import Site
from clients.workbench import Cohort, Workbench, choose_device
from federation.bodies import LedgerHead, SpentBody, TrainBody
from federation.layout import LOCAL, Layout
from federation.messages import Instruction, Reply
from federation.models.build import FlatModel, Vector
from federation.randomness import torch_generator

logger = logging.getLogger("wardround.site")

LARGEST_WEIGHT = 1e6
"""Under differential privacy; weights beyond it are crafted, to reach the limits of float32."""


Answering: TypeAlias = Generator[Fit, Fitted, Reply]
"""Yields what is to be trained, is sent what came of it, returns what leaves."""


def plain_round(
    instruction: Instruction, file: str, site: Site, workbench: Workbench, cohort: Cohort
) -> Answering:
    """Train on the site's patients; nothing but suppression protects them."""
    study, minimum = instruction.study, site.policy.minimum_cell
    model = fitting_model(instruction, site, workbench)
    patients = len(cohort.patients.splits["train"])
    behind = {**cohort.trained_on, "fusion": patients, LOCAL: 0}
    weights = {part.name: _weight(behind[part.name], patients, minimum) for part in model.parts}
    generator = functools.partial(
        torch_generator,
        study.study.seed,
        "training",
        site.name,
        instruction.model,
        instruction.round,
    )
    training = study.training.at_round(instruction.round)
    watched = study.strategy.wants_variance
    fit = PlainFit(
        model, weights_of(instruction), cohort, study, training, generator, watched=watched
    )
    loss = None
    if study.strategy.tells_loss:
        loss = mean_loss(model, fit.start, cohort, study)
    moved = yield from _take_turn(fit, instruction, file, workbench)
    found = _trained(fit, weights, moved, initial_loss=loss)
    return _compressed(found, fit, weights, instruction, file, workbench)


def private_round(
    instruction: Instruction, file: str, site: Site, workbench: Workbench, cohort: Cohort
) -> Answering:
    """Pay for the round, then train it; what was answered before is answered again."""
    study, ledger, request = instruction.study, workbench.ledger(file), instruction.digest
    model = fitting_model(instruction, site, workbench)
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
    weights = {part.name: patients if _counts(part.name, site) else 0 for part in model.parts}
    training = study.training.at_round(instruction.round)
    start = weights_of(instruction)
    fit = PrivateFit(model, start, cohort, study, training, clipped, segment, draws)
    moved = yield from _take_turn(fit, instruction, file, workbench)
    found = _trained(fit, weights, moved, spent_so_far(instruction, patients, ledger))
    found = _compressed(found, fit, weights, instruction, file, workbench)
    if not seeded:
        workbench.replies(file).keep(run, name, request, found)
    return found


def _take_turn(
    fit: Fit, instruction: Instruction, file: str, workbench: Workbench
) -> Generator[Fit, Fitted, Moved]:
    """Train as the strategy has it."""
    turn = Turn(
        fit,
        instruction.study.strategy,
        instruction.round,
        workbench.memory(file, instruction.run, instruction.model),
        instruction.control,
        None if instruction.counted is None else instruction.counted.get(workbench.site(file).name),
    )
    return (yield from train_locally(turn))


def fitting_model(instruction: Instruction, site: Site, workbench: Workbench) -> FlatModel:
    """Return the study's model, for which the weights that were sent are fit."""
    model = workbench.model(instruction.study, instruction.vocabulary, choose_device(site))
    weights = instruction.weights
    if weights is None or len(weights) != len(model.vector):
        raise TakesNoPart("not an instruction of this version")
    for other in (instruction.control, instruction.reference):
        if other is not None and len(other) != len(weights):
            raise TakesNoPart("not an instruction of this version")
    private = instruction.study.privacy.mechanism == "dp_sgd"
    largest = instruction.largest_weight
    if not math.isfinite(largest) or (private and largest > LARGEST_WEIGHT):
        raise TakesNoPart("not an instruction of this version")
    return model


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
    fit: Fit,
    weights: Mapping[str, int],
    moved: Moved,
    spent: SpentBody | None = None,
    initial_loss: float | None = None,
) -> Reply:
    told = {name: weight for name, weight in weights.items() if name != LOCAL}
    body = TrainBody.model_validate(
        {
            "loss": moved.fitted.loss,
            "steps": moved.fitted.steps,
            "patients": told,
            "initial_loss": initial_loss,
            "gradient_variance": moved.fitted.gradient_variance,
            "spent": spent,
        }
    )
    update = moved.update.astype(np.float32, copy=False)
    for part in Layout.of(fit.study.strategy, fit.model.parts).update:
        if part.stop <= len(update) and not weights[part.name]:
            update[part.start : part.stop] = 0  # too few patients moved it to let it leave
    return Reply("ok", body, update=update)


def _compressed(
    reply: Reply,
    fit: Fit,
    weights: Mapping[str, int],
    instruction: Instruction,
    file: str,
    workbench: Workbench,
) -> Reply:
    """Round the update to what can travel, as the study says."""
    wanted = fit.study.strategy.compression
    if wanted is None:
        return reply
    assert reply.update is not None
    moved = np.zeros(len(reply.update), np.bool_)
    for part in Layout.of(fit.study.strategy, fit.model.parts).update:
        moved[part.start : part.stop] = weights[part.name] > 0
    memory = workbench.memory(file, instruction.run, f"{instruction.model}:unsent")
    round_ = instruction.round
    update = compression.as_it_travels(reply.update, moved, wanted, memory, round_)
    return dataclasses.replace(reply, update=update)


def weights_of(instruction: Instruction) -> Vector:
    """Return the weights that were sent."""
    assert instruction.weights is not None
    return instruction.weights


def _counts(part: str, site: Site) -> bool:
    """Whether a private update has weight in a part: by the site file, not by any patient."""
    return part != LOCAL and (part == "fusion" or site.offers(part))


def _weight(holders: int, patients: int, minimum: int) -> int:
    """Return the weight of a part of the model that ``holders`` of the training patients move.

    Neither the few who have a modality nor the few who lack it can be told from the weight.

    >>> _weight(5, 60, 10), _weight(40, 60, 10), _weight(57, 60, 10)
    (0, 40, 60)
    """
    if holders < minimum:
        return 0
    return patients if patients - holders < minimum else holders
