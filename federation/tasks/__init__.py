"""The tasks: what is predicted of a patient, and how labels, losses, scores and summaries follow.

A file for each kind, and a line in ``kinds.SINGLE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from federation.tasks.base import Task
from federation.tasks.binary import BinaryTask
from federation.tasks.kinds import SINGLE
from federation.tasks.multiclass import MulticlassTask
from federation.tasks.multilabel import MultilabelTask
from federation.tasks.several import SeveralTask
from federation.tasks.survival import SurvivalTask
from federation.validation import by_name, one_of

__all__ = [
    "TASKS",
    "BinaryTask",
    "MulticlassTask",
    "MultilabelTask",
    "SeveralTask",
    "SurvivalTask",
    "Task",
    "TaskSection",
]

KINDS: tuple[type[Task], ...] = (*SINGLE, SeveralTask)

TASKS: Mapping[str, type[Task]] = by_name(KINDS, "kind")

if TYPE_CHECKING:
    TaskSection: TypeAlias = Task
else:
    TaskSection = one_of(KINDS, "kind", "binary")
