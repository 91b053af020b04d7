"""Findings on the site's own folder: the key under which patients are hashed, room, the device."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from clients.checks.finding import Finding, Topic
from clients.site import Site
from clients.workbench import choose_device
from federation.errors import UserError

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def state_findings(site: Site) -> Iterator[Finding]:
    """Report what keeps the site from writing, and who else could read its key."""
    try:
        site.patient_key()
    except UserError as error:
        yield blocked(error, "site")
    else:
        key = site.state / "patient.key"
        if key.stat().st_mode & OTHERS:
            yield Finding(
                "warning",
                "site",
                str(key),
                "others on this machine can read the key under which patients are hashed",
                f"chmod 600 {key}",
            )
        if site.state.stat().st_mode & OTHERS:
            yield Finding(
                "note",
                "site",
                str(site.state),
                "others on this machine can list the state folder",
                f"chmod 700 {site.state}",
            )
    if site.state.exists() and not os.access(site.state, os.W_OK):
        yield Finding(
            "blocker",
            "site",
            str(site.state),
            "cannot be written; the privacy ledger must be",
            "Give site.state a folder that the user who runs Wardround can write.",
        )
    try:
        choose_device(site)
    except UserError as error:
        yield blocked(error, "site")


def blocked(error: UserError, topic: Topic) -> Finding:
    """Return what a user must correct as a blocker."""
    place = f"{_short(error.where)}: {error.field}" if error.field else _short(error.where)
    return Finding("blocker", topic, place, error.problem, error.remedy or "Correct the file.")


def _short(where: str) -> str:
    """Return the last two parts of a path: enough to know it by."""
    parts = Path(where).parts
    return "/".join(parts[-2:]) if len(parts) > 2 else where
