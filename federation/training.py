"""How a site trains in a round, and what is done with the model beside: tables of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from federation.validation import Section


class ScheduleSection(Section):
    """How the learning rate changes from round to round.

    In the first ``warmup_rounds`` it rises evenly to its full value. After them ``cosine`` and
    ``linear`` lower it, to ``least`` of that one round after the last; ``step`` multiplies it by
    ``factor_each`` after every ``every`` rounds.
    """

    kind: Literal["constant", "linear", "cosine", "step"] = "constant"
    warmup_rounds: int = Field(default=0, ge=0)
    least: float = Field(default=0.0, ge=0, lt=1)
    every: PositiveInt | None = None
    factor_each: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> ScheduleSection:
        steps = self.every is not None, self.factor_each is not None
        if self.kind == "step" and not all(steps):
            raise ValueError('kind "step" needs every and factor_each')
        if self.kind != "step" and any(steps):
            raise ValueError('every and factor_each are options of kind "step"')
        if self.least and self.kind not in ("linear", "cosine"):
            raise ValueError('least is an option of the kinds "linear" and "cosine"')
        return self

    def factor(self, round_: int, rounds: int) -> float:
        """Return by what the learning rate is multiplied in a round, from 1, of so many.

        >>> [ScheduleSection(kind="linear", warmup_rounds=2).factor(r, 6) for r in (1, 2, 3, 6)]
        [0.5, 1.0, 1.0, 0.25]
        """
        if round_ <= self.warmup_rounds:
            return round_ / self.warmup_rounds
        first = self.warmup_rounds + 1
        if self.kind == "step":
            assert self.every is not None and self.factor_each is not None
            return self.factor_each ** ((round_ - first) // self.every)
        if self.kind == "constant":
            return 1.0
        done = (round_ - first) / (rounds - first + 1)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.least + (1 - self.least) * left


class OptimizerSection(Section):
    """The optimiser at a site; its state starts anew each round."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    schedule: ScheduleSection = ScheduleSection()
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _momentum_is_for_sgd(self) -> OptimizerSection:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum is an option of sgd, not of {self.name}")
        return self

    @property
    def plain_sgd(self) -> bool:
        """Whether a step is the gradient times the learning rate, and nothing else."""
        return self.name == "sgd" and not self.momentum and not self.weight_decay

    def at_round(self, round_: int, rounds: int) -> OptimizerSection:
        """Return the optimiser of one round, with the learning rate that the schedule gives."""
        factor = self.schedule.factor(round_, rounds)
        if factor == 1:
            return self
        return self.model_copy(update={"lr": self.lr * factor, "schedule": ScheduleSection()})


Weight = Annotated[float, Field(gt=0, le=1e4)]


class LossSection(Section):
    """What training minimises, patient by patient.

    ``bce`` is another name of ``cross_entropy``, for a yes-or-no outcome.
    ``focal`` weighs patients down who are predicted well already, the more the larger ``gamma``.
    ``class_weight``: ``balanced`` weighs the classes of a site's training patients alike; weights
    by name are the study's own. ``smoothing`` moves each label so far towards not knowing it.
    """

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float | None = Field(default=None, gt=0, le=10)
    class_weight: Literal["none", "balanced"] | dict[str, Weight] = "none"
    smoothing: float = Field(default=0.0, ge=0, lt=0.5)

    @field_validator("name", mode="before")
    @classmethod
    def _cross_entropy_has_two_names(cls, name: object) -> object:
        return "cross_entropy" if name == "bce" else name

    @model_validator(mode="after")
    def _gamma_is_for_focal(self) -> LossSection:
        if self.gamma is not None and self.name != "focal":
            raise ValueError('gamma is an option of name = "focal"')
        return self

    @property
    def focus(self) -> float:
        """The exponent of the focal loss."""
        return 2.0 if self.gamma is None else self.gamma

    @property
    def plain(self) -> bool:
        """Whether it is the task's own likelihood, and nothing else."""
        return self.weighted_only and self.class_weight == "none"

    @property
    def weighted_only(self) -> bool:
        """Whether it is the task's own likelihood, its outcomes weighed at most."""
        return self.name == "cross_entropy" and not self.smoothing


class TrainingSection(Section):
    """What a site does in a round: ``local_epochs`` passes, or ``local_steps`` batches.

    ``sampling``: in a pass each training patient comes once, or as many are drawn, with
    replacement, so that each class is as likely as the others. ``max_grad_norm``: a step's gradient
    is no longer than that. ``precision``: of the products within a step; weights, losses and
    gradients are float32 in either.
    """

    rounds: PositiveInt = 20
    local_epochs: PositiveInt | None = None
    local_steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    max_grad_norm: float | None = Field(default=None, ge=0.001, le=10_000)
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: OptimizerSection = OptimizerSection()
    loss: LossSection = LossSection()

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_unless_said(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not {"local_epochs", "local_steps"} & data.keys():
            return {**data, "local_epochs": 1}
        return data

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> TrainingSection:
        if (self.local_epochs is None) == (self.local_steps is None):
            raise ValueError("give local_epochs or local_steps, not both")
        return self

    def at_round(self, round_: int) -> TrainingSection:
        """Return the section with the learning rate of one round, from 1."""
        optimizer = self.optimizer.at_round(round_, self.rounds)
        return (
            self
            if optimizer is self.optimizer
            else self.model_copy(update={"optimizer": optimizer})
        )

    def steps(self, patients: int) -> int:
        """Return how many steps a round has at a site with so many training patients."""
        if self.local_steps is not None:
            return self.local_steps
        assert self.local_epochs is not None
        return self.local_epochs * math.ceil(patients / self.batch_size)


class SelectionSection(Section):
    """Which round's model is kept, and when training ends before the last round.

    Both go by ``metric`` on the tuning split, merged over the sites; of several tasks by one of
    them, ``death.auroc``, or by the ``mean`` of their first ones.
    """

    metric: str = "auroc"
    keep: Literal["last", "best"] = "last"
    patience: PositiveInt | None = None
    minimum_change: float = Field(default=0.0, ge=0, lt=1)

    @property
    def chosen(self) -> bool:
        """Whether the study names a metric of its own."""
        return self.metric != "auroc"

    @property
    def measures(self) -> bool:
        """Whether the rounds must be measured."""
        return self.keep == "best" or self.patience is not None


class PersonalisationSection(Section):
    """What a site does with the finished model before it uses, and tests, it.

    ``fine_tune_epochs``: passes over its training patients. ``calibration``: slope and intercept of
    its own, fitted on its tuning split.
    """

    fine_tune_epochs: int = Field(default=0, ge=0, le=1000)
    calibration: Literal["none", "platt"] = "none"

    @property
    def personal(self) -> bool:
        """Whether the model that a site uses is not the one that the coordinator has."""
        return self.fine_tune_epochs > 0 or self.calibration != "none"
