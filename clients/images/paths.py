"""Which files of a data folder may be opened: none that lies elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from clients.images.picture import UnreadableImage


def inside(folder: Path, file: str) -> Path:
    """Return the path of a file that an event names.

    Raises:
        UnreadableImage: if it leads out of the folder, also by a link.
    """
    try:
        root, path = folder.resolve(), (folder / file).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL
        raise UnreadableImage("not a file name") from None
    if path == root:
        raise UnreadableImage("not a file name")
    if not path.is_relative_to(root):
        raise UnreadableImage("the path leads out of the data folder")
    return path


def files_below(folder: Path) -> Iterator[str]:
    """Yield the files below a folder, relative to it; folders that are links are not entered."""
    for path, _, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(path, name), folder)
