"""What a site's prepared cohorts follow from: the content of its files, and the site file.

A file is read through once; after that its size, its times and its place on the disk tell that it
is the same, so that a prepared cohort is opened without reading the data again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from clients.site import Site
from clients.store import CohortStore
from federation.errors import UserError

FORM = 2
"""Raised when the same files come to give another cohort."""
CACHE = "cache"
KNOWN = "contents.json"
ROOM = "Make room on the disk of the site's state folder."


def site_store(site: Site) -> CohortStore:
    """Return the folder of a site's prepared cohorts as its files are now.

    Cohorts of what the files held before are removed: they are copies of patients' data.

    Raises:
        UserError: if a file cannot be read.
    """
    cache = site.state / CACHE
    folder = cache / content_of(site)
    if not folder.is_dir() and cache.is_dir():
        for other in cache.iterdir():
            if other.is_dir() and other.name != folder.name:
                shutil.rmtree(other, ignore_errors=True)
    return CohortStore(folder, ROOM)


def content_of(site: Site) -> str:
    """Return a hash of all that a site's cohorts follow from, but pixels.

    Raises:
        UserError: if a file cannot be read.
    """
    known = _known(site)
    now: dict[str, list[int | str]] = {}
    told = hashlib.sha256()
    told.update(f"{FORM} {version('wardround')} {site.settings.data!r}".encode())
    told.update(hashlib.sha256(site.patient_key()).digest())
    images = site.settings.data.images
    if images is not None and images.link is not None:  # then the files say who has one
        told.update(images_state(site).encode())
    for name, file in _files(site):
        try:
            stamp = _stamp(file)
            before = known.get(name, [])
            digest = before[-1] if before[:-1] == stamp else _digest(file)
        except OSError as error:
            raise UserError(file, f"cannot be read: {error.strerror}") from None
        now[name] = [*stamp, digest]
        told.update(f"{name}\n{digest}\n".encode())
    if now != known:
        _write_known(site, now)
    return told.hexdigest()[:40]


def images_state(site: Site) -> str:
    """Return a hash of the names, sizes and times of a site's images; their content is not read."""
    told = hashlib.sha256()
    if site.images is not None:
        for file in _below(site, site.images):
            with contextlib.suppress(OSError):
                told.update(f"{file.relative_to(site.images)} {_stamp(file)}\n".encode())
    return told.hexdigest()


def _files(site: Site) -> Iterator[tuple[str, Path]]:
    """Yield each file that is read, by a name that does not change with the folder's place."""
    for file in _below(site, site.events):
        yield f"events/{file.relative_to(site.events)}", file
    for key, file in site.label_files.items():
        yield key, file
    if site.notes is not None:
        for file in _below(site, site.notes):
            yield f"notes/{file.relative_to(site.notes)}", file
    for path in _named(site):
        yield f"named/{path}", site.file.parent / path


def _named(site: Site) -> Iterator[str]:
    """Yield the single files that the site file names beside the folders."""
    data = site.settings.data
    for section in (data.images, data.notes):
        if section is not None and section.link is not None:
            yield from filter(None, (section.link.table, section.link.identifiers))
    if data.exclude is not None:
        yield data.exclude.hashes
        yield data.exclude.key
        if data.exclude.identifiers is not None:
            yield data.exclude.identifiers


def _below(site: Site, folder: Path) -> list[Path]:
    """Return the files of a folder, without the state and the images where they lie in it."""
    others = [site.state, *filter(None, (site.images, site.notes))]
    apart = [other for other in others if other != folder]
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(file.is_relative_to(other) for other in apart)
    ]


def _stamp(file: Path) -> list[int]:
    found = file.stat()
    # The time of the last change of the inode cannot be set back by a copying program.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _known(site: Site) -> Mapping[str, list[int | str]]:
    try:
        found = json.loads((site.state / CACHE / KNOWN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_known(site: Site, known: Mapping[str, list[int | str]]) -> None:
    """Write the file at once: another process may be reading it."""
    folder = site.state / CACHE
    with contextlib.suppress(OSError):  # it only saves time; what cannot be kept is said later
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(known, opened)
        os.replace(draft, folder / KNOWN)
