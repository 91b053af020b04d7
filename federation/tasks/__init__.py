"""The tasks: what is predicted of a patient, and how labels, losses, scores and summaries follow.

A file for each kind, and a line in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

from pydantic import Discriminator, Tag

from federation.tasks.base import Task
from federation.tasks.binary import BinaryTask
from federation.tasks.multiclass import MulticlassTask
from federation.tasks.multilabel import MultilabelTask
from federation.tasks.survival import SurvivalTask

__all__ = [
    "TASKS",
    "BinaryTask",
    "MulticlassTask",
    "MultilabelTask",
    "SurvivalTask",
    "Task",
    "TaskSection",
]

KINDS: tuple[type[Task], ...] = (BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask)

TASKS: Mapping[str, type[Task]] = {str(kind.model_fields["kind"].default): kind for kind in KINDS}


def _kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return str(given.get("kind", "binary"))
    return str(getattr(given, "kind", given))


if TYPE_CHECKING:
    TaskSection: TypeAlias = Task
else:
    kinds = tuple(Annotated[kind, Tag(name)] for name, kind in TASKS.items())
    TaskSection = Annotated[Union[kinds], Discriminator(_kind)]  # noqa: UP007
