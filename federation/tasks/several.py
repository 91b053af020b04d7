"""Several tasks of the same patients, predicted by one model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

from pydantic import Field, PositiveFloat, model_validator

from federation.metrics.several import WITHIN, SeveralSummary
from federation.tasks.base import Task
from federation.tasks.kinds import SingleTask
from federation.training import LossSection

if TYPE_CHECKING:
    from torch import Tensor

    from federation.metrics.single import SingleSummary
    from federation.metrics.summaries import Summary
    from federation.tasks.base import Labels, Losses, Scores

TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

MEAN = "mean"
"""Of the tasks' first metrics: what ``selection`` may go by."""


class Part(NamedTuple):
    """One of the tasks, and where it lies.

    Attributes:
        name: its name in the study.
        task: what it is.
        logits: its columns of the model's outputs.
        labels: its columns of the labels.
        scores: its columns of the scores.
    """

    name: str
    task: Task
    logits: slice
    labels: slice
    scores: slice


class SeveralTask(Task):
    """Several tasks of the same patients: outputs, labels and scores lie side by side.

    A patient's loss is the sum of the losses of the tasks that are known of the patient, each
    times its weight. A patient of whom none is known is left out.
    """

    kind: Literal["several"] = "several"
    tasks: dict[TaskName, SingleTask] = Field(min_length=1, max_length=16)
    loss_weights: dict[TaskName, PositiveFloat] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _named_and_in_order(cls, data: Any) -> Any:
        """Name the whole by the labels of the tasks, where the study gives it no name.

        The tasks are in the order of their names: a study travels without the order of its file.
        """
        tasks = data.get("tasks") if isinstance(data, Mapping) else None
        if not isinstance(tasks, Mapping):
            return data
        labels = [
            str(one.get("label") if isinstance(one, Mapping) else getattr(one, "label", ""))
            for one in tasks.values()
        ]
        in_order = dict(sorted(tasks.items()))
        return {"label": ", ".join(labels) or "several", **data, "tasks": in_order}

    @model_validator(mode="after")
    def _names_are_right(self) -> SeveralTask:
        for name in self.loss_weights:
            if name not in self.tasks:
                known = ", ".join(self.tasks)
                raise ValueError(f'loss_weights: there is no task "{name}"; there is: {known}')
        labels = [task.label for task in self.tasks.values()]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(
                    f'tasks: two are of the label "{label}"; sites find labels by their name'
                )
        return self

    @property
    def parts(self) -> Iterator[Part]:
        """The tasks, in the order of their names."""
        starts = [0, 0, 0]
        for name, task in self.tasks.items():
            widths = task.outputs, math.prod(task.label_shape), math.prod(task.score_shape)
            logits, labels, scores = (
                slice(start, start + width) for start, width in zip(starts, widths, strict=True)
            )
            starts = [logits.stop, labels.stop, scores.stop]
            yield Part(name, task, logits, labels, scores)

    @property
    def outputs(self) -> int:
        """Those of all tasks."""
        return sum(task.outputs for task in self.tasks.values())

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A column for each of the tasks' numbers."""
        width = sum(math.prod(task.label_shape) for task in self.tasks.values())
        return () if width == 1 else (width,)

    @property
    def score_shape(self) -> tuple[int, ...]:
        """The risks of all tasks."""
        return (sum(math.prod(task.score_shape) for task in self.tasks.values()),)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The mean of the tasks' first metrics, and each task's own, ``death.auroc``."""
        own = (f"{name}.{one}" for name, task in self.tasks.items() for one in task.metrics)
        return (MEAN, *own)

    @property
    def separable(self) -> bool:
        """Whether all tasks are."""
        return all(task.separable for task in self.tasks.values())

    @property
    def apart(self) -> Mapping[str, slice]:
        """Each task; of findings each, as ``findings/effusion``."""
        found: dict[str, slice] = {}
        for part in self.parts:
            first = part.labels.start
            inside = {
                f"{part.name}{WITHIN}{name}": slice(first + columns.start, first + columns.stop)
                for name, columns in part.task.apart.items()
            }
            found |= inside or {part.name: part.labels}
        return found

    @property
    def weighs(self) -> tuple[str, ...]:
        """The outcomes of all tasks that have some, ``death.positive``."""
        return tuple(f"{name}.{one}" for name, task in self.tasks.items() for one in task.weighs)

    def minimised(self, labels: Tensor, loss: LossSection) -> Losses:
        """See `Task`; labels that are not known add nothing, to a gradient neither."""
        found = []
        for part in self.parts:
            own = _of_part(labels, self.label_shape, part.labels, part.task.label_shape)
            by = own[_known(own)] if loss.class_weight == "balanced" else own[:0]
            losses = part.task.minimised(by, self._loss_of(part, loss))
            found.append((part, losses, self.loss_weights.get(part.name, 1.0)))

        def together(logits: Tensor, labels: Tensor) -> Tensor:
            total = logits.new_zeros(len(logits))
            for part, losses, weight in found:
                own = _of_part(labels, self.label_shape, part.labels, part.task.label_shape)
                one = losses(self._logits_of(logits, part), _filled(own, part.task))
                total = total + weight * one.where(_known(own), one.new_zeros(()))
            return total

        return together

    def losses(
        self, logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
    ) -> Tensor:
        """See `Task`; what outcomes weigh follows from ``loss`` alone."""
        return self.minimised(labels[:0], loss)(logits, labels)

    def scores(self, logits: Tensor) -> Tensor:
        """See `Task`; (patients, scores of all tasks)."""
        import torch

        found = []
        for part in self.parts:
            own = part.task.scores(self._logits_of(logits, part))
            found.append(own.reshape(len(own), part.scores.stop - part.scores.start))
        return torch.cat(found, 1)

    def summarise(self, scores: Scores, labels: Labels) -> SeveralSummary:
        """Each task, of the patients in whom it is known."""
        found: dict[str, SingleSummary] = {}
        for part in self.parts:
            known, own = self.known(labels, part)
            risks = scores[known, part.scores].reshape(len(own), *part.task.score_shape)
            found[part.name] = cast("SingleSummary", part.task.summarise(risks, own))
        return SeveralSummary(found)

    def known(self, labels: Labels, part: Part) -> tuple[Any, Labels]:
        """Return who has a label of one task, (patients,) bool, and those labels."""
        import numpy as np

        wide = labels.reshape(len(labels), math.prod(self.label_shape))[:, part.labels]
        known = ~np.isnan(wide).all(axis=1)
        own = np.ascontiguousarray(wide[known])
        return known, own.reshape(len(own), *part.task.label_shape)

    def explains(self, summary: Summary) -> bool:
        """See `Task`."""
        if not isinstance(summary, SeveralSummary) or summary.names != set(self.tasks):
            return False
        return all(self.tasks[name].explains(one) for name, one in summary.tasks.items())

    def probe_labels(self, patients: int) -> Tensor:
        """See `Task`; some are not known."""
        import torch

        found = []
        for number, part in enumerate(self.parts):
            own = part.task.probe_labels(patients).reshape(patients, -1)
            absent = torch.arange(patients) % (len(self.tasks) + 1) == number
            found.append(own.masked_fill(absent.unsqueeze(1), float("nan")))
        together = torch.cat(found, 1)
        return together.reshape(patients, *self.label_shape)

    def happened(self, labels: Labels) -> Labels:
        """See `Task`; the outcome of any task."""
        import numpy as np

        found = np.zeros(len(labels), labels.dtype)
        for part in self.parts:
            known, own = self.known(labels, part)
            found[known] = np.maximum(found[known], part.task.happened(own))
        return found

    def describe(self, labels: Labels) -> dict[str, Any]:
        """See `Task`; of each task how many have a label, and what it tells of those."""
        told = {}
        for part in self.parts:
            _, own = self.known(labels, part)
            counts = part.task.describe(own) if len(own) else {}
            told[part.name] = {"label": part.task.label, "known": len(own), **counts}
        return {"tasks": told}

    def _logits_of(self, logits: Tensor, part: Part) -> Tensor:
        whole, own = (() if n == 1 else (n,) for n in (self.outputs, part.task.outputs))
        return _of_part(logits, whole, part.logits, own)

    def _loss_of(self, part: Part, loss: LossSection) -> LossSection:
        """What ``training.loss`` means for one task; a likelihood of its own stays as it is."""
        if not part.task.weighs:
            return LossSection()
        if isinstance(loss.class_weight, str):
            return loss
        start = f"{part.name}."
        own = {
            name.removeprefix(start): weight
            for name, weight in loss.class_weight.items()
            if name.startswith(start)
        }
        return loss.model_copy(update={"class_weight": own or "none"})


def _of_part(
    values: Tensor, shape: tuple[int, ...], columns: slice, own: tuple[int, ...]
) -> Tensor:
    """Return one task's columns of (patients, *shape) numbers, (patients, *own)."""
    wide = values.reshape(len(values), math.prod(shape))[:, columns]
    return wide.reshape(len(values), *own)


def _known(labels: Tensor) -> Tensor:
    """Whether a task is known of each patient, (patients,): of findings one is enough."""
    if labels.dim() == 1:
        return ~labels.isnan()
    return ~labels.isnan().all(1)


def _filled(labels: Tensor, task: Task) -> Tensor:
    """Give labels that are not known a value at which the loss, which is dropped, is a number."""
    return labels if task.apart else labels.nan_to_num(nan=task.stand_in)
