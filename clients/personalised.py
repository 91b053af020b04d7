"""The model that a site uses, made of the coordinator's and of what the site keeps for itself."""

from __future__ import annotations

import functools
from collections.abc import Generator

from clients.evaluation import fitted_line
from clients.fits import Fit, Fitted, PlainFit
from clients.methods import own_weights
from clients.rounds import weights_of
from clients.site import Site
from clients.workbench import Cohort, Workbench
from federation.messages import Instruction
from federation.metrics.grid import UNCHANGED, Line
from federation.models.build import FlatModel
from federation.randomness import torch_generator


def personalised(
    instruction: Instruction,
    file: str,
    site: Site,
    workbench: Workbench,
    model: FlatModel,
    cohort: Cohort,
) -> Generator[Fit, Fitted, Line]:
    """Load the weights that the site uses into the model.

    What the rounds keep at the site belongs to the model in every evaluation. Fine-tuning and
    calibration are of the finished one, which is scored outside of the rounds.

    Returns:
        The line through the logits that calibrates them to the site.
    """
    study, round_ = instruction.study, instruction.round
    memory = workbench.memory(file, instruction.run, instruction.model)
    kept = {}
    if study.strategy.personal:
        kept = memory.before(round_ + 1) if round_ else memory.last()
    weights = own_weights(study.strategy, model, weights_of(instruction), kept)
    finished = not round_
    epochs = study.personalisation.fine_tune_epochs if finished else 0
    if epochs and len(cohort.patients.splits["train"]):
        training = study.training.model_copy(update={"local_epochs": epochs, "local_steps": None})
        generator = functools.partial(
            torch_generator, study.study.seed, "fine-tuning", site.name, instruction.model
        )
        fitted = yield PlainFit(model, weights, cohort, study, training, generator)
        weights = fitted.weights
    model.load(weights)
    if finished and study.personalisation.calibration == "platt":
        return fitted_line(model, cohort)
    return UNCHANGED
