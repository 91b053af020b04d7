"""The kinds of a single task: a line for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from federation.tasks.base import Task
from federation.tasks.binary import BinaryTask
from federation.tasks.multiclass import MulticlassTask
from federation.tasks.multilabel import MultilabelTask
from federation.tasks.survival import SurvivalTask
from federation.validation import one_of

SINGLE: tuple[type[Task], ...] = (BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask)

if TYPE_CHECKING:
    SingleTask: TypeAlias = Task
else:
    SingleTask = one_of(SINGLE, "kind", "binary")
