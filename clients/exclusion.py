"""Patients treated at several hospitals, known by hashes under a key that the sites share.

The coordinator has neither the key nor a list. Each site hashes the identifiers of its patients
(`patient_hashes`), the sites compare their lists among themselves, and each leaves out whom they
agreed to leave out there.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.site import Site
from clients.sources.columns import Layout, no_nulls, read_rows
from clients.sources.parsing import read_words
from clients.sources.registry import site_events
from clients.sources.settings import ExcludeSection
from clients.sources.subjects import SubjectIds
from federation.errors import UserError

LEAST_KEY = 32
"""Hexadecimal digits."""


def shared_hash(identifier: str, key: bytes) -> str:
    """Return the HMAC-SHA256 of an identifier without surrounding blanks.

    >>> shared_hash(" 123 ", b"k" * 16) == shared_hash("123", b"k" * 16)
    True
    """
    return hmac.digest(key, identifier.strip().encode(), hashlib.sha256).hex()


def excluded_patients(
    section: ExcludeSection, folder: Path, subjects: SubjectIds, of: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which subjects are on the site's list.

    Args:
        section: ``[data.exclude]`` of the site file.
        folder: from which its paths count.
        subjects: knows the names behind the ids.
        of: (patients,) int64.

    Raises:
        UserError: if a file is missing or malformed.
    """
    hashes = _read_hashes(folder / section.hashes)
    name = _namer(section, folder, subjects)
    key = read_key(folder / section.key)
    return np.array([shared_hash(name(int(one)), key) in hashes for one in of], bool)


def patient_hashes(site: Site) -> list[str]:
    """Return the hashes of all patients who have events, in an order that tells nothing of them.

    Raises:
        UserError: if the site file has no ``[data.exclude]``, or a file cannot be read.
    """
    section, folder = site.settings.data.exclude, site.file.parent
    if section is None:
        raise UserError(
            site.file,
            "is missing; it names the key that the sites share",
            field="data.exclude",
            remedy='Give exclude = { hashes = "shared-patients.txt", key = "shared.key" }; the '
            "list may be empty at first.",
        )
    subjects = SubjectIds(site.patient_key)
    everyone: set[int] = set()
    for batch in site_events(site, subjects):
        everyone.update(pc.unique(batch["subject_id"]).to_pylist())
    name, key = _namer(section, folder, subjects), read_key(folder / section.key)
    return sorted({shared_hash(name(one), key) for one in everyone})


def read_key(file: Path) -> bytes:
    """Read the key that the sites share.

    Raises:
        UserError: if it is not at least 32 hexadecimal digits.
    """
    text = _text(file)
    if not re.fullmatch(rf"(?:[0-9a-fA-F]{{2}}){{{LEAST_KEY // 2},}}", text.strip()):
        raise UserError(
            file,
            f"expected at least {LEAST_KEY} hexadecimal digits",
            remedy="`openssl rand -hex 32` writes a key; it travels between the sites alone.",
        )
    return bytes.fromhex(text.strip())


def _read_hashes(file: Path) -> set[str]:
    found = set()
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        if not re.fullmatch(r"[0-9a-f]{64}", line.strip().lower()):
            raise UserError(
                file, "expected a hash of 64 hexadecimal digits", field=f"line {number}"
            )
        found.add(line.strip().lower())
    return found


def _namer(section: ExcludeSection, folder: Path, subjects: SubjectIds) -> Callable[[int], str]:
    if section.identifiers is None:
        return subjects.name_of
    file, found = folder / section.identifiers, dict[int, str]()
    for rows in read_rows(file, ["subject_id", "identifier"], Layout()):
        names = read_words(rows.columns["subject_id"], ("",))
        shared = read_words(rows.columns["identifier"], ("",))
        both = type(rows)(file, rows.first, {"subject_id": names, "identifier": shared})
        no_nulls(both, "subject_id", "patient")
        no_nulls(both, "identifier", "identifier")
        found.update(zip(subjects.of(names).to_pylist(), shared.to_pylist(), strict=True))

    def name(subject: int) -> str:
        if subject not in found:
            raise UserError(
                file,
                "a patient has no identifier here",
                remedy="Give one row for each patient, or their own unique text.",
            )
        return found[subject]

    return name


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except FileNotFoundError:
        raise UserError(file, "there is no such file") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(file, "cannot be read as plain text") from None
