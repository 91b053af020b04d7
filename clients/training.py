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
from federation.messages import LARGEST_LOSS
from federation.models.build import FlatModel
from federation.study import OptimizerSection, Study, TrainingSection

Batch = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
"""Values and presence by modality, and labels."""

BATCHES_AT_ONCE = 8
"""Batches gathered from the cohort together, of which each is then a view."""


@dataclass(frozen=True)
class LocalResult:
    """What local training found.

    Attributes:
        loss: mean training loss over the round's batches; None if it diverged.
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
    if not model.module.training:  # walking the modules costs as much as a small step
        model.module.train()
    total, steps = 0.0, 0
    for values, present, labels in _batches(cohort, rows, study.training, generator, device):
        if study.fusion.modality_dropout:
            present = drop_modalities(present, study.fusion.modality_dropout, generator)
        logits = model.module(values, present)
        loss = binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight)
        gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
        steps += 1
    mean = total / steps
    return LocalResult(mean if mean <= LARGEST_LOSS else None, steps)


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
