"""A site's images from its PACS to its image folder, by DICOMweb (QIDO-RS and WADO-RS, PS3.18).

This is asked for by a person, before training; nothing else of Wardround opens a connection to a
PACS. Studies that are there already are not asked for again, so a pull that was cut off goes on.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom.datadict import tag_for_keyword
from requests.auth import HTTPBasicAuth

from clients.images.settings import PacsSection
from clients.site import Site
from federation.errors import UserError
from federation.validation import Section, read_toml, validate

UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
"""As a name of a folder it leads nowhere else. Source: DICOM PS3.5 9.1."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY_SYNTAX = (("application/dicom", "*"),)
"""As the PACS holds it: nothing is lost, and the PACS need not decode."""
SECONDS = (10, 120)
"""To connect, and between two packets."""
REPORT = "pulled.json"
PAGE = 200
"""Matches that are asked for at once."""

Failure = Literal["not sent by the PACS", "not the image that was asked for", "a UID that is none"]


class Credentials(Section):
    """The file that ``[data.images.pacs] credentials`` names."""

    user: str | None = None
    password: str | None = None
    token: str | None = None


@dataclass
class Pulled:
    """What came.

    Attributes:
        studies: that the query found.
        images: that were written.
        present: that were there already.
        failed: that did not come, by reason.
        missing: the instance UIDs of these; they stay at the site.
    """

    studies: int = 0
    images: int = 0
    present: int = 0
    failed: Counter[Failure] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)


def pull_images(site: Site, progress: Callable[[str], None]) -> Pulled:
    """Ask the site's PACS for the images of ``[data.images.pacs]``, and keep them.

    Each lies under the UIDs of its study, series and instance in the image folder. What failed is
    listed in the site's state folder.

    Args:
        site: with that section.
        progress: is told after each study.

    Raises:
        UserError: if there is no such section, or the PACS does not answer, or refuses.
    """
    images = site.settings.data.images
    if images is None or images.pacs is None or site.images is None:
        raise UserError(
            site.file,
            "there is no PACS to pull from",
            field="data.images.pacs",
            remedy='Give "url" and "query".',
        )
    client, pulled = _client(site, images.pacs), Pulled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        try:
            for study in _found(client.search_for_studies, images.pacs.query, "StudyInstanceUID"):
                if pulled.studies == images.pacs.most_studies:
                    progress(f"stopped at most_studies = {pulled.studies}")
                    break
                pulled.studies += 1
                _pull_study(client, study, images.pacs, site.images, pulled)
                progress(f"{pulled.studies} studies, {pulled.images} images")
        except requests.RequestException as error:
            raise _explained(site, error) from None
        finally:
            _write_report(site, pulled)
    return pulled


def _pull_study(
    client: DICOMwebClient, study: str, pacs: PacsSection, folder: Path, pulled: Pulled
) -> None:
    searched = client.search_for_series
    for series in _found(searched, pacs.series, "SeriesInstanceUID", study):
        instances = _found(client.search_for_instances, {}, "SOPInstanceUID", study, series)
        for instance in instances:
            if not all(UID.fullmatch(uid) for uid in (study, series, instance)):
                failed: Failure | None = "a UID that is none"
            else:
                target = folder / study / series / f"{instance}.dcm"
                if target.exists():
                    pulled.present += 1
                    continue
                failed = _pull(client, (study, series, instance), target)
            if failed is None:
                pulled.images += 1
            else:
                pulled.failed[failed] += 1
                pulled.missing.append(instance)


def _pull(client: DICOMwebClient, uids: tuple[str, str, str], target: Path) -> Failure | None:
    """Write one instance whole, or not at all; return why not."""
    try:
        image = client.retrieve_instance(*uids, media_types=ANY_SYNTAX)
        if str(image.get("SOPInstanceUID")) != uids[2]:
            return "not the image that was asked for"
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            image.save_as(draft, enforce_file_format=True)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except (requests.ConnectionError, OSError):
        raise
    except Exception:  # what was sent may be anything
        return "not sent by the PACS"
    return None


def _found(
    search: Callable[..., list[dict[str, Any]]],
    filters: Mapping[str, str],
    wanted: str,
    *within: str,
) -> Iterator[str]:
    """Yield the UIDs that a QIDO-RS search finds, however many pages it takes."""
    tag = f"{tag_for_keyword(wanted):08X}"
    offset = 0
    while True:
        asked = {"search_filters": dict(filters), "fields": [wanted], "offset": offset}
        found = search(*within, **asked, limit=PAGE)
        for match in found:
            for uid in match.get(tag, {}).get("Value", [])[:1]:
                yield str(uid)
        if len(found) < PAGE:
            return
        offset += len(found)


def _client(site: Site, pacs: PacsSection) -> DICOMwebClient:
    session = requests.Session()
    session.trust_env = False  # no password of ~/.netrc, no proxy that the site file does not name
    if pacs.certificate is not None:
        session.verify = str(_beside(site, "certificate", pacs.certificate))
    if pacs.credentials is not None:
        address = urlsplit(pacs.url)
        if address.scheme != "https" and address.hostname not in LOOPBACK:
            raise UserError(
                site.file,
                "credentials would be sent without encryption",
                field="data.images.pacs.url",
                remedy="Give an address that begins with https.",
            )
        _log_in(session, _beside(site, "credentials", pacs.credentials))
    client = DICOMwebClient(pacs.url, session=session, timeout=SECONDS)
    client.set_http_retry_params(retry=True, max_attempts=3, wait_exponential_multiplier=500)
    return client


def _log_in(session: requests.Session, file: Path) -> None:
    try:
        if os.stat(file).st_mode & 0o077:
            raise UserError(
                file,
                "others than its owner may read or write it",
                remedy="Run `chmod 600` on it; change the password if anybody may have seen it.",
            )
        given = validate(Credentials, read_toml(file), file)
    except OSError as error:
        raise UserError(file, f"cannot be read: {error.strerror}") from None
    if given.token is not None and given.user is None and given.password is None:
        session.headers["Authorization"] = f"Bearer {given.token}"
    elif given.token is None and given.user is not None and given.password is not None:
        session.auth = HTTPBasicAuth(given.user.encode(), given.password.encode())
    else:
        raise UserError(file, 'expected "user" and "password", or "token" alone')


def _beside(site: Site, field: str, name: str) -> Path:
    path = site.file.parent / name
    if not path.is_file():
        raise UserError(
            site.file,
            f'"{name}" is not a file (looked for {path})',
            field=f"data.images.pacs.{field}",
        )
    return path


def _explained(site: Site, error: requests.RequestException) -> UserError:
    """Say what went wrong in words of ours: the library's may quote addresses and queries."""
    problem, remedy = "the PACS does not answer", "Is it running, and reached from this machine?"
    if isinstance(error, requests.exceptions.SSLError):
        problem, remedy = "the PACS's certificate is not trusted", 'Give "certificate".'
    elif isinstance(error, requests.Timeout):
        problem, remedy = "the PACS takes too long to answer", "Narrow the query."
    elif error.response is not None:
        status = error.response.status_code
        problem, remedy = f"the PACS answers with HTTP status {status}", ""
        if status in (401, 403):
            remedy = 'Check "credentials", and what this user may do at the PACS.'
        elif status in (400, 404):
            remedy = 'Check "url" and "query": a DICOMweb root often ends in /dicom-web.'
    return UserError(site.file, problem, field="data.images.pacs", remedy=remedy)


def _write_report(site: Site, pulled: Pulled) -> None:
    site.state.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(site.state / REPORT, flags, 0o600), "w", encoding="utf-8") as file:
        told = {"studies": pulled.studies, "images": pulled.images, "present": pulled.present}
        json.dump(
            {**told, "failed": dict(pulled.failed), "missing": pulled.missing}, file, indent=1
        )
