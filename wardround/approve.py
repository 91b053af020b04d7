"""The commands by which a person at a hospital decides on a study, and reads what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

SITE = Annotated[Path, typer.Argument(help="A site's folder or site.toml.", show_default=False)]


def register(site: typer.Typer) -> None:
    """Add these commands to the group."""
    site.command()(approve)
    site.command()(log)


def approve(
    site: SITE,
    study: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Approve it no more, from the next message on.")
    ] = False,
) -> None:
    """Show what a study would do here, and record a person's approval of exactly that study."""
    from clients import approvals
    from clients.app import check_policy
    from clients.site import open_site
    from federation.errors import Refused
    from federation.study import load_study

    at, wanted = open_site(site), load_study(study)
    if withdraw:
        approvals.withdraw(wanted, at)
        print(f"{wanted.study.name}: approved no more at {at.name}")
        return
    print("\n".join(approvals.in_plain_words(wanted, at)))
    check_policy(wanted, at)
    if not yes and not typer.confirm(f"\nMay {at.name} take part?", default=False):
        raise Refused("Not approved; nothing was recorded.")
    approvals.approve(wanted, at)
    print(f"approved: {wanted.study.name} {wanted.fingerprint[:12]} at {at.name}")


def log(
    site: SITE,
    verify: Annotated[bool, typer.Option("--verify", help="Only check the chain.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show a site's audit log: what came in, what left, what was approved and refused."""
    from clients.approvals import audit_log
    from clients.site import open_site

    at = open_site(site)
    audit = audit_log(at)
    length, head = audit.verify()
    if as_json:
        entries = [] if verify else audit.entries()
        told = [
            {"number": e.number, "written": e.written.isoformat(), "event": e.event, **e.told}
            for e in entries
        ]
        print(json.dumps({"site": at.name, "lines": length, "head": head, "entries": told}))
        return
    if not length:
        print(f"{at.name}: no audit log yet; nothing has come in")
        return
    if not verify:
        for entry in audit.entries():
            fields = "  ".join(f"{name}={_short(value)}" for name, value in entry.told.items())
            print(f"{entry.number:>6}  {entry.written:%Y-%m-%d %H:%M:%S}Z  {entry.event}  {fields}")
    print(f"{at.name}: {length} lines, each follows from the one before it; head {head}")


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) > 60 else text
