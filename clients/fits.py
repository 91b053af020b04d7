"""What a site's training in a round starts from, and what comes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clients.workbench import Cohort
from federation.bodies import LARGEST_LOSS
from federation.models.build import FlatModel, Vector
from federation.privacy.accounting import Segment
from federation.privacy.clipping import ClippedSum
from federation.privacy.noise import Randomness
from federation.reduce import Part
from federation.study import Study
from federation.training import TrainingSection


@dataclass(frozen=True)
class Pull:
    """What a strategy adds to each gradient, after any noise.

    Attributes:
        direction: (parameters,) float32, the same in each step; None for nothing.
        strength: what the distance from ``anchor`` is multiplied by.
        anchor: (parameters,) float32; None if the strength is 0.
    """

    direction: Vector | None = None
    strength: float = 0.0
    anchor: Vector | None = None


@dataclass(frozen=True)
class Fit:
    """One site's training in one round, ready to run: all is checked, and paid for.

    Attributes:
        model: the study's, on the site's device; its weights are overwritten.
        start: the weights to begin with.
        cohort: with at least one training patient.
        study: the resolved study.
        training: how to train; the study's, at the learning rate of the round.
        slowed: what each gradient is multiplied by, which may differ from site to site; None for
            nothing.
        pull: what is added to each gradient; None for nothing.
        held: stretches of the parameters that do not move.
        watched: whether to say how much the gradients vary.
    """

    model: FlatModel
    start: Vector
    cohort: Cohort
    study: Study
    training: TrainingSection
    slowed: float | None = field(default=None, kw_only=True)
    pull: Pull | None = field(default=None, kw_only=True)
    held: tuple[Part, ...] = field(default=(), kw_only=True)
    watched: bool = field(default=False, kw_only=True)

    @functools.cached_property
    def rows(self) -> Tensor:
        """The training patients, (patients,) int64."""
        return torch.from_numpy(self.cohort.patients.splits["train"])


@dataclass(frozen=True)
class PlainFit(Fit):
    """Without privacy.

    Attributes:
        generator: makes the generator of batches and modality dropout.
    """

    generator: Callable[[], torch.Generator]


@dataclass(frozen=True)
class PrivateFit(Fit):
    """By DP-SGD.

    Attributes:
        clipped: adds up clipped gradients of the model.
        segment: how many steps, and their rate and noise.
        randomness: makes the source of samples, noise and modality dropout.
    """

    clipped: ClippedSum
    segment: Segment
    randomness: Callable[[], Randomness]


@dataclass(frozen=True)
class Fitted:
    """What local training found.

    Attributes:
        weights: the local model's.
        loss: mean training loss over the round's batches; None if it diverged or was not kept.
        steps: optimiser steps.
        gradient_variance: squared standard error of the mean gradient, all parameters together;
            None of fewer than two steps, and where it was not watched.
    """

    weights: Vector
    loss: float | None
    steps: int
    gradient_variance: float | None = None

    @classmethod
    def of(
        cls, weights: Vector, losses: list[float], steps: int, variance: float | None = None
    ) -> Fitted:
        """Return it with the mean of what losses there are."""
        mean = sum(losses) / len(losses) if losses else None
        kept = mean if mean is not None and mean <= LARGEST_LOSS else None
        return cls(weights, kept, steps, variance)
