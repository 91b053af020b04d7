"""The kinds of a single task: a line for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

from pydantic import Discriminator, Tag

from federation.tasks.base import Task
from federation.tasks.binary import BinaryTask
from federation.tasks.multiclass import MulticlassTask
from federation.tasks.multilabel import MultilabelTask
from federation.tasks.survival import SurvivalTask

SINGLE: tuple[type[Task], ...] = (BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask)


def name_of(kind: type[Task]) -> str:
    """Return what ``kind`` is in a study that has such a task."""
    return str(kind.model_fields["kind"].default)


def one_of(kinds: Iterable[type[Task]]) -> Any:
    """Return the type of a table that is a task of one of the kinds; yes or no if none is named."""
    tagged = tuple(Annotated[kind, Tag(name_of(kind))] for kind in kinds)
    return Annotated[Union[tagged], Discriminator(_kind)]  # noqa: UP007


def _kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return str(given.get("kind", "binary"))
    return str(getattr(given, "kind", given))


if TYPE_CHECKING:
    SingleTask: TypeAlias = Task
else:
    SingleTask = one_of(SINGLE)
