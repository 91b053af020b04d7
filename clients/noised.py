"""Scoring a split with noise on every count, paid from the site's ledger before it is drawn."""

from __future__ import annotations

import logging

import numpy as np

from clients.budget import (
    UnfitTerms,
    counted_attributes,
    planned_evaluations,
    spend_evaluation,
    wanted_evaluation_noise,
)
from clients.evaluation import predict
from clients.ledger import Ledger
from clients.outbound import TakesNoPart
from clients.site import Site
from clients.workbench import Cohort
from federation.bodies import EvaluateBody, NoiseBody
from federation.messages import Instruction
from federation.metrics.noised import BINS, NoisedSummary, noised_counts
from federation.metrics.suppression import reason
from federation.models.build import FlatModel
from federation.privacy.discrete import discrete_gaussian
from federation.privacy.noise import Randomness
from federation.study import Split
from federation.subgroups import LEVELS, WHOLE_SITE

logger = logging.getLogger("wardround.site")


def evaluate_with_noise(
    instruction: Instruction,
    model: FlatModel,
    cohort: Cohort,
    site: Site,
    ledger: Ledger,
    randomness: Randomness,
) -> EvaluateBody:
    """Count one split's scores, add noise to every count, and withhold what comes out small.

    Every level of an attribute is counted, whether or not the site has a patient of it: that there
    is one would tell. What is withheld follows from the noised totals, and so tells no more.

    Args:
        instruction: names study, model, split and round.
        model: loaded with the weights to score.
        cohort: the site's.
        site: whose policy and ledger hold.
        ledger: the site's.
        randomness: where the noise comes from.

    Raises:
        TakesNoPart: if the split has too few patients, or the terms do not fit.
        BudgetSpent: if the cap does not allow it, or it was not planned.
    """
    study, split = instruction.study, instruction.split
    assert split is not None
    rows, minimum = cohort.patients.splits[split], site.policy.minimum_cell
    if len(rows) < minimum:  # how many there are is declared public
        raise TakesNoPart("fewer patients than the site's minimum_cell")
    attributes = counted_attributes(study, site, split)
    counts = 1 + len(attributes)
    try:
        segment = spend_evaluation(instruction, len(rows), counts, site, ledger, randomness.seeded)
    except UnfitTerms as error:
        logger.error("%s", error)
        raise TakesNoPart("the study's privacy terms do not fit the site") from None
    scores = predict(model, cohort, rows, study.task)
    labels = cohort.patients.labels[rows]
    members = {WHOLE_SITE: np.ones(len(rows), bool)}
    for attribute in attributes:
        levels = cohort.patients.subgroups[attribute][rows]
        members |= {f"{attribute}={level}": levels == level for level in LEVELS[attribute]}
    cells, withheld = {}, {}
    for name, inside in members.items():
        exact = noised_counts(scores[inside], labels[inside].astype(np.float64))
        noise = discrete_gaussian(exact.size, segment.noise_multiplier, randomness.below)
        told = NoisedSummary(exact + noise.reshape(exact.shape), segment.noise_multiplier**2)
        least = max(minimum, round(2 * segment.noise_multiplier * np.sqrt(2 * BINS)))
        if name != WHOLE_SITE and told.n < least:
            withheld[name] = reason(least)
        else:
            cells[name] = told.to_json()
    return EvaluateBody(
        cells=cells,
        withheld=withheld,
        noise=NoiseBody(
            scale=segment.noise_multiplier,
            wanted_scale=wanted_evaluation_noise(study, split, counts),
            counts=counts,
            evaluations=_so_far(instruction, split, ledger),
            patients=len(rows),
            seeded=randomness.seeded,
        ),
    )


def _so_far(instruction: Instruction, split: Split, ledger: Ledger) -> int:
    model, study = f"{instruction.model}:{split}", instruction.study
    lines = ledger.lines(instruction.run, model)
    mine = [line for line in lines if line.fingerprint == study.fingerprint]
    return min(max(len(mine), 1), planned_evaluations(study, split))
