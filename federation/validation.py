"""TOML files to validated models, with errors that name file, field and remedy."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from federation.errors import UserError


class Section(BaseModel):
    """A table of a study or site file: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


MOST_NAMES = 12
"""Sites that a message names."""

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: if the file is missing, unreadable or not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a BOM
        if "\0" in text:  # UTF-16 without a BOM
            raise UnicodeError
        return tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(path, "there is no such file", remedy=_neighbours(path)) from None
    except IsADirectoryError:
        raise UserError(path, "this is a folder; a .toml file was expected") from None
    except UnicodeError:
        raise UserError(
            path, "not UTF-8 text", remedy="Save it with the encoding UTF-8 in your editor."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(path, f"not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}") from None


def validate(model: type[ModelT], data: Mapping[str, Any], where: str | Path) -> ModelT:
    """Check ``data`` against ``model``.

    Raises:
        UserError: naming ``where``, each wrong field and what was expected there.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first, *others = [_explain(model, details) for details in error.errors()]
        field, problem, remedy = first
        further = [f"{f}: {p}. {r}".rstrip() for f, p, r in others]
        raise UserError(
            where, problem, field=field, remedy="\n  ".join(filter(None, [remedy, *further]))
        ) from None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word most like ``word``, if any is near.

    >>> nearest("local_epoch", ["rounds", "local_epochs"])
    'local_epochs'
    """
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _explain(model: type[BaseModel], details: ErrorDetails) -> tuple[str, str, str]:
    location, table = _walked(model, details["loc"])
    field = ".".join(str(part) for part in location)
    if details["type"] == "extra_forbidden":
        known = set(table.model_fields) if table is not None else set()
        guess = nearest(str(location[-1]), known)
        remedy = f'Did you mean "{guess}"? ' if guess else ""
        return field, "unknown key", f"{remedy}Valid keys here: {', '.join(sorted(known))}."
    if details["type"] == "missing":
        return field, "missing; it has no default", ""
    if details["type"] == "union_tag_invalid":
        context = details.get("ctx", {})
        return f"{field}.name", *_unknown(context.get("tag"), str(context.get("expected_tags", "")))
    given = details.get("input")
    if details["type"] == "literal_error":
        return field, *_unknown(given, str(details.get("ctx", {}).get("expected", "")))
    problem = details["msg"].removeprefix("Value error, ").rstrip(".")
    if isinstance(given, str | int | float | bool) and not problem.startswith('"'):
        problem = f'"{given}": {problem[0].lower()}{problem[1:]}'
    return field, problem, ""


def _unknown(given: Any, expected: str) -> tuple[str, str]:
    guess = nearest(str(given), re.findall("'([^']*)'", expected))
    return f'"{given}" is not one of {expected}', f'Did you mean "{guess}"?' if guess else ""


def _walked(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[int | str], type[BaseModel] | None]:
    """Return a place as the file names it, and the table in which its last key stands.

    Pydantic puts the chosen kind of a table, which has several, into the place as well.
    """
    walked: list[int | str] = []
    table: type[BaseModel] | None = model
    inside: list[type[BaseModel]] = [model]
    for part in location:
        if len(inside) > 1:
            inside = [kind for kind in inside if _kind(kind) == part]
            continue
        walked.append(part)
        if isinstance(part, int):
            continue  # a place in a list of tables, which all have the same keys
        table = inside[0] if inside else None
        info = table.model_fields.get(part) if table is not None else None
        inside = [] if info is None else _tables(info.annotation)
    return walked, table


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """Return the tables that a value may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    options = getattr(annotation, "__args__", ())
    return [table for option in options for table in _tables(option)]


def _kind(table: type[BaseModel]) -> str:
    return str(table.model_fields["name"].default) if "name" in table.model_fields else ""


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either."
    others = sorted(p.name for p in path.parent.glob("*.toml"))
    return f"In {path.parent} there is: {', '.join(others)}." if others else ""


def listed(names: Sequence[str]) -> str:
    """Return names for a message; of many sites, the first.

    >>> listed([str(i) for i in range(15)])
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more'
    """
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"
