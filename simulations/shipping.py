"""A site's folder for machines that do not reach it: what is sent, and what never is.

Sent are the site file, the events, images, notes and labels that it names, and the patient key,
which decides the splits. Nothing else of the state folder travels, so a ledger stays where it is.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from clients.site import Site, load_site
from clients.store import no_room
from federation.errors import UserError
from federation.validation import read_toml

SITE_FILE = "site.toml"
STATE = "state"


def sealed(file: str) -> str:
    """Return a site's fingerprint, after drawing its key if it has none: not each machine its own.

    Raises:
        UserError: if the site cannot be used.
    """
    load_site(Path(file)).patient_key()
    return fingerprint(file)


def fingerprint(file: str) -> str:
    """Return what tells a site's folder from another under the same path; empty if there is none.

    It covers the site file, the key, and names and sizes of tables: a copy without the key would
    split its patients in another way.
    """
    if not Path(file).exists():
        return ""
    try:
        site = load_site(Path(file))
        key = (site.state / "patient.key").read_bytes()
    except (UserError, OSError):
        return ""
    files = [
        file
        for file in sorted(site.events.rglob("*"))
        if file.is_file() and not file.is_relative_to(site.state)
    ]
    tables = [*site.label_files.values(), *files]
    sizes = [(os.path.relpath(table, site.events), table.stat().st_size) for table in tables]
    return hashlib.sha256(site.file.read_bytes() + key + repr(sizes).encode()).hexdigest()


def packed(file: str) -> NDArray[np.uint8]:
    """Return what a site trains on as the bytes of a tar file.

    Paths inside are the same for every site, whatever its own file calls them.

    Raises:
        UserError: if data lie, or a link leads, out of the site's folder, or into its state folder.
    """
    site = load_site(Path(file))
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        _add_text(archive, SITE_FILE, tomli_w.dumps(_as_sent(site)))
        _add_text(archive, f"{STATE}/patient.key", site.patient_key().hex())
        for field, name, source in _sources(site):
            _add(archive, site, field, name, source)
    return np.frombuffer(memory.getbuffer(), np.uint8)


def unpack(archive: NDArray[np.uint8], folder: Path) -> str:
    """Write a packed site's folder, unless it is there, and return its site file.

    The folder appears whole: another process of the machine may be about to read it.

    Raises:
        UserError: if the disk is full.
    """
    file = str(folder / SITE_FILE)
    if folder.exists():
        return file
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            with tarfile.open(fileobj=io.BytesIO(archive.data)) as tar:
                tar.extractall(draft, filter="data")
            try:
                draft.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise no_room(folder.parent, error) from None
    return file


def _sources(site: Site) -> list[tuple[str, str, Path]]:
    """List the site file's key, the name in the archive, and the place of all data."""
    found = [("data.events.path", "events", site.events)]
    if site.images is not None:
        found.append(("data.images.path", "images", site.images))
    if site.notes is not None:
        found.append(("data.notes.path", "notes", site.notes))
    for name, section in (
        ("images", site.settings.data.images),
        ("notes", site.settings.data.notes),
    ):
        for key in ("table", "identifiers"):
            file = getattr(section.link, key) if section is not None and section.link else None
            if file is not None:
                source = site.file.parent / file
                found.append((f"data.{name}.link.{key}", f"{name}-{key}.csv", source))
    exclude = site.settings.data.exclude
    for key in ("hashes", "key", "identifiers") if exclude is not None else ():
        if (file := getattr(exclude, key)) is not None:
            found.append((f"data.exclude.{key}", f"exclude-{key}", site.file.parent / file))
    for number, (field, labels) in enumerate(site.label_files.items()):
        found.append((field, f"labels{number or ''}{labels.suffix}", labels))
    return found


def _as_sent(site: Site) -> dict[str, Any]:
    document = read_toml(site.file)
    document["site"]["state"] = STATE
    for field, name, _ in _sources(site):
        *tables, key = field.split(".")
        table = document
        for part in tables:
            table = table[part]
        table[key] = name
    return document


def _add(archive: tarfile.TarFile, site: Site, field: str, name: str, source: Path) -> None:
    state, source = site.state.resolve(), source.resolve()

    def refusal(path: Path, what: str) -> UserError:
        return UserError(
            site.file,
            f"{path} {what}, which is all that is sent to machines that do not reach it",
            field=field,
            remedy="Put the data into the site's folder, beside its state folder; or put the "
            "folder where every machine of the cluster reaches it by the same path.",
        )

    if not source.is_relative_to(site.file.parent.resolve()) or source.is_relative_to(state):
        raise refusal(source, "lies outside the site's folder, or in its state")

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = source / Path(entry.name).relative_to(name)
        if path == state:
            return None
        if entry.issym():
            target = path.resolve()
            if not target.is_relative_to(source) or target.is_relative_to(state):
                raise refusal(path, "is a link out of the folder of these data")
            entry.linkname = os.path.relpath(target, path.parent)
        return entry

    archive.add(source, name, filter=chosen)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))
