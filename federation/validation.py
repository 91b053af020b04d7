"""TOML files to validated models, with errors that name file, field and remedy."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError
from pydantic_core import ErrorDetails

from federation.errors import UserError


class Section(BaseModel):
    """A table of a study or site file: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


MOST_NAMES = 12
"""Sites that a message names."""

ModelT = TypeVar("ModelT", bound=BaseModel)
SectionT = TypeVar("SectionT", bound=Section)


def by_name(sections: Iterable[type[SectionT]], key: str) -> dict[str, type[SectionT]]:
    """Return sections by the name that each has by default under a key."""
    return {str(one.model_fields[key].default): one for one in sections}


def one_of(sections: Iterable[type[Section]], key: str, usual: str) -> Any:
    """Return the type of a table that is one of some sections.

    Args:
        sections: each with a name of its own by default under the key.
        key: tells them apart.
        usual: the name of a table that has none.
    """

    def named(given: Any) -> str:
        if isinstance(given, Mapping):
            return str(given.get(key, usual))
        return str(getattr(given, key, given))

    named.__name__ = f"_{key}"  # errors name it, and with it the key
    tagged = tuple(Annotated[one, Tag(name)] for name, one in by_name(sections, key).items())
    return Annotated[Union[tagged], Discriminator(named)]  # noqa: UP007


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
    field, known = _place(model, details["loc"])
    if details["type"] == "extra_forbidden":
        last = field.rpartition(".")[2]
        guess = nearest(last, known)
        remedy = f'Did you mean "{guess}"? ' if guess else ""
        return field, "unknown key", f"{remedy}Valid keys here: {', '.join(sorted(known))}."
    if details["type"] == "missing":
        return field, "missing; it has no default", ""
    given = details.get("input")
    context = details.get("ctx", {})
    if details["type"] == "union_tag_not_found":
        return f"{field}.{_key_of(context)}", "missing; it has no default", ""
    if details["type"] == "union_tag_invalid":
        expected = str(context["expected_tags"])
        field, given = f"{field}.{_key_of(context)}", context["tag"]
    elif details["type"] == "literal_error":
        expected = str(context.get("expected", ""))
    else:
        problem = details["msg"].removeprefix("Value error, ").rstrip(".")
        if isinstance(given, str | int | float | bool) and not problem.startswith('"'):
            problem = f'"{given}": {problem[0].lower()}{problem[1:]}'
        return field, problem, ""
    guess = nearest(str(given), re.findall("'([^']*)'", expected))
    hint = f'Did you mean "{guess}"?' if guess else ""
    return field, f'"{given}" is not one of {expected}', hint


def _key_of(context: Mapping[str, Any]) -> str:
    """Return the key that tells kinds of a table apart: in quotes, or as the function _key()."""
    return str(context["discriminator"]).strip("'_()")


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, set[str]]:
    """Return the dotted key of a location, and the valid keys of the table that holds it.

    A location also names which of several kinds of table was meant, which no file shows.
    """
    shown: list[str] = []
    known: set[str] = set()
    current: type[BaseModel] | None = model
    kinds: dict[str, Any] = {}
    named: Any = None
    """What stands under a name that the user gives."""
    for part in location:
        if part == "[key]":  # of a name that the user gives, which stands before it
            continue
        if part in kinds:
            current, kinds, named = _meant(kinds[str(part)])
            continue
        shown.append(str(part))
        fields = {} if current is None else current.model_fields
        if named is not None:
            known = set()
            current, kinds, named = _meant(named)
        elif str(part) in fields:
            known = set(fields)
            info = fields[str(part)]
            current, kinds, named = _meant(info.annotation, info.discriminator)
        elif current is not None and not isinstance(part, int):
            known = set(fields)  # an unknown key
    return ".".join(shown), known


def _meant(
    annotation: Any, discriminator: Any = None
) -> tuple[type[BaseModel] | None, dict[str, Any], Any]:
    """Return the table of a value, if there is one, its kinds by tag, and what its names hold."""
    if hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is dict:
        return None, {}, get_args(annotation)[1]
    tables = _tables(annotation)
    kinds = _kinds(annotation, discriminator, tables)
    return tables[0] if len(tables) == 1 else None, kinds, None


def _tables(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is dict:
        return []
    return [table for inner in get_args(annotation) for table in _tables(inner)]


def _kinds(
    annotation: Any, discriminator: Any, tables: Sequence[type[BaseModel]]
) -> dict[str, Any]:
    """Return what each tag of a union stands for."""
    if isinstance(discriminator, str):
        return {
            tag: table
            for table in tables
            for tag in get_args(table.model_fields[discriminator].annotation)
        }
    return {
        note.tag: inner
        for inner in get_args(annotation)
        for note in getattr(inner, "__metadata__", ())
        if isinstance(note, Tag)
    }


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
