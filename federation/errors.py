"""The ways in which Wardround stops, each with its exit code and a message for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class WardroundError(Exception):
    """A failure that is explained to the user in one message, without a traceback."""

    exit_code = 1


class UserError(WardroundError):
    """Something the user gave is wrong.

    Args:
        where: the file (or option) that is wrong.
        problem: what was found and what was expected; never a patient's value.
        field: the dotted key in the file, where there is one.
        remedy: what to do about it.

    >>> print(UserError("site.toml", '"scans" is not a folder', field="data.images.path",
    ...                 remedy="Give the folder that holds the .dcm files."))
    site.toml: data.images.path: "scans" is not a folder.
      Give the folder that holds the .dcm files.
    """

    exit_code = 2

    def __init__(self, where: str | Path, problem: str, *, field: str = "", remedy: str = ""):
        self.where, self.problem, self.field, self.remedy = str(where), problem, field, remedy
        place = f"{where}: {field}: " if field else f"{where}: "
        text = place + problem.rstrip(".") + "."
        self.remedy = remedy
        super().__init__(f"{text}\n  {remedy}" if remedy else text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.where, self.problem, self.field, self.remedy)


def _rebuild(where: str, problem: str, field: str, remedy: str) -> UserError:
    return UserError(where, problem, field=field, remedy=remedy)


class NoUsableModel(WardroundError):
    """The run ended before any round could be aggregated."""

    exit_code = 3


class Refused(WardroundError):
    """A site's policy or budget does not allow what was asked."""

    exit_code = 4


class BudgetSpent(Refused):
    """What is left of the privacy budget of a site's patients does not allow what was asked."""
