"""Local training: one loop for every study."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from clients.workbench import Cohort
from federation.models.build import FlatModel
from federation.study import OptimizerSection, Study, TrainingSection


@dataclass(frozen=True)
class LocalResult:
    """What local training found.

    Attributes:
        loss: mean training loss over the round's batches; None if it was not finite.
        steps: optimiser steps.
    """

    loss: float | None
    steps: int


def train_locally(
    model: FlatModel, cohort: Cohort, study: Study, generator: torch.Generator
) -> LocalResult:
    """Train the model in place on the site's training patients.

    Args:
        model: holds the global weights on entry and the local ones on return.
        cohort: at least one training patient.
        study: the resolved study.
        generator: of batches and modality dropout.
    """
    rows = torch.from_numpy(cohort.patients.splits["train"])
    device = model.vector.device
    optimizer = _optimizer(model, study.training.optimizer)
    positive_weight = _positive_weight(cohort.labels[rows], study)
    gradient = model.vector.grad
    assert gradient is not None
    model.module.train()
    total, steps = 0.0, 0
    for batch in _batches(rows, study.training, generator):
        values, present = cohort.inputs(batch, device)
        if study.fusion.modality_dropout:
            present = drop_modalities(present, study.fusion.modality_dropout, generator)
        logits = model.module(values, present)
        loss = binary_cross_entropy_with_logits(
            logits, cohort.labels[batch].to(device), pos_weight=positive_weight
        )
        gradient.zero_()
        loss.backward()
        optimizer.step()
        total += loss.item()
        steps += 1
    mean = total / steps
    return LocalResult(mean if math.isfinite(mean) else None, steps)


def drop_modalities(
    present: dict[str, Tensor], probability: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Hide each modality of each patient with a probability, but never a patient's last one."""
    kept = {
        name: mask & (torch.rand(len(mask), generator=generator) >= probability).to(mask.device)
        for name, mask in present.items()
    }
    something = torch.stack(list(kept.values())).any(0)
    return {name: torch.where(something, kept[name], present[name]) for name in present}


def _batches(
    rows: Tensor, training: TrainingSection, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield shuffled batches: whole passes, or a number of steps over as many passes as needed."""

    def endless() -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(rows), generator=generator)
            yield from rows[order].split(training.batch_size)

    steps = training.local_steps
    if steps is None:
        assert training.local_epochs is not None
        steps = training.local_epochs * math.ceil(len(rows) / training.batch_size)
    return islice(endless(), steps)


def _optimizer(model: FlatModel, section: OptimizerSection) -> torch.optim.Optimizer:
    if section.name == "sgd":
        return torch.optim.SGD(
            [model.vector],
            lr=section.lr,
            momentum=section.momentum,
            weight_decay=section.weight_decay,
        )
    kind = torch.optim.Adam if section.name == "adam" else torch.optim.AdamW
    return kind([model.vector], lr=section.lr, weight_decay=section.weight_decay)


def _positive_weight(labels: Tensor, study: Study) -> Tensor | None:
    """Weight of a positive patient so that both classes weigh alike; None where none is due."""
    positives = float(labels.sum())
    negatives = len(labels) - positives
    if study.training.loss.class_weight == "none" or not positives or not negatives:
        return None
    return torch.tensor(negatives / positives)
