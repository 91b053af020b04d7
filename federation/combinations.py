"""What in a study excludes what, and why. ``Study`` refuses a study for the first conflict here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from federation.metrics.noised import COARSE_THRESHOLDS

if TYPE_CHECKING:
    from federation.study import Study

FLIPPING = ("label_flip", "backdoor")
"""Attacks that change labels."""

NOT_RECALIBRATED = {
    "multiclass": "takes a patient's risks from the logits of all classes together, of which "
    "counts by one class at a time do not tell",
    "survival": "has a risk for each horizon",
    "several": "has logits of its own for each task",
}
"""Why, by kind of task."""


def conflicts(study: Study) -> Iterator[str]:
    """Yield each conflict, with what to do about it."""
    yield from _with_the_task(study)
    yield from _with_the_strategy(study)
    yield from _with_compression(study)
    yield from _with_sampling(study)
    yield from _with_selection(study)
    yield from _with_the_evaluation(study)
    if study.privacy.mechanism != "none":
        yield from _with_any_noise(study)
    if study.privacy.mechanism == "central":
        yield from _with_central_noise(study)
    if study.privacy.mechanism == "dp_sgd":
        yield from _with_noise_at_the_sites(study)


def _with_the_task(study: Study) -> Iterator[str]:
    task, loss = study.task, study.training.loss
    if not isinstance(loss.class_weight, str):
        for name in sorted(set(loss.class_weight) - set(task.weighs)):
            known = ", ".join(task.weighs) or "none"
            yield (
                f'training.loss.class_weight weighs "{name}", which task.kind = "{task.kind}" does '
                f"not have; it has: {known}"
            )
    if not task.weighs and not loss.plain:
        yield (
            f'training.loss is of outcomes that happen or not; task.kind = "{task.kind}" has its '
            "own likelihood: leave training.loss away"
        )
    selection = study.selection
    if selection.metric not in task.metrics and (selection.measures or selection.chosen):
        yield (
            f'selection.metric = "{selection.metric}" is not measured of task.kind = '
            f'"{task.kind}": give one of {", ".join(task.metrics)}'
        )
    if task.kind == "binary":
        return
    if study.evaluation.existing_score is not None:
        yield (
            "evaluation.existing_score is the risk of one yes-or-no outcome, and task.kind is "
            f'"{task.kind}": leave it away'
        )
    if study.evaluation.noise is not None:
        yield (
            "evaluation.noise is for counts of one yes-or-no outcome, and task.kind is "
            f'"{task.kind}": leave it away'
        )
    if study.evaluation.predecessor is not None:
        yield (
            "evaluation.predecessor compares AUROCs of one yes-or-no outcome, and task.kind is "
            f'"{task.kind}": leave it away'
        )
    if study.evaluation.windows is not None:
        yield (
            "evaluation.windows looks for drift of one yes-or-no outcome, and task.kind is "
            f'"{task.kind}": leave it away'
        )
    if study.personalisation.calibration != "none":
        yield (
            "personalisation.calibration is a line through one logit, and task.kind is "
            f'"{task.kind}": leave it away'
        )
    if study.evaluation.recalibration is not None and task.kind in NOT_RECALIBRATED:
        yield (
            "evaluation.recalibration fits a line through one logit, and task.kind = "
            f'"{task.kind}" {NOT_RECALIBRATED[task.kind]}: leave it away'
        )
    screening = study.strategy.screening
    if "brier" not in task.metrics and screening is not None and screening.judge is not None:
        yield (
            "strategy.screening.judge goes by the Brier score, which is not measured of task.kind "
            f'= "{task.kind}": give norm_ratio or least_cosine'
        )
    faults = None if study.simulation is None else study.simulation.faults
    if faults is not None and any(one.attack in FLIPPING for one in faults.hostile):
        yield (
            "simulation.faults: attacks on labels are made for yes-or-no labels, and task.kind is "
            f'"{task.kind}": take sign_flip or scaled_update'
        )


def _with_the_strategy(study: Study) -> Iterator[str]:
    strategy, optimizer = study.strategy, study.training.optimizer
    if strategy.only_plain_sgd and not optimizer.plain_sgd:
        yield (
            f'strategy.name = "{strategy.name}" reckons with steps that are a learning rate times '
            'a gradient: give training.optimizer = { name = "sgd", lr = ... }, without momentum '
            "and weight_decay"
        )
    own_rule = strategy.own_number or strategy.needs == "each"
    if own_rule and strategy.weighting == "inverse_variance":
        yield (
            f'strategy.name = "{strategy.name}" weighs sites by its own rule: '
            'give strategy.weighting = "patients" or "uniform"'
        )
    fewest = strategy.fewest_sites
    if strategy.minimum_sites < fewest:
        yield (
            f'strategy.name = "{strategy.name}" with these options needs {fewest} updates in a '
            f"round: give strategy.minimum_sites = {fewest} or more"
        )


def _with_compression(study: Study) -> Iterator[str]:
    strategy, compression = study.strategy, study.strategy.compression
    if compression is None:
        return
    named = f'strategy.compression.kind = "{compression.kind}"'
    if strategy.in_step:
        yield (
            f"{named} rounds updates, and what sites keep under strategy.name = "
            f'"{strategy.name}" must be in step with what the coordinator gets: leave it away'
        )
    if compression.feeds_back and strategy.own_number:
        yield (
            f"{named} adds to an update what earlier ones left, and strategy.name = "
            f'"{strategy.name}" scales each update by a number of its own round: use "fp16", "bf16"'
        )
    if compression.kind != "top_k":
        return
    for what in _that_compare(study):
        yield (
            f"{named} makes most numbers of an update zero, and {what} compares updates number by "
            'number: use "int8"'
        )
    for what in _that_shorten(study):
        yield (
            f"{named} sends later what it leaves now, and {what} shortens or refuses long updates, "
            'so that it would be lost: use "int8"'
        )


def _that_compare(study: Study) -> Iterator[str]:
    if study.strategy.needs == "each" and study.strategy.counts_once:
        yield f'strategy.name = "{study.strategy.name}"'
    if study.strategy.screening is not None:
        yield "strategy.screening"


def _that_shorten(study: Study) -> Iterator[str]:
    if study.privacy.mechanism == "central":
        yield 'privacy.mechanism = "central"'
    if study.strategy.name == "norm_bound":
        yield 'strategy.name = "norm_bound"'
    if study.strategy.maximum_update_norm is not None:
        yield "strategy.maximum_update_norm"


def _with_sampling(study: Study) -> Iterator[str]:
    training = study.training
    if training.sampling != "balanced":
        return
    if training.loss.class_weight != "none":
        yield (
            'training.sampling = "balanced" and training.loss.class_weight = '
            f'"{training.loss.class_weight}" would each make up for a rare class: give one of them'
        )
    if study.task.kind not in ("binary", "multiclass"):
        yield (
            f'training.sampling = "balanced" draws classes alike, and task.kind = '
            f'"{study.task.kind}" has no single class for a patient: leave it away'
        )


def _with_selection(study: Study) -> Iterator[str]:
    selection, every = study.selection, study.evaluation.every
    if selection.measures and not every:
        yield (
            "selection.keep and selection.patience go by the tuning split, and "
            "evaluation.every = 0 never measures it: give evaluation.every = 1"
        )
    if selection.keep == "best" and study.strategy.keeps and study.strategy.personal:
        yield (
            f'selection.keep = "best" cannot bring back what sites keep for themselves under '
            f'strategy.name = "{study.strategy.name}": leave it away'
        )
    if study.strategy.ema is not None and study.strategy.keeps and study.strategy.personal:
        yield (
            "strategy.ema averages the shared part over rounds, and what sites keep for themselves "
            f'under strategy.name = "{study.strategy.name}" fits the last one: leave it away'
        )


def _with_the_evaluation(study: Study) -> Iterator[str]:
    if study.evaluation.predecessor is not None and study.personal:
        yield (
            "evaluation.predecessor compares with one model, and under "
            f'strategy.name = "{study.strategy.name}" each site uses one of its own: leave it away'
        )
    if study.evaluation.recalibration is not None and study.personal:
        yield (
            "evaluation.recalibration fits one line for all sites, and under "
            f'strategy.name = "{study.strategy.name}" or personalisation each site uses a model of '
            'its own: give personalisation.calibration = "platt" in its place'
        )
    if study.evaluation.noise is not None:
        yield from _with_noised_evaluation(study)


def _with_noised_evaluation(study: Study) -> Iterator[str]:
    """Every further look at the same patients would have to be planned and paid for."""
    evaluation, threshold = study.evaluation, study.evaluation.threshold
    if study.privacy.mechanism != "dp_sgd":
        yield (
            "evaluation.noise protects tuning and held-out patients, and nothing those who train: "
            'give privacy.mechanism = "dp_sgd", or leave it away'
        )
    for key, given, why in (
        ("baselines", evaluation.baselines, "each is scored on the same patients again"),
        ("existing_score", evaluation.existing_score, "it is counted on the same patients again"),
        (
            "predecessor",
            evaluation.predecessor,
            "a correlation has no noise",
        ),
        ("windows", evaluation.windows, "inputs by window are counted without noise"),
        ("recalibration", evaluation.recalibration, "noise biases a slope by as much as it varies"),
    ):
        if given:
            yield f"evaluation.noise does not cover evaluation.{key}, for {why}: leave one away"
    if study.personal:
        yield (
            "evaluation.noise plans for one model, and under "
            f'strategy.name = "{study.strategy.name}" each site uses one of its own: leave it away'
        )
    if study.strategy.screening is not None:
        yield (
            "strategy.screening may score updates beyond the plan that evaluation.noise pays for: "
            "leave one away"
        )
    if threshold.rule == "fixed" and threshold.value not in COARSE_THRESHOLDS:
        told = ", ".join(f"{one:g}" for one in COARSE_THRESHOLDS)
        yield f"with evaluation.noise a fixed evaluation.threshold.value is one of {told}"


def _with_any_noise(study: Study) -> Iterator[str]:
    mechanism, ehr = study.privacy.mechanism, study.modalities.ehr
    if ehr is not None and ehr.vocabulary == "prepared":
        yield (
            'modalities.ehr.vocabulary = "prepared" counts codes without noise, which '
            f'privacy.mechanism = "{mechanism}" does not cover. Use "hashed" or "listed", with '
            "reference_ranges"
        )
    if study.strategy.weighting == "inverse_variance":
        yield (
            'strategy.weighting = "inverse_variance" weighs by how much gradients vary, which '
            f'privacy.mechanism = "{mechanism}" does not cover. Use "patients" or "uniform"'
        )
    if study.strategy.participation.kind == "power_of_choice":
        yield (
            'strategy.participation.kind = "power_of_choice" goes by the loss of training '
            f'patients, which privacy.mechanism = "{mechanism}" does not cover. Use "random"'
        )


def _with_central_noise(study: Study) -> Iterator[str]:
    strategy, image = study.strategy, study.modalities.image
    if image is not None and image.freeze:
        yield (
            'modalities.image.freeze holds layers still, and privacy.mechanism = "central" adds '
            "noise to all of the model: leave it away"
        )
    if strategy.not_with_central:
        yield _with_mechanism(study, strategy.not_with_central)
    if strategy.screening is not None:
        yield (
            "strategy.screening looks at every update by itself, which privacy.mechanism = "
            '"central" does not cover: leave it away'
        )
    if strategy.weighting != "uniform":
        yield (
            'privacy.mechanism = "central" protects a hospital, so each must count once: '
            'give strategy.weighting = "uniform"'
        )


def _with_noise_at_the_sites(study: Study) -> Iterator[str]:
    if study.strategy.not_with_dp_sgd:
        yield _with_mechanism(study, study.strategy.not_with_dp_sgd)
    if study.personalisation.fine_tune_epochs:
        yield (
            "personalisation.fine_tune_epochs trains without noise, and how the result scores "
            'leaves the site, which privacy.mechanism = "dp_sgd" does not cover: leave it away'
        )
    if study.training.loss.class_weight == "balanced":
        yield (
            'training.loss.class_weight = "balanced" follows from the labels of all training '
            'patients, which privacy.mechanism = "dp_sgd" does not cover. Use "none", or weights '
            "that the study gives"
        )
    if not study.task.separable:
        yield (
            'model = "cox" compares each patient with all who were at risk, so that a clipped '
            'gradient would be no patient\'s own, which privacy.mechanism = "dp_sgd" needs. Use '
            '"discrete"'
        )
    if study.training.sampling == "balanced":
        yield (
            'training.sampling = "balanced" chooses patients by the labels of all, and '
            'privacy.mechanism = "dp_sgd" reckons with each patient being drawn by chance alone '
            "(Poisson). Leave it away"
        )
    if study.training.precision != "float32":
        yield (
            f'training.precision = "{study.training.precision}" keeps eight bits of a number, and '
            'privacy.mechanism = "dp_sgd" must know how long each patient\'s gradient is: give '
            '"float32"'
        )
    if study.training.max_grad_norm is not None:
        yield (
            "training.max_grad_norm bounds the gradient of a whole step, and privacy.mechanism = "
            '"dp_sgd" bounds that of each patient already: give privacy.max_grad_norm alone'
        )
    if study.split.by == "time":
        yield (
            'split.by = "time" lets one patient decide where others fall, which '
            'privacy.mechanism = "dp_sgd" does not cover. Use "patient" or "given"'
        )
    if study.simulation is not None and study.simulation.arrival is not None:
        yield (
            "simulation.arrival changes the number of training patients from round to round, "
            'and privacy.mechanism = "dp_sgd" samples at a rate that is fixed for the run'
        )


def _with_mechanism(study: Study, why: str) -> str:
    return (
        f'strategy.name = "{study.strategy.name}" cannot be combined with privacy.mechanism = '
        f'"{study.privacy.mechanism}": {why}. `wardround strategies` lists those that can'
    )
