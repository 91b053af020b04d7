"""The site file's header rules: which DICOM files are meant at all."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from clients.images.picture import UnreadableImage, View


def check_selected(header: Dataset, view: View) -> None:
    """Refuse a file that the site's rules do not mean.

    A rule is a tag's keyword with patterns (``*`` any text, ``?`` a character, case ignored); one
    of the tag's values must fit one of them, and under ``exclude`` none may. A tag that is
    missing has the value "".

    Raises:
        UnreadableImage: not selected.
    """
    wanted = all(_fits(header.get(tag), patterns) for tag, patterns in view.select.items())
    if not wanted or any(_fits(header.get(tag), texts) for tag, texts in view.exclude.items()):
        raise UnreadableImage("not selected by the site's rules")


def _fits(value: Any, patterns: Sequence[str]) -> bool:
    values = value if isinstance(value, (list, tuple, MultiValue)) else [value]
    texts = ["" if part is None else str(part).strip().lower() for part in values] or [""]
    return any(fnmatchcase(text, pattern.lower()) for text in texts for pattern in patterns)
