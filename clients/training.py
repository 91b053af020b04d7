"""Local training: one loop, over plain or private gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from clients.workbench import Cohort
from federation.bodies import LARGEST_LOSS
from federation.models.build import FlatModel
from federation.privacy.accounting import Segment
from federation.privacy.clipping import ClippedSum
from federation.privacy.engine import Batch, poisson_sample, private_mean
from federation.privacy.noise import Randomness
from federation.study import OptimizerSection, Study, TrainingSection

BATCHES_AT_ONCE = 8
"""Batches gathered from the cohort together, of which each is then a view."""


@dataclass(frozen=True)
class LocalResult:
    """What local training found.

    Attributes:
        loss: mean training loss over the round's batches; None if it diverged or was not kept.
        steps: optimiser steps.
    """

    loss: float | None
    steps: int


def train_locally(model: FlatModel, study: Study, gradients: Iterable[float | None]) -> LocalResult:
    """Train the model in place: a step of the optimiser for each gradient.

    Args:
        model: holds the global weights on entry and the local ones on return.
        study: the resolved study.
        gradients: each step has filled the model's gradient and gives the batch's loss, or None;
            ``plain_gradients`` or ``private_gradients``.
    """
    optimizer = _optimizer(model, study.training.optimizer)
    if not model.module.training:  # walking the modules costs as much as a small step
        model.module.train()
    losses, steps = [], 0
    for loss in gradients:
        optimizer.step()
        steps += 1
        if loss is not None:
            losses.append(loss)
    mean = sum(losses) / len(losses) if losses else None
    return LocalResult(mean if mean is not None and mean <= LARGEST_LOSS else None, steps)


def plain_gradients(
    model: FlatModel, cohort: Cohort, study: Study, generator: torch.Generator
) -> Iterator[float]:
    """Yield the loss of each batch, with the model's gradient set to that of the mean loss.

    Args:
        model: the weights move between two steps.
        cohort: at least one training patient.
        study: the resolved study.
        generator: of batches and modality dropout.
    """
    rows = torch.from_numpy(cohort.patients.splits["train"])
    positive_weight = _positive_weight(cohort.labels[rows], study)
    gradient = model.vector.grad
    assert gradient is not None

    def uniform(size: int) -> Tensor:
        return torch.rand(size, generator=generator)

    for values, present, labels in _batches(cohort, rows, study.training, generator, model.device):
        if study.fusion.modality_dropout:
            present = drop_modalities(present, study.fusion.modality_dropout, uniform)
        logits = model.module(values, present)
        loss = binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight)
        gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        yield loss.item()


def private_gradients(
    model: FlatModel,
    clipped: ClippedSum,
    cohort: Cohort,
    study: Study,
    segment: Segment,
    randomness: Randomness,
) -> Iterator[None]:
    """Yield after each step of DP-SGD, with the model's gradient set to the noised mean.

    Modality dropout is drawn from the private randomness too: with a seed that the coordinator
    knows, one patient more would shift the others' masks, and so their gradients, visibly.

    Args:
        model: the weights move between two steps.
        clipped: adds up clipped gradients of the model.
        cohort: the training patients are sampled from it.
        study: the resolved study.
        segment: how many steps, and their rate and noise; paid for already.
        randomness: of sampling, noise and modality dropout.
    """
    rows = torch.from_numpy(cohort.patients.splits["train"])
    gradient = model.vector.grad
    assert gradient is not None
    privacy, dropout = study.privacy, study.fusion.modality_dropout

    def physical(chosen: Tensor) -> Iterator[Batch]:
        for some in torch.split(chosen, privacy.physical_batch):
            values, present = cohort.inputs(some, model.device)
            if dropout and len(some):
                present = drop_modalities(present, dropout, randomness.uniform)
            yield values, present, cohort.labels[some].to(model.device)

    for _ in range(segment.steps):
        chosen = poisson_sample(rows, segment.sampling_rate, randomness)
        private_mean(
            clipped,
            gradient,
            physical(chosen),
            segment,
            privacy.max_grad_norm,
            len(rows),
            randomness,
        )
        yield None


def drop_modalities(
    present: Mapping[str, Tensor], probability: float, uniform: Callable[[int], Tensor]
) -> dict[str, Tensor]:
    """Hide each modality of each patient with a probability, but never a patient's last one."""
    kept = {
        name: mask & (uniform(len(mask)) >= probability).to(mask.device)
        for name, mask in present.items()
    }
    something = torch.stack(list(kept.values())).any(0)
    return {name: torch.where(something, kept[name], present[name]) for name in present}


def _batches(
    cohort: Cohort,
    rows: Tensor,
    training: TrainingSection,
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield shuffled batches: whole passes, or a number of steps over as many passes as needed."""
    size = training.batch_size

    def endless() -> Iterator[Batch]:
        while True:
            order = rows[torch.randperm(len(rows), generator=generator)]
            for window in torch.split(order, size * BATCHES_AT_ONCE):
                values, present = cohort.inputs(window, device)
                labels = cohort.labels[window].to(device)
                for start in range(0, len(window), size):
                    some = slice(start, start + size)
                    yield (
                        {name: value[some] for name, value in values.items()},
                        {name: mask[some] for name, mask in present.items()},
                        labels[some],
                    )

    steps = training.local_steps
    if steps is None:
        assert training.local_epochs is not None
        steps = training.local_epochs * math.ceil(len(rows) / size)
    return islice(endless(), steps)


class FlatSgd:
    """SGD with momentum and weight decay on one flat vector, as torch.optim.SGD defines it.

    Torch's own step costs several times the arithmetic of a small model, in every step of every
    site. The two are compared in the tests.
    """

    def __init__(self, vector: torch.nn.Parameter, section: OptimizerSection):
        self._vector, self._section = vector, section
        self._velocity: Tensor | None = None

    def step(self) -> None:
        """Apply the gradient."""
        direction, section = self._vector.grad, self._section
        assert direction is not None
        if section.weight_decay:
            direction = direction.add(self._vector, alpha=section.weight_decay)
        if section.momentum:
            if self._velocity is None:
                self._velocity = direction.clone()
            else:
                self._velocity.mul_(section.momentum).add_(direction)
            direction = self._velocity
        self._vector.add_(direction, alpha=-section.lr)


def _optimizer(model: FlatModel, section: OptimizerSection) -> FlatSgd | torch.optim.Optimizer:
    if section.name == "sgd":
        return FlatSgd(model.vector, section)
    kind = torch.optim.Adam if section.name == "adam" else torch.optim.AdamW
    return kind([model.vector], lr=section.lr, weight_decay=section.weight_decay)


def _positive_weight(labels: Tensor, study: Study) -> Tensor | None:
    """Weight of a positive patient so that both classes weigh alike; None where none is due."""
    if study.training.loss.class_weight == "none":
        return None
    positives = float(labels.sum())
    negatives = len(labels) - positives
    return torch.tensor(negatives / positives) if positives and negatives else None
